"""A node of a minigrid that is one of Kubernetes: containerd and a kubelet on a host of its own. The product comes in pods."""

from __future__ import annotations

import json
from pathlib import Path

from gridlib import claimed
from gridlib.controlplane import ControlPlane
from gridlib.host import Host, Service
from gridlib.layout import CONTROL_PLANE, DOMAIN, REGISTRY_PORT, Grid, Node
from gridlib.tools import KubeletTools

#: Says that a Node is one of the grid. A kubelet can't set it on itself.
LABEL = "zos.grid.tf.node-restriction.kubernetes.io/node"
#: Where other nodes reach it: addresses with commas between.
ENDPOINT = "zos.grid.tf/endpoint"
SOCKET = "/run/containerd/containerd.sock"

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def manifest(node: Node) -> dict[str, object]:
    """What the administrator says of its Node."""
    told = {} if node.hidden else {ENDPOINT: f"{node.ipv4},{node.ipv6}"}
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node.name, "labels": {LABEL: "true"}, "annotations": told}}


class KubeletHost:
    def __init__(self, grid: Grid, node: Node, tools: KubeletTools) -> None:
        self.grid = grid
        self.node = node
        self.tools = tools
        self.host = Host(grid, node.name)
        self.files = grid.directory(node.name) / "etc"

    def start(self, control_plane: ControlPlane) -> None:
        """Does nothing if it runs."""
        for path, text in self._configuration(control_plane).items():
            if path.exists() and path.read_text() == text:
                continue  # containerd watches it, and would read half of it
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
            path.write_text(text)
        self.host.services(self._services())
        self.host.start("".join(f"{node.ipv4} {node.name}\n" for node in self.grid.nodes))

    def containerd(self, *words: str) -> list[str]:
        """A command line of ctr, for what the kubelet has."""
        return self.host.command(str(self.tools.containerd / "ctr"), "--address", SOCKET, "--namespace", "k8s.io", *words)

    def _configuration(self, control_plane: ControlPlane) -> dict[Path, str]:
        registry = f"http://{CONTROL_PLANE}:{REGISTRY_PORT}"
        mirror = f'server = "{registry}"\n[host."{registry}"]\n  capabilities = ["pull", "resolve"]\n'
        names = (f"{CONTROL_PLANE}:{REGISTRY_PORT}", f"registry.{DOMAIN}:{REGISTRY_PORT}", f"registry.{DOMAIN}")
        return {
            self.files / "kubeconfig": control_plane.kubelet_config(self.node),
            self.files / "kubelet.json": json.dumps(self._kubelet(control_plane.kubelet_client), indent=2),
            self.files / "containerd.toml": self._containerd(),
            self.files / "cni" / "10-pods.conflist": json.dumps(self._network(), indent=2),
            **{self.files / "registries" / name / "hosts.toml": mirror for name in names},
            **claimed.files(self.files / "claimed"),
        }

    def _kubelet(self, clients: Path) -> dict[str, object]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(clients)},
            },
            "authorization": {"mode": "Webhook"},
            "containerRuntimeEndpoint": f"unix://{SOCKET}",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self.host.group}",
            "failCgroupV1": False,
            "failSwapOn": False,
            "oomScoreAdj": 0,  # less is not everywhere ours to have
            "makeIPTablesUtilChains": False,
            "localStorageCapacityIsolation": False,
            "evictionHard": {},
            # Nobody could pull again what was brought by hand, not even to show that he may.
            "imageGCHighThresholdPercent": 100,
            "imagePullCredentialsVerificationPolicy": "NeverVerify",
            "volumePluginDir": "/var/lib/kubelet/plugins-exec",
            "readOnlyPort": 0,
            "nodeStatusUpdateFrequency": "2s",
            "nodeLeaseDurationSeconds": 8,
        }

    def _containerd(self) -> str:
        return f"""version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
  address = "{SOCKET}"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "localhost/pause:1"
[plugins.'io.containerd.cri.v1.images'.registry]
  config_path = "{self.files}/registries"
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ["/usr/lib/cni"]
  conf_dir = "{self.files}/cni"
"""

    def _network(self) -> dict[str, object]:
        """A pod has a cable to its node, which routes."""
        addresses = {
            "type": "host-local",
            "dataDir": "/var/lib/cni/networks",
            "ranges": [[{"subnet": str(self.node.pods)}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        }
        return {"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "ptp", "ipam": addresses}]}

    def _services(self) -> list[Service]:
        kubelet = (
            f"{self.tools.kubelet} --config {self.files}/kubelet.json --kubeconfig {self.files}/kubeconfig "
            f"--hostname-override={self.node.name} --node-ip={self.node.ipv4} --root-dir=/var/lib/kubelet"
        )
        return [
            Service(
                "containerd",
                f"export PATH={self.tools.containerd}:{_PATH}\nexec containerd --config {self.files}/containerd.toml",
            ),
            Service(
                "kubelet",
                f"export PATH={_PATH}\n"
                f"while [ ! -S {SOCKET} ]; do sleep 0.05; done\n{claimed.command(self.files / 'claimed', kubelet)}",
            ),
        ]
