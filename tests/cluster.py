"""A minigrid whose nodes have kubelets, as tests use it."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gridlib import chart
from gridlib.archives import load_images
from gridlib.host import IMAGES
from gridlib.kubelet import KubeletHost
from gridlib.layout import load
from gridlib.tools import KubeletTools, program
from harness import Grid, sh, until

#: How the pods of a part of the chart's values are labelled, where not as that.
_COMPONENT = {"node": "agent"}
PAUSE = "localhost/pause:1"


@dataclass
class Cluster(Grid):
    def kubelet_host(self, node: str) -> KubeletHost:
        grid = load(self.name)
        assert grid is not None
        return KubeletHost(grid, next(known for known in grid.nodes if known.name == node), KubeletTools.find())

    def pods(self, namespace: str, labels: str = "") -> dict[str, dict[str, Any]]:
        """Node → its pod, of those that are not on their way out."""
        found = self.ask(f"/api/v1/namespaces/{namespace}/pods?labelSelector={labels}") or {"items": []}
        return {pod["spec"].get("nodeName", ""): pod for pod in found["items"] if "deletionTimestamp" not in pod["metadata"]}

    def node_ready(self, name: str) -> str:
        """What the Ready condition of a Node says: True, False or Unknown."""
        node = self.ask(f"/api/v1/nodes/{name}") or {}
        found = [c["status"] for c in node.get("status", {}).get("conditions", []) if c["type"] == "Ready"]
        return found[0] if found else "Unknown"

    def service_returns(self, host: str, service: str, old: int, seconds: float = 20) -> int:
        """Waits until another process than ``old`` is supervised; gives it."""
        return until(
            lambda: (pid := self.service_pid(host, service)) > 0 and pid != old and pid, seconds, f"{service} on {host}"
        )

    def run_everywhere(self, namespace: str, name: str, **container: Any) -> None:
        """A DaemonSet of one container that sees its node's processes and may do everything; waits until it runs."""
        body = {
            "apiVersion": "apps/v1",
            "kind": "DaemonSet",
            "metadata": {"name": name},
            "spec": {
                "selector": {"matchLabels": {"app": name}},
                "template": {
                    "metadata": {"labels": {"app": name}},
                    "spec": {
                        "hostPID": True,
                        "terminationGracePeriodSeconds": 1,
                        "containers": [
                            {
                                "name": "main",
                                "image": PAUSE,
                                "imagePullPolicy": "Never",
                                "securityContext": {"privileged": True},
                                **container,
                            }
                        ],
                    },
                },
            },
        }
        self.kubectl("apply", "-n", namespace, "-f", "-", input=json.dumps(body))
        self.kubectl("rollout", "status", f"daemonset/{name}", "-n", namespace, "--timeout=60s")

    def describe(self) -> str:
        """Nodes, pods and events; then what a grid shows."""
        lines = [
            self.kubectl("get", "nodes,pods", "-A", "-o", "wide", check=False),
            self.kubectl("get", "events", "-A", "--sort-by=.lastTimestamp", check=False)[-4000:],
        ]
        for log in sorted(self.root.glob("hosts/*/log/kubelet/current")):
            complaints = [line[:400] for line in log.read_text(errors="replace").splitlines() if " E1" in line or " E0" in line]
            lines += [f"--- {log.parent.parent.parent.name} kubelet", *complaints[-6:]]
        return "\n".join([*lines, super().describe()])[-30000:]

    def left(self) -> list[str]:
        """What there still is of it on this machine, in words."""
        groups = [
            str(path) for pattern in ("*", "*/*") for path in Path("/sys/fs/cgroup").glob(pattern) if self._mine(path.name)
        ]
        namespaces = [str(path) for path in Path("/run/netns").glob("*") if self._mine(path.name)]
        mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f"/{self.name}/" in line]
        return groups + namespaces + mounts + ([str(self.root)] if self.root.exists() else [])

    def _mine(self, name: str) -> bool:
        return name.startswith(f"mg-{self.name}-")


@dataclass
class Product(Cluster):
    """A cluster with the product on it. Commands on a node are run where its guests are, in the node's tree."""

    @property
    def below(self) -> Cluster:
        """The same cluster: commands on a node are run on its host."""
        return Cluster(self.name)

    def run(self, host: str, *argv: str, check: bool = True, timeout: float = 120) -> str:
        return super().run(host, *self._where_guests_are(host), *argv, check=check, timeout=timeout)

    def popen(self, host: str, *argv: str) -> subprocess.Popen[str]:
        return super().popen(host, *self._where_guests_are(host), *argv)

    def _where_guests_are(self, host: str) -> tuple[str, ...]:
        first = self._first(host)
        return ("nsenter", "-t", first, "-m", "--root", "--wd=/") if first else ()

    def _first(self, host: str) -> str:
        """The first process of the node's tree, as its host sees it; empty on a host that has none."""
        path = self.root / "hosts" / host / "zos/runtime/first"
        return path.read_text().split()[0] if path.exists() else ""

    def in_router(self, host: str, router: str, *argv: str, check: bool = True) -> str:
        network = f"/proc/{self._first(host)}/root/run/netns/{router}"
        return super().run(host, "nsenter", f"--net={network}", *argv, check=check)

    @property
    def shelf(self) -> tuple[Path, Path]:
        return self.root / "images", Path(IMAGES)

    def run_on_host(self, host: str, *argv: str, check: bool = True) -> str:
        return super().run(host, *argv, check=check)

    def install(self, images: Path | None = None) -> None:
        """As a user does; waits until everything is Ready. Without ``images``, with those and the values that it had before."""
        if images is not None:
            self.minigrid("up", "--images", str(images), timeout=400)
            return
        values = ("-f", str(self.root / "values.json"))
        self.helm("install", "zos", str(chart.CHART), "-n", chart.NAMESPACE, *values, "--wait", "--timeout=120s")

    def load(self, images: Path) -> dict[str, dict[str, str]]:
        """Brings these into the nodes, and gives how values name them."""
        grid = load(self.name)
        assert grid is not None
        return chart.named(load_images(grid, sorted(images.glob("*.tar"))))

    def upgrade(self, change: dict[str, Any]) -> None:
        """One value is another, and stays so for later upgrades."""
        path = self.root / "values.json"
        told = json.loads(path.read_text())
        for part, values in change.items():
            told[part] = {**told.get(part, {}), **values}
        path.write_text(json.dumps(told))
        self.helm("upgrade", "zos", str(chart.CHART), "-n", chart.NAMESPACE, "-f", str(path), "--wait", "--timeout=180s")

    def helm(self, *words: str) -> str:
        grid = load(self.name)
        assert grid is not None
        return chart.helm(grid, *words)

    def pods_of(self, part: str) -> dict[str, dict[str, Any]]:
        """Of a part of the chart's values (node, runtime, controller), by node."""
        return self.pods(chart.NAMESPACE, _labels(part))

    def uids_of(self, part: str) -> set[str]:
        """Of all its pods, wherever they are."""
        return {pod["metadata"]["uid"] for pod in self._living(part)}

    def image_of(self, part: str) -> str:
        """All its pods have to have the same."""
        (found,) = {pod["spec"]["containers"][0]["image"] for pod in self._living(part)}
        return str(found)

    def _living(self, part: str) -> list[dict[str, Any]]:
        found = self.ask(f"/api/v1/namespaces/{chart.NAMESPACE}/pods?labelSelector={_labels(part)}") or {"items": []}
        return [pod for pod in found["items"] if "deletionTimestamp" not in pod["metadata"]]

    def rolled_out(self) -> bool:
        """Whether every pod of the product is Ready."""
        found = self.ask(f"/api/v1/namespaces/{chart.NAMESPACE}/pods") or {"items": []}
        return all(
            any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", ()))
            for pod in found["items"]
            if pod["status"].get("phase") != "Succeeded"
        )

    def as_token(self, token: str, *words: str) -> str:
        """What kubectl says to who has this token and nothing else."""
        config = json.loads((self.root / "kubeconfig").read_text())
        config["users"][0]["user"] = {"token": token}
        path = self.root / "stolen.kubeconfig"
        path.write_text(json.dumps(config))
        return sh(program("kubectl"), "--kubeconfig", str(path), *words, check=False)


def _labels(part: str) -> str:
    return f"app.kubernetes.io/component={_COMPONENT.get(part, part)}"
