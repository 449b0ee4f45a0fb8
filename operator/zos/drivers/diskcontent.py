"""What is on a disk, by its own words and by what was written down of it: nothing of it is ever mounted or parsed further."""

from __future__ import annotations

from pathlib import Path

from zos.drivers import systemcard, unused

BTRFS = "a btrfs file system"
#: Where content says what it is: offset, bytes, and what people call it.
_SIGNS: tuple[tuple[int, bytes, str], ...] = (
    (0x200, b"EFI PART", "a partition table (GPT)"),
    (0x1FE, b"\x55\xaa", "a partition table (MBR)"),
    (0x438, b"\x53\xef", "an ext4 file system"),
    (0x10040, b"_BHRfS_M", BTRFS),
    (0, b"XFSB", "an XFS file system"),
    (0, b"LUKS\xba\xbe", "an encrypted disk (LUKS)"),
    (0x218, b"LVM2 001", "a physical volume of LVM"),
)
_PARTITIONED = tuple(name for _, _, name in _SIGNS[:2])


def of_others(disk: Path) -> str:
    """What there is on a disk that would be a loss, in words: what a guest had, and what is no system that was being written.
    Empty: nothing. Raises OSError where that can't be told."""
    if systemcard.is_half(disk):
        return ""
    try:
        system = systemcard.whole(disk)
    except ValueError as error:
        return f"what nobody knows any more ({error})"
    if system is not None or unused.is_unused(disk):
        return ""
    return said(disk) or "data of a machine that had it"


def is_partitioned(disk: Path) -> bool:
    """Whether it may hold a system of its own. Raises OSError where that can't be told."""
    return said(disk) in _PARTITIONED


def plain(disk: Path) -> str:
    """What there is on one from which nothing can be started, in words; empty: it may. Raises OSError."""
    words = said(disk)
    return "" if words in _PARTITIONED else words or "nothing that says what it is"


def said(disk: Path) -> str:
    """Empty: it says nothing."""
    with open(disk, "rb") as file:
        for offset, sign, name in _SIGNS:
            file.seek(offset)
            if file.read(len(sign)) == sign:
                return name
    return ""
