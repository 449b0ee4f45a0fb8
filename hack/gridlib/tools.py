"""Where the programs are that a minigrid runs. `hack/setup` makes sure that they exist."""

from __future__ import annotations

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
        cache = _cache()
        guest = guestbuild.made(cache / "guest")
        if guest is None:
            raise GridError("no guest kernel and initramfs: run hack/setup first")
        return cls(
            checkout=Path(__file__).resolve().parents[2],
            python=sys.executable,
            etcd=etcd(),
            apiserver=_program("kube-apiserver", cache),
            controller_manager=_program("kube-controller-manager", cache),
            kubectl=_program("kubectl", cache),
            wireguard_go=_program("wireguard-go", cache),
            guest=guest,
        )


def etcd() -> str:
    """From KUBEBUILDER_ASSETS, PATH or the cache: the first that is new enough. Raises GridError if there is none."""
    built = sorted((_cache() / "bin").glob("etcd-*/etcd"), key=lambda path: path.stat().st_mtime, reverse=True)
    places = [os.environ.get("KUBEBUILDER_ASSETS", ""), *os.get_exec_path(), *(str(path.parent) for path in built)]
    for place in places:
        found = shutil.which("etcd", path=place) if place else None
        if found and _version(found) >= ETCD:
            return found
    raise GridError(f"no etcd from {'.'.join(map(str, ETCD))} on: run hack/setup first")


def _version(program: str) -> tuple[int, ...]:
    said = subprocess.run([program, "--version"], capture_output=True, text=True).stdout
    found = re.search(r"^etcd Version: (\d+)\.(\d+)\.(\d+)", said, re.MULTILINE)
    return tuple(map(int, found.groups())) if found else ()


def _cache() -> Path:
    return Path(os.environ.get("ZOS_CACHE") or Path.home() / ".cache" / "zos")


def _program(name: str, cache: Path) -> str:
    newest = sorted((cache / "bin").glob(f"*/{name}"), key=lambda path: path.stat().st_mtime)
    found = shutil.which(name, path=os.environ.get("KUBEBUILDER_ASSETS", ""))
    if found is None and newest:
        return str(newest[-1])
    if found is None:
        found = shutil.which(name)
    if found is None:
        raise GridError(f"{name} is missing: run hack/setup first")
    return found
