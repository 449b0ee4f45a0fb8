"""The files of an image on the node's disk: what runs from there needs no container."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from zos.programs.node import layout
from zos.programs.node.commands import run

#: Of the image's own root. The rest is what a container runtime mounts over it.
_PARTS = ("bin", "etc", "lib", "lib32", "lib64", "libx32", "opt", "root", "sbin", "usr", "var")
#: Where something is mounted in a root, or made anew at each boot.
_PLACES = ("dev", "proc", "run", "sys", "tmp", "var/lib/zos", *(place.lstrip("/") for place in layout.OF_LIBVIRT))
#: The host's: a container runtime has put others there.
_HOSTS = ("resolv.conf", "hosts", "hostname")


def install(identity: str, source: Path = Path("/")) -> bool:
    """Copies the image that ``source`` is the root of, if it is not there yet; gives whether it had to. It is there as a whole
    or not at all. Raises OSError, CommandFailed."""
    place = layout.copy_of(identity).parent
    if (place / "complete").exists():
        return False
    half = place.with_name(f".new-{identity}")
    shutil.rmtree(half, ignore_errors=True)
    shutil.rmtree(place, ignore_errors=True)
    root = half / "root"
    root.mkdir(parents=True, mode=0o755)
    half.chmod(0o755)  # services that are not root's find their way through
    parts = [str(source / part) for part in _PARTS if os.path.lexists(source / part)]
    run("cp", "-a", "--one-file-system", "--reflink=auto", *parts, str(root))
    _settle(root)
    os.sync()
    (half / "complete").touch()
    half.rename(place)
    return True


def _settle(root: Path) -> None:
    for place in _PLACES:
        target = root / place
        if target.is_symlink() or not target.is_dir():
            target.unlink(missing_ok=True)
            target.mkdir(parents=True)
    for name in _HOSTS:
        (root / "etc" / name).unlink(missing_ok=True)
        (root / "etc" / name).symlink_to(f"/run/host/etc/{name}")


def installed() -> list[str]:
    """Ids of the images that are there as a whole."""
    return sorted(path.parent.name for path in layout.RUNTIME.glob("*/complete") if not path.parent.name.startswith("."))


def remove(identities: Iterable[str]) -> None:
    """Nobody runs from them any more: that is for the caller to know."""
    for identity in identities:
        place = layout.copy_of(identity).parent
        (place / "complete").unlink(missing_ok=True)  # from here on it is no image, however far this comes
        shutil.rmtree(place, ignore_errors=True)
    for half in layout.RUNTIME.glob(".new-*"):
        shutil.rmtree(half, ignore_errors=True)
