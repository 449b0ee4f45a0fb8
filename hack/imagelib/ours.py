"""The layers that change with our code, and what a node has besides Debian's packages and Python's."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

from gridlib import tools
from gridlib.layout import GridError
from imagelib import kept, layer, pythonpackages
from imagelib.recipe import CHECKOUT, CODE, CONTAINERS, BuildError, cache
from zos.programs import guestbuild

#: What an image has of ours besides code.
SHARE = "usr/share/zos"
PROGRAM = "usr/local/bin/zos-node"
#: Sources of what a guest runs, which is in the image as it was built.
_SOURCES = "guest"


def wireguard() -> Path:
    """Raises BuildError."""
    try:
        return Path(tools.program("wireguard-go"))
    except GridError as error:
        raise BuildError(str(error)) from error


def guest() -> Path:
    """Where the guests' kernel and initramfs are. Raises BuildError."""
    found = guestbuild.made(cache().parent / "guest")
    if found is None:
        raise BuildError("no guest kernel and initramfs: run hack/setup first")
    return found


def files() -> dict[str, Path]:
    """What we build for nodes and seldom change, by its place in the image: userspace WireGuard, the guests' kernel and
    initramfs. Raises BuildError."""
    return {"usr/local/bin/wireguard-go": wireguard()} | {
        f"{SHARE}/guest/{path.name}": path for path in sorted(guest().iterdir())
    }


def built() -> layer.Layer:
    """The layer of these. Raises BuildError."""
    found = files()
    key = [f"{name} {layer.file_digest(path)}".encode() for name, path in found.items()]
    what = "WireGuard, the guests' kernel and initramfs"
    return kept.layer("node-programs", key, lambda _, at: layer.write(layer.of_files(found), at, what))


def code(work: Path, *, node: bool) -> layer.Layer:
    """Our Python, compiled. Raises BuildError."""
    root = work / "code"
    put(root, node=node)
    return layer.write(layer.of_tree(root), work / "code.tar.zst", "Zero-OS")


def put(root: Path, *, node: bool) -> None:
    """Our code in a root file system. Raises BuildError."""
    ignored = shutil.ignore_patterns("__pycache__", _SOURCES)
    shutil.copytree(CHECKOUT / "operator" / "zos", root / CODE / "zos", ignore=ignored)
    pythonpackages.bytecode(root, CODE)
    (root / SHARE).mkdir(parents=True, exist_ok=True)
    shutil.copyfile(CHECKOUT / "LICENSE", root / SHARE / "LICENSE")
    if node:
        program = root / PROGRAM
        program.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CONTAINERS / "zos-node", program)


def identity(version: str, layers: Sequence[layer.Layer]) -> str:
    """The name of what is in these layers, by which nodes tell one version from another."""
    digest = hashlib.sha256(" ".join(one.diff_id for one in layers).encode()).hexdigest()
    return f"{version}-{digest[:12]}"


def card(work: Path, identity: str, bill: bytes) -> layer.Layer:
    """What the image says of itself."""
    told = {f"{SHARE}/image": f"{identity}\n".encode(), f"{SHARE}/sbom.json": bill}
    return layer.write(layer.of_files(told), work / "card.tar.zst", "what this image is")
