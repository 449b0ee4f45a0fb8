"""A disk image that is a file's whole content: known by its first bytes, and written with its holes."""

from __future__ import annotations

import os

from zos.programs.budget import Budget
from zos.programs.packed import Content

#: Bytes of zeros that become a hole.
_HOLE = 64 << 10
_ZEROS = bytes(_HOLE)


def name_of(first: bytes) -> str | None:
    """What a disk image with these first bytes is called in the tree; None: they are none's.

    A raw one has a boot sector (its signature is at 510) or a GUID partition table, in the second sector, of 512 or 4096 bytes
    (UEFI 2.10, 5.3.2); or a file system over the whole of it (btrfs or ext4), which no machine can boot from, and one may have
    beside it."""
    if first.startswith(b"QFI\xfb"):
        return "image.qcow2"
    if first[510:512] == b"\x55\xaa" or b"EFI PART" in (first[512:520], first[4096:4104]):
        return "image.raw"
    if first[0x438:0x43A] == b"\x53\xef" or first[0x10040:0x10048] == b"_BHRfS_M":
        return "image.raw"
    return None


def put(content: Content, path: str, budget: Budget) -> None:
    """Raises BadContent; and Exceeded, holes counted, as they would be on a disk."""
    with open(path, "xb", buffering=0) as file:
        at = 0
        while piece := _block(content):
            at += len(piece)
            budget.add(size=len(piece))
            if piece == _ZEROS[: len(piece)]:
                continue
            budget.write(len(piece))
            os.pwrite(file.fileno(), piece, at - len(piece))
        os.truncate(file.fileno(), at)


def _block(content: Content) -> bytes:
    """Always as much, but at the end: so that what begins with data has its holes too."""
    block = content.read(_HOLE)
    while block and len(block) < _HOLE and (piece := content.read(_HOLE - len(block))):
        block += piece
    return block
