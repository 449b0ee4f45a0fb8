"""What is in an unpacked image: looked at once, without ever following a link of it."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path

from zos.drivers import DriverError
from zos.drivers.meter import Limits

#: Beyond these the programs of an image are not listed: a big image would fill the agent's memory.
_MOST_NAMES, _MOST_TEXT = 20_000, 4 << 20
_KERNEL = "/boot/vmlinuz"
#: Where a disk image lies in one that is a virtual machine's. The last two are the habit of KubeVirt's containerdisks.
_DISK = re.compile(r"/image\.(raw|qcow2)|/disk/[^/]+\.(img|qcow2)")


@dataclass(frozen=True)
class Tree:
    """Paths are absolute inside the image. ``executables`` and ``links`` (with targets) are None where there are too many.
    ``disk`` is the one disk image in it that a virtual machine boots from; empty where there is none.
    ``size`` in bytes on the disk."""

    executables: tuple[str, ...] | None = ()
    links: dict[str, str] | None = field(default_factory=dict)
    disk: str = ""
    has_kernel: bool = False
    size: int = 0


def look(root: Path, limits: Limits) -> Tree:
    """Walks an image's root. Raises DriverError for one that is empty, too big, has a link that climbs out of the root, or more
    than one disk image."""
    try:
        return _look(root, limits)
    except RecursionError as error:
        raise DriverError("its directories are nested too deep") from error


def _look(root: Path, limits: Limits) -> Tree:
    executables: list[str] = []
    links: dict[str, str] = {}
    disks: list[str] = []
    has_kernel = False
    linked: set[int] = set()
    known = True
    size = count = text = 0
    for directory, directories, files in os.walk(root, onerror=_unreadable):
        inside = directory[len(str(root)) :]
        for name in (*directories, *files):
            path = f"{inside}/{name}"
            info = os.lstat(f"{directory}/{name}")
            count += 1
            if info.st_ino not in linked:
                size += info.st_blocks * 512
                linked.update((info.st_ino,) if info.st_nlink > 1 and not stat.S_ISDIR(info.st_mode) else ())
            if stat.S_ISLNK(info.st_mode):
                target = os.readlink(f"{directory}/{name}")
                if climbs_out(inside, target):
                    raise DriverError(
                        f"the symlink {path} -> {target} leads out of the image's root; "
                        "make it absolute or relative to a path inside, and publish the image again"
                    )
                has_kernel = has_kernel or path == _KERNEL
                links[path] = target
                text += len(path) + len(target)
            elif stat.S_ISREG(info.st_mode):
                if info.st_mode & 0o111:
                    executables.append(path)
                    text += len(path)
                has_kernel = has_kernel or path == _KERNEL
                if _DISK.fullmatch(path) and len(disks) < 2:
                    disks.append(path)
            if len(executables) + len(links) > _MOST_NAMES or text > _MOST_TEXT:
                known = False
                executables.clear()
                links.clear()
        limits.check(size, count, "it unpacks to")
    if count == 0:
        raise DriverError("it is empty")
    if len(disks) > 1:
        raise DriverError(
            f"it has more than one disk image ({', '.join(sorted(disks))}), and a machine boots from one: leave one in it, and "
            "publish it again"
        )
    return Tree(
        tuple(executables) if known else None,
        links if known else None,
        disks[0] if disks else "",
        has_kernel,
        size,
    )


def _unreadable(error: OSError) -> None:
    raise DriverError(f"it has directories that can't be looked through: {error.strerror}")


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
