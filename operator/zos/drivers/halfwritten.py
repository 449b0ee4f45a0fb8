"""The sign on a disk to which a system is being written: as long as it is there, what the disk holds is half of something.

What is written down beside a disk may be lost, or be of a time before somebody else had the disk; a sign on the disk goes where
its content goes. It stands in the first sector from before the first byte until after the last, when the image's own first one
takes its place at one stroke: without that no firmware and no guest finds anything on the disk, so nothing half written is ever
taken for whole. Whoever formats or partitions the disk writes over it.
"""

from __future__ import annotations

import os
from pathlib import Path

#: Bytes that a disk writes whole or not at all.
SECTOR = 512
_SIGN = b"zos.grid.tf: a system is being written to this disk, and it is not complete\n".ljust(SECTOR, b"\0")


def is_signed(disk: Path) -> bool:
    """A disk that is not there has none. Raises OSError where that can't be told."""
    try:
        with open(disk, "rb") as file:
            return is_sign(file.read(SECTOR))
    except FileNotFoundError:
        return False


def is_sign(sector: bytes) -> bool:
    return sector == _SIGN


def sign(fd: int) -> None:
    """Lasting, once it has returned."""
    _put_first(fd, _SIGN)


def finish(fd: int, sector: bytes) -> None:
    """Puts the system's own first sector there. All the rest is on the disk already."""
    _put_first(fd, sector)


def clear(disk: Path) -> None:
    """A guest gets the disk as an empty one: what it writes is its own, wherever."""
    if is_signed(disk):
        with open(disk, "r+b", buffering=0) as file:
            _put_first(file.fileno(), bytes(SECTOR))


def _put_first(fd: int, sector: bytes) -> None:
    os.pwrite(fd, sector, 0)
    os.fsync(fd)
