"""Where the programs are that a minigrid runs. `hack/setup` makes sure that they exist."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gridlib.layout import GridError
from zos.programs import guestbuild

#: With an older one the API server has no WatchList, and a watch that begins with the present state may fail
#: (k8s.io/apiserver, pkg/storage/feature: what it asks of etcd for RequestWatchProgress).
ETCD = (3, 5, 13)

_HACK = Path(__file__).resolve().parents[1]
#: What says which version hack/setup builds: a folder with a go.mod, a module of it; and how its place in the cache is called.
_MODULES = {
    "etcd": ("etcd", "go.etcd.io/etcd/server/v3", "etcd"),
    "wireguard-go": ("wireguard-go", "golang.zx2c4.com/wireguard", "wireguard-go"),
    "containerd": ("containerd", "github.com/containerd/containerd/v2", "containerd"),
}
#: What comes ready-made, and what says of which version.
_CLIENTS = ("kubectl", "helm")
_CLIENTS_LOCK = _HACK / "kubernetes" / "clients.txt"
_KUBERNETES = ("controlplane", "k8s.io/kubernetes", "kubernetes")


@dataclass(frozen=True)
class Tools:
    checkout: Path
    python: str
    etcd: str
    apiserver: str
    controller_manager: str
    kubectl: str
    wireguard_go: str
    guest: Path

    def program(self, name: str, kinds: Sequence[str]) -> str:
        """Lines of a shell that become the agent or the controller, with ``kinds`` beside the product's own."""
        path = [f"{self.checkout}/operator"]
        command = f"-m zos.{name}"
        if kinds:
            path += [f"{self.checkout}/hack", f"{self.checkout}/tests", *filter(None, [os.environ.get("PYTHONPATH", "")])]
            command = f"-m gridlib.kinds {name} {','.join(kinds)}"
        return f"export PYTHONPATH={':'.join(path)} PYTHONDONTWRITEBYTECODE=1\nexec {self.python} {command}"

    @classmethod
    def find(cls) -> Tools:
        """From KUBEBUILDER_ASSETS, PATH or the cache. Raises GridError for what is missing."""
        guest = guestbuild.made(_cache() / "guest")
        if guest is None:
            raise GridError("no guest kernel and initramfs: run hack/setup first")
        return cls(
            checkout=Path(__file__).resolve().parents[2],
            python=sys.executable,
            etcd=etcd(),
            apiserver=program("kube-apiserver"),
            controller_manager=program("kube-controller-manager"),
            kubectl=program("kubectl"),
            wireguard_go=program("wireguard-go"),
            guest=guest,
        )


@dataclass(frozen=True)
class KubeletTools:
    """What a node with a kubelet runs beside that, and what brings the product there."""

    kubelet: str
    containerd: Path  # a folder: with its shim and ctr
    helm: str
    pause: Path  # an archive

    @classmethod
    def find(cls) -> KubeletTools:
        """Raises GridError for what is missing."""
        try:
            pause = _cache() / "pause" / f"{_pause_key()}.tar"
            if not pause.exists():
                raise GridError("no pause image")
            return cls(program("kubelet"), Path(program("containerd")).parent, program("helm"), pause)
        except GridError as error:
            raise GridError(f"{str(error).partition(':')[0]}: run hack/setup --kubernetes first") from None


def _pause_key() -> str:
    """As hack/setup has it."""
    content = (_HACK / "kubernetes" / "pause.py").read_bytes() + Path("/bin/busybox").read_bytes()
    return hashlib.sha256(content).hexdigest()[:12]


def etcd() -> str:
    """From KUBEBUILDER_ASSETS, PATH or the cache: the first that is new enough. Raises GridError if there is none."""
    for place in (os.environ.get("KUBEBUILDER_ASSETS", ""), *os.get_exec_path(), str(_built("etcd").parent)):
        found = shutil.which("etcd", path=place) if place else None
        if found and _etcd_version(found) >= ETCD:
            return found
    raise GridError(f"no etcd from {'.'.join(map(str, ETCD))} on: run hack/setup first")


def _etcd_version(program: str) -> tuple[int, ...]:
    said = subprocess.run([program, "--version"], capture_output=True, text=True).stdout
    found = re.search(r"^etcd Version: (\d+)\.(\d+)\.(\d+)", said, re.MULTILINE)
    return tuple(map(int, found.groups())) if found else ()


def program(name: str) -> str:
    """From KUBEBUILDER_ASSETS, the cache or PATH. Raises GridError if it is nowhere."""
    for place in (os.environ.get("KUBEBUILDER_ASSETS", ""), str(_built(name).parent), os.environ.get("PATH", "")):
        if place and (found := shutil.which(name, path=place)):
            return found
    raise GridError(f"{name} is missing: run hack/setup first")


def _built(name: str) -> Path:
    """Where hack/setup puts what it builds for this checkout. Checkouts share the cache: which of several versions was made
    last says nothing."""
    place = "clients" if name in _CLIENTS else _MODULES.get(name, _KUBERNETES)[2]
    return _cache() / "bin" / f"{place}-{version(name)}" / name


def version(name: str) -> str:
    """The one that is built, or fetched."""
    if name in _CLIENTS:
        locked = re.search(r"^[^#]\S*==(\S+) ", _CLIENTS_LOCK.read_text(), re.MULTILINE)
        assert locked is not None, f"{_CLIENTS_LOCK} names no version"
        return locked[1]
    folder, module, _ = _MODULES.get(name, _KUBERNETES)
    required = (_HACK / folder / "go.mod").read_text()
    found = re.search(rf"^require {re.escape(module)} (\S+)$", required, re.MULTILINE)
    assert found is not None, f"hack/{folder}/go.mod has no line that requires {module}"
    return found[1]


def _cache() -> Path:
    return Path(os.environ.get("ZOS_CACHE") or Path.home() / ".cache" / "zos")
