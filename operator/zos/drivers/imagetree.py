"""What is in an unpacked image: looked at once, without ever following a link of it."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from zos.drivers import DriverError

#: Beyond these the programs of an image are not listed: a big image would fill the agent's memory.
_MOST_NAMES = 20_000


@dataclass(frozen=True)
class Tree:
    """Paths are absolute inside the image. ``executables`` and ``links`` (with targets) are None where there are too many."""

    executables: tuple[str, ...] | None = ()
    links: dict[str, str] | None = field(default_factory=dict)
    has_disk_image: bool = False
    has_kernel: bool = False


def look(root: Path, ref: str) -> Tree:
    """Walks an image's root. Raises DriverError for one that is empty or has a link that climbs out of the root."""
    executables: list[str] = []
    links: dict[str, str] = {}
    seen: set[str] = set()
    for directory, directories, files in os.walk(root):
        inside = directory[len(str(root)) :]
        for name in (*directories, *files):
            path = f"{inside}/{name}"
            info = os.lstat(f"{directory}/{name}")
            if stat.S_ISLNK(info.st_mode):
                links[path] = os.readlink(f"{directory}/{name}")
                if climbs_out(inside, links[path]):
                    raise DriverError(
                        f"image {ref}: the symlink {path} -> {links[path]} leads out of the image's root; "
                        "make it absolute or relative to a path inside, and publish the image again"
                    )
            elif stat.S_ISREG(info.st_mode):
                if info.st_mode & 0o111:
                    executables.append(path)
                if path in ("/image.raw", "/boot/vmlinuz"):
                    seen.add(path)
    if not executables and not links and not seen and not any(root.iterdir()):
        raise DriverError(f"image {ref}: it is empty")
    known = len(executables) + len(links) <= _MOST_NAMES
    return Tree(
        tuple(executables) if known else None,
        links if known else None,
        "/image.raw" in seen,
        "/boot/vmlinuz" in seen or "/boot/vmlinuz" in links,
    )


def climbs_out(directory: str, target: str) -> bool:
    """Whether a link in ``directory`` (absolute inside the image) goes above the root, judged by its words alone. An absolute
    target is inside: the root is the guest's."""
    if target.startswith("/"):
        return False
    depth = len([part for part in directory.split("/") if part])
    for part in target.split("/"):
        if part == "..":
            depth -= 1
            if depth < 0:
                return True
        elif part not in ("", "."):
            depth += 1
    return False
