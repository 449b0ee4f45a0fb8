"""How much of a disk its file system uses, by what that says of itself on the disk: the node mounts none.

btrfs writes it with every commit, twice a minute while anything is written. (ext4 does when it is unmounted, which says nothing
of a guest that runs.) A guest may write there what it likes, so it is a number for people, and no larger than the disk.
Layout: btrfs-dev-docs, "On-disk Format", superblock.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from zos.api.nodeworkload import Owner

#: Of btrfs: where its first superblock is, what is in that where, and how it begins.
_SUPERBLOCK, _MAGIC, _USED = 0x10000, slice(0x40, 0x48), 0x78
_BTRFS = b"_BHRfS_M"
_LENGTH = 0x80
#: What is told changes by this share of itself at least, and so many bytes, and no more often than in so many seconds.
_NOTABLE, _LITTLE, SECONDS = 0.1, 1 << 20, 60.0


@dataclass(frozen=True)
class Usage:
    """Of one disk, in bytes; ``owner`` is the user's object."""

    owner: Owner
    size: int
    used: int


def used_of(disk: Path) -> int | None:
    """None: it has no file system that tells. Raises OSError."""
    with open(disk, "rb") as file:
        size = file.seek(0, 2)
        file.seek(_SUPERBLOCK)
        block = file.read(_LENGTH)
    if len(block) < _LENGTH or block[_MAGIC] != _BTRFS:
        return None
    (used,) = struct.unpack_from("<Q", block, _USED)
    return min(int(used), size)


class Told:
    """What is told of disks' use, by name. That changes only where another amount is used by now, and what is told was told a
    while ago."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told: dict[str, tuple[int, float]] = {}

    @property
    def used(self) -> Mapping[str, int]:
        return {name: used for name, (used, _) in self._told.items()}

    def see(self, used: Mapping[str, int]) -> bool:
        """What is used by now, of all disks of which that can be told. Whether something else is told from now on."""
        now, before = self._clock(), self._told
        self._told = {name: self._one(before.get(name), there, now) for name, there in used.items()}
        return self.used != {name: amount for name, (amount, _) in before.items()}

    def _one(self, before: tuple[int, float] | None, used: int, now: float) -> tuple[int, float]:
        if before is None:
            return used, now
        told, at = before
        same = abs(used - told) < max(_LITTLE, _NOTABLE * told)
        return before if same or now - at < SECONDS else (used, now)
