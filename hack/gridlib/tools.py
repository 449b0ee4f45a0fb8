"""Where the programs are that a minigrid runs. `hack/setup` makes sure that they exist."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from gridlib.layout import GridError


@dataclass(frozen=True)
class Tools:
    checkout: Path
    python: str
    apiserver: str
    controller_manager: str
    kubectl: str
    wireguard_go: str
    guest: Path

    @classmethod
    def find(cls) -> Tools:
        """From KUBEBUILDER_ASSETS, PATH or the cache. Raises GridError for what is missing."""
        cache = Path(os.environ.get("ZOS_CACHE") or Path.home() / ".cache" / "zos")
        guests = sorted((cache / "guest").glob("*/initramfs"), key=lambda path: path.stat().st_mtime)
        if not guests:
            raise GridError("no guest kernel and initramfs: run hack/setup first")
        return cls(
            checkout=Path(__file__).resolve().parents[2],
            python=sys.executable,
            apiserver=_program("kube-apiserver", cache),
            controller_manager=_program("kube-controller-manager", cache),
            kubectl=_program("kubectl", cache),
            wireguard_go=_program("wireguard-go", cache),
            guest=guests[-1].parent,
        )


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
