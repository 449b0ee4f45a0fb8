"""How much a program has written, while it writes: what it makes of a stranger's bytes must not fill the node."""

from __future__ import annotations

import asyncio
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from zos.drivers import DriverError, Unavailable

#: Free room that no image takes: so many bytes, or this share of a small file system.
_KEPT, _KEPT_SHARE = 2**30, 0.05
#: Seconds between looks at the file system (cheap) and at the tree (not).
_GLANCE, _LOOK = 0.25, 10.0
#: What comes from elsewhere must grow by so much in so many seconds.
_TRICKLE, _STALLED = 2**20, 120.0


class Refused(DriverError):
    """Another try of the same content would end like this one."""


class TooBig(Refused):
    """There is more of it than a node takes."""


class Lie(DriverError):
    """What came is other than what it was said to be. That tells of who sent it, and not of the content."""


@dataclass(frozen=True)
class Limits:
    """Bytes of an image, packed and unpacked alike, and files, directories and links in it."""

    size: int = 20 * 2**30
    entries: int = 1_000_000

    def check(self, size: int, entries: int, what: str) -> None:
        if size > self.size:
            raise TooBig(
                f"{what} more than the {in_words(self.size)} that this node takes ({in_words(size)} so far); make the image "
                "smaller, or ask the node's owner for more (--image-size)"
            )
        if entries > self.entries:
            raise TooBig(f"{what} more than the {self.entries} files and directories that a node takes")


def in_words(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def kept_free(path: Path) -> int:
    """Bytes of its file system that no image takes."""
    disk = os.statvfs(path)
    return min(_KEPT, int(_KEPT_SHARE * disk.f_blocks * disk.f_frsize))


def room_for(path: Path, size: int) -> None:
    """Raises Unavailable where the file system has less room than ``size`` and what is left free in any case."""
    disk = os.statvfs(path)
    free = disk.f_bavail * disk.f_frsize
    if free - size < kept_free(path):
        raise no_room(in_words(size) if size else "", free)


def no_room(wanted: str, free: int) -> Unavailable:
    """``wanted`` in words, ``free`` in bytes."""
    return Unavailable(
        f"the node's disk has no room{wanted and f' for {wanted}'}: {in_words(free)} are free, and some of that is kept; it "
        "goes on when there is more: ask the node's owner, or name another node"
    )


class Meter:
    """Of the tree ``room``; ``what`` begins its messages, like "it unpacks to". ``trickle``: it must grow all the time."""

    def __init__(self, room: Path, limits: Limits, what: str, *, trickle: bool = False) -> None:
        self._room = room
        self._disk = room.parent  # which stays, whatever becomes of what is made in it
        self._limits = limits
        self._what = what
        self._trickle = trickle

    async def watch(self) -> None:
        """Until cancelled. Raises DriverError as soon as it is too much, or the node's disk gets full. Nothing tells of
        writes in a tree, so it looks: at the whole tree only where the file system has lost enough to make it worth it."""
        held = entries = mark = 0
        free, inodes = self._free()
        looked = grown = time.monotonic()
        while True:
            await asyncio.sleep(_GLANCE)
            room_for(self._disk, 0)
            now = time.monotonic()
            free_now, inodes_now = self._free()
            suspect = held + free - free_now > self._limits.size or entries + inodes - inodes_now > self._limits.entries
            if not suspect and now - looked < _LOOK:
                continue
            held, entries = await self.check()
            free, inodes = self._free()
            looked = time.monotonic() + 4 * (time.monotonic() - now)  # a fifth of the time at most
            if held - mark >= _TRICKLE:
                mark, grown = held, now
            elif self._trickle and now - grown > _STALLED:
                raise Unavailable("the server does not go on sending")

    async def check(self) -> tuple[int, int]:
        """Bytes and entries. Raises TooBig."""
        held, entries = await asyncio.to_thread(self._count)
        self._limits.check(held, entries, self._what)
        return held, entries

    def _free(self) -> tuple[int, int]:
        disk = os.statvfs(self._disk)
        return disk.f_bavail * disk.f_frsize, disk.f_ffree

    def _count(self) -> tuple[int, int]:
        held = entries = 0
        for held, entries in _weighed(self._room):
            if held > self._limits.size or entries > self._limits.entries:
                break
        return held, entries


def tree_size(root: Path) -> int:
    """Bytes on the disk of all that is in a directory."""
    return max((held for held, _ in _weighed(root)), default=0)


def _weighed(root: Path) -> Iterator[tuple[int, int]]:
    """Bytes and entries, with each entry more."""
    held = 0
    linked: set[int] = set()
    for entries, info in enumerate(_walk(str(root)), 1):
        if info.st_nlink == 1 or stat.S_ISDIR(info.st_mode) or info.st_ino not in linked:
            held += info.st_blocks * 512
            linked.update((info.st_ino,) if info.st_nlink > 1 else ())
        yield held, entries


def _walk(root: str) -> Iterator[os.stat_result]:
    left = [root]
    while left:
        try:
            with os.scandir(left.pop()) as found:
                for entry in found:
                    info = entry.stat(follow_symlinks=False)
                    if stat.S_ISDIR(info.st_mode):
                        left.append(entry.path)
                    yield info
        except OSError:  # gone meanwhile, or nested too deep: what there is beyond is found at the end
            continue
