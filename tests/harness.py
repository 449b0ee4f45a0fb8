"""What end-to-end tests do: a minigrid through its own command, kubectl, commands on its hosts, waiting."""

from __future__ import annotations

import base64
import json
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gridkinds import GRID
from gridlib.kinds import with_kinds
from gridlib.layout import load
from zos.api.core import Lease, Namespace, Secret
from zos.api.meta import Object
from zos.kinds.kind import Kinds, Writer
from zos.kube.client import path_of

CHECKOUT = Path(__file__).parent.parent
REGISTRY = "198.51.100.2:5000"
#: busybox with a small web server, in the grid's own registry.
IMAGE = f"oci://{REGISTRY}/zos/hello:latest"
_MODELS = {name: model for model in (*GRID.models, Lease, Namespace, Secret) for name in (model.KIND.lower(), model.PLURAL)}


def _model(kind: str) -> type[Object]:
    return _MODELS[kind.lower()]


def sh(*argv: str, check: bool = True, input: str | None = None, timeout: float = 120) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, input=input, timeout=timeout)
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(argv)}\n{done.stdout}\n{done.stderr}")
    return done.stdout + ("" if check else done.stderr)


def until(condition: Callable[[], Any], seconds: float, what: str = "") -> Any:
    """The first true answer; gives up after ``seconds``. An AssertionError in ``condition`` is a no."""
    deadline = time.monotonic() + seconds
    last: Any = None
    while True:
        try:
            last = condition()
        except AssertionError as error:
            last = error
        else:
            if last:
                return last
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what or condition} ({last})")
        time.sleep(0.1)


@dataclass
class Grid:
    name: str

    @property
    def root(self) -> Path:
        return Path("/var/lib/zos-minigrid") / self.name

    @property
    def kinds(self) -> Kinds:
        """Those that it was made with."""
        grid = load(self.name)
        assert grid is not None
        return with_kinds(grid.kinds)

    def minigrid(self, verb: str, *words: str, check: bool = True, timeout: float = 300) -> str:
        return sh(str(CHECKOUT / "hack/minigrid"), verb, "--name", self.name, *words, check=check, timeout=timeout)

    def host(self, name: str) -> Any:
        from gridlib.host import Host

        grid = load(self.name)
        assert grid is not None
        return Host(grid, name)

    def run(self, host: str, *argv: str, check: bool = True, timeout: float = 120) -> str:
        """A command on a host; without ``check`` whatever it said, errors too."""
        return sh(*self.host(host).command(*argv), check=check, timeout=timeout)

    def popen(self, host: str, *argv: str) -> subprocess.Popen[str]:
        return subprocess.Popen(self.host(host).command(*argv), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def in_router(self, host: str, router: str, *argv: str, check: bool = True) -> str:
        """A command of this machine's, in the network of a router on a host."""
        return self.run(host, "nsenter", f"--net=/run/netns/{router}", *argv, check=check)

    @property
    def shelf(self) -> tuple[Path, Path]:
        """The directory that nodes open for images: where it is here, and what its nodes call it."""
        return self.root / "images", self.root / "images"

    def kubectl(self, *words: str, check: bool = True, input: str | None = None, timeout: float = 120) -> str:
        from gridlib.tools import program

        return sh(
            program("kubectl"), "--kubeconfig", str(self.root / "kubeconfig"), *words, check=check, input=input, timeout=timeout
        )

    def apply(self, namespace: str, *objects: dict[str, Any]) -> None:
        items = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self.kubectl("apply", "-n", namespace, "-f", "-", input=json.dumps(items))

    def refused(self, namespace: str, obj: dict[str, Any]) -> str:
        """What the API server says to an object that it must not take."""
        try:
            taken = self.kubectl("apply", "-n", namespace, "-f", "-", input=json.dumps(obj))
        except AssertionError as refusal:
            return str(refusal)
        raise AssertionError(f"it was taken: {taken}")

    def _administrator(self) -> tuple[dict[str, str], str]:
        """The kubeconfig's cluster, and the token that goes with it."""
        config = json.loads((self.root / "kubeconfig").read_text())
        return config["clusters"][0]["cluster"], config["users"][0]["user"]["token"]

    @property
    def url(self) -> str:
        """Of its API server."""
        return self._administrator()[0]["server"]

    @property
    def token(self) -> str:
        """The administrator's."""
        return self._administrator()[1]

    def ask(self, path: str) -> dict[str, Any] | None:
        """What the API server has at a path; None: nothing. (Tests look many times a second, and kubectl takes a fifth of a
        second of a processor each time.)"""
        cluster, token = self._administrator()
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        request = urllib.request.Request(cluster["server"] + path, headers={"Authorization": f"Bearer {token}"})
        try:
            context = ssl.create_default_context(cadata=authority)
            with urllib.request.urlopen(request, context=context, timeout=30) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise AssertionError(f"{path}: {error.code} {error.read().decode(errors='replace')}") from None
        except OSError as error:
            raise AssertionError(f"{path}: {error}") from None

    def get(self, kind: str, name: str, namespace: str = "") -> dict[str, Any] | None:
        return self.ask(path_of(_model(kind), namespace, name))

    def items(self, kinds: str, namespace: str = "") -> list[dict[str, Any]]:
        """``kinds`` with commas between; without a namespace those of all."""
        found: list[dict[str, Any]] = []
        for kind in kinds.split(","):
            answer = self.ask(path_of(_model(kind), namespace))
            assert answer is not None, f"the API server does not serve {kind}"
            # Lists do not say of each item what it is.
            found += [{"kind": _model(kind).KIND, **item} for item in answer["items"]]
        return found

    def condition(self, kind: str, name: str, namespace: str, type: str = "Ready") -> dict[str, Any]:
        obj = self.get(kind, name, namespace) or {}
        found = [c for c in obj.get("status", {}).get("conditions", []) if c["type"] == type]
        return found[0] if found else {"status": "Unknown", "reason": "", "message": ""}

    def ready(self, namespace: str, *what: str, seconds: float = 180) -> None:
        """``what``: kind/name. Waits as a user would, with kubectl wait."""
        try:
            # One limit for all of them together.
            self.kubectl("wait", *what, "-n", namespace, "--for=condition=Ready", f"--timeout={seconds}s", timeout=seconds + 10)
        except AssertionError as error:
            shown = self.kubectl("get", *what, "-n", namespace, "-o", "yaml", check=False)
            raise AssertionError(f"{error}\n{shown}") from None

    def says(self, namespace: str, kind: str, name: str, words: str, reason: str = "", seconds: float = 60) -> dict[str, Any]:
        """Waits until the Ready condition is not True and its message has ``words``."""

        def look() -> dict[str, Any] | None:
            condition = self.condition(kind, name, namespace)
            said = condition["status"] != "True" and words in condition["message"]
            return condition if said and (not reason or condition["reason"] == reason) else None

        try:
            return until(look, seconds)
        except AssertionError:
            raise AssertionError(f"{kind} {name} says {self.condition(kind, name, namespace)}, not {words!r}") from None

    def clean(self, namespace: str, seconds: float = 120) -> None:
        """Empties a namespace and deletes it. (The other way round works too, but Kubernetes looks only every few seconds
        whether a namespace has become empty.) The empty namespace goes by itself, soon."""
        kinds = ",".join(model.PLURAL for model in self.kinds.written_by(Writer.TENANT))
        self.kubectl("delete", kinds, "--all", "-n", namespace, f"--timeout={seconds}s", timeout=seconds + 10)
        self.kubectl("delete", "namespace", namespace, "--wait=false", "--ignore-not-found")

    def describe(self) -> str:
        """Every object with what its Ready condition says; of agents and controllers the last complaints and the last words."""
        lines: list[str] = []
        try:
            kinds = [model.PLURAL for model in self.kinds.models if "status" in model.model_fields]
            for item in self.items(",".join(kinds)):
                name = "/".join(filter(None, (item["metadata"].get("namespace"), item["metadata"]["name"])))
                ready = [c for c in item.get("status", {}).get("conditions", []) if c["type"] == "Ready"]
                said = f"{ready[0]['status']} {ready[0]['reason']}: {ready[0]['message']}" if ready else "nothing said"
                leaving = " (being deleted)" if "deletionTimestamp" in item["metadata"] else ""
                lines.append(f"{item['kind']} {name}{leaving}: {said}")
        except (AssertionError, OSError, ValueError) as error:
            lines.append(f"the API server: {error}")
        for log in sorted(self.root.glob("hosts/*/log/*/current")):
            if log.parent.name.startswith(("agent", "controller-1", "controller-2")):
                told = log.read_text(errors="replace").splitlines()
                complaints = [line[:600] for line in told if '"level": "info"' not in line]
                lines += [f"--- {log.parent.parent.parent.name} {log.parent.name}", *complaints[-6:]]
                lines += ["... and last:", *(line[:300] for line in told[-8:])]
        return "\n".join(lines)[-20000:]

    def connect(self, namespace: str, network: str = "private", interface: str = "wg0") -> None:
        """The laptop takes the file from its Secret, as a user would."""
        secret = self.get("secret", f"{network}-laptop-wireguard", namespace)
        assert secret is not None
        text = base64.b64decode(secret["data"]["wg0.conf"]).decode()
        sh(str(CHECKOUT / "hack/laptop"), "--name", self.name, "--as", interface, input=text)

    def push_image(self) -> None:
        """The example image, in the grid's registry."""
        sh(str(CHECKOUT / "hack/images/push"), "--name", self.name, timeout=120)

    def service_pid(self, host: str, service: str) -> int:
        """As the host sees it."""
        said = self.run(host, "s6-svstat", "-o", "pid", f"/run/service/{service}")
        return int(said)

    def kill(self, host: str, service: str) -> int:
        """kill -9 of a supervised service; gives the pid that died. One that has just died is not killed twice."""

        def kill() -> int | None:
            pid = self.service_pid(host, service)
            return pid if pid > 0 and not self.run(host, "kill", "-9", str(pid), check=False) else None

        return int(until(kill, 10, f"{service} of {host} runs"))


def obj(kind: str, name: str, **spec: Any) -> dict[str, Any]:
    return {"apiVersion": "zos.grid.tf/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}
