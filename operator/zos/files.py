"""Small files that are written whole or not at all: the one place that does so."""

from __future__ import annotations

import contextlib
import os
from enum import Enum
from pathlib import Path


class Durability(Enum):
    """What a file that was written survives."""

    #: Any crash of the process. After a power cut the file may be old, new or empty: for what a boot forgets or makes again.
    VOLATILE = "volatile"
    #: A power cut as well, once `write` has returned: content and name are on the disk. Before that the old file is there.
    DURABLE = "durable"


def write(
    path: Path,
    content: str | bytes,
    durability: Durability,
    mode: int = 0o600,
    *,
    owner: int | None = None,
    parents: bool = True,
) -> None:
    """Who reads finds the old file or the new one, never half of one, and never one that more may read than ``mode`` says.
    ``owner`` is the user and group that it is to belong to, None: whose this process is. ``parents``: those that are missing
    are made, for root alone; without, a directory that was taken away doesn't come back by what is written into it. One writer
    at a time for a path: what its crash left is cleared by the next. Raises OSError; the old file is there then."""
    missing = [parent for parent in path.parents if not parent.exists()] if parents else []
    if parents:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    new = half_made(path)
    new.unlink(missing_ok=True)
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            if owner is not None:
                os.fchown(fd, owner, owner)
            os.fchmod(fd, mode)
            file.flush()
            if durability is Durability.DURABLE:
                os.fsync(fd)
        new.rename(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    if durability is Durability.DURABLE:
        for directory in (path.parent, *(parent.parent for parent in missing)):
            sync(directory)


def half_made(path: Path) -> Path:
    """What a crash of `write` may leave beside a file."""
    return path.with_name(f".{path.name}.new")


def clear(directory: Path) -> None:
    """Takes away what crashes of `write` have left, where the files themselves may not be written again."""
    for left in directory.glob(".*.new"):
        with contextlib.suppress(IsADirectoryError):
            left.unlink(missing_ok=True)


def sync(directory: Path) -> None:
    """What was named, renamed and deleted in a directory survives a power cut."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
