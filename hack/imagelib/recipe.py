"""What each image is made of."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
CONTAINERS = CHECKOUT / "hack" / "images" / "containers"
PROGRAMS = CONTAINERS / "node.programs"

#: Every file's time. Times of their own would make each build another image, and none of ours means anything.
EPOCH = 1767225600  # 2026-01-01
#: Where the interpreter of Debian looks for packages that did not come with Debian.
PACKAGES = "usr/local/lib/python3.11/dist-packages"
CODE = "opt/zos/operator"

_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ENVIRONMENT = (_PATH, "LANG=C.UTF-8", f"PYTHONPATH=/{CODE}", "PYTHONDONTWRITEBYTECODE=1", "PYTHONUNBUFFERED=1")


class BuildError(Exception):
    """What is missing or went wrong, and what to do."""


@dataclass(frozen=True)
class Image:
    """``roots``: modules and packages of ours, whose imports say which Python packages there are. ``node``: whether it has what
    a node runs, guests' kernel and WireGuard too."""

    name: str
    title: str
    roots: tuple[str, ...]
    entrypoint: tuple[str, ...]
    user: str
    node: bool = False
    environment: tuple[str, ...] = _ENVIRONMENT

    @property
    def repository(self) -> str:
        return f"zos-{self.name}"

    @property
    def package_list(self) -> Path:
        return CONTAINERS / f"{self.name}.packages"

    def packages(self) -> list[str]:
        """Debian packages to install."""
        return [line for line in self.package_list.read_text().split("\n") if line and line[0] not in "#-"]


IMAGES = {
    "node": Image(
        "node",
        "Zero-OS node: agent, guests, services",
        ("zos.agent", "zos.programs"),
        ("/usr/local/bin/zos-node",),
        "0",
        node=True,
    ),
    "controller": Image(
        "controller",
        "Zero-OS controller",
        ("zos.controller",),
        ("/usr/bin/python3", "-P", "-m", "zos.controller"),
        "65532:65532",
        environment=(*_ENVIRONMENT, "HOME=/tmp"),  # a user without a name has none, and libraries ask for one
    ),
}


def product_version() -> str:
    found = re.search(r'^version = "([^"]+)"$', (CHECKOUT / "pyproject.toml").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def programs() -> list[str]:
    """Names, looked up as a shell would, and paths, which a node's image must have."""
    lines = PROGRAMS.read_text().split("\n")
    return [line for line in lines if line and not line.startswith("#")]


def cache() -> Path:
    return Path(os.environ.get("ZOS_CACHE") or Path.home() / ".cache" / "zos") / "images"
