"""Which disks no guest ever had: a mark beside a disk, made with it, and gone before a guest first starts with it.

Where there is none the disk counts as used: an older agent made it, or somebody has brought its file back. The mark names the
time of the file's last change, so it says nothing any more where an agent that knows of no marks gave the disk to a guest.
"""

from __future__ import annotations

from pathlib import Path

from zos.files import Durability, sync, write


def mark(disk: Path, name: Path | None = None) -> None:
    """``disk`` was just made or grown and holds nothing; ``name``: what it is about to be called."""
    write(_beside(name or disk), str(disk.stat().st_mtime_ns), Durability.DURABLE)


def is_unused(disk: Path) -> bool:
    """Raises OSError where that can't be told."""
    try:
        return _beside(disk).read_text(encoding="ascii") == str(disk.stat().st_mtime_ns)
    except (FileNotFoundError, IsADirectoryError, ValueError):
        return False


def end(disk: Path) -> None:
    """A guest is about to have it. Lasting: what it writes must not be taken for nothing after a crash."""
    try:
        _beside(disk).unlink()
    except FileNotFoundError:
        return
    sync(disk.parent)


def _beside(disk: Path) -> Path:
    return disk.with_suffix(".unused")
