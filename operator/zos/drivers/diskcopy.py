"""A disk as a full copy of another that stands still meanwhile.

Nothing is shared with it: on a file system that shares what is equal, the first write to either would need room that nobody has
reserved. What the other has never written is a hole here as well, in space that is reserved.
"""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from zos.drivers import DriverError
from zos.drivers.thread import in_thread

#: Bytes of one read, and of what is copied before anybody may call it off.
_READ, _STEP = 1 << 20, 64 << 20
#: Seconds in which a machine that was stopped has let go of its disk, and between two looks whether it has.
_MOMENT, _AGAIN = 10.0, 0.5


@dataclass(frozen=True)
class _State:
    size: int
    changed: int


async def copy(source: Path, target: int, in_use: Callable[[Path], Awaitable[bool]], said: Callable[[str], None]) -> None:
    """Into the file ``target``, which reads as zeros and is as large. ``said`` is called with how far it is. Raises DriverError
    where the source is not here, or may have changed meanwhile: then nothing is to be made of what is there."""
    with _opened(source) as fd:
        await _left(source, in_use, said)
        before = _state(fd)
        at = 0
        while at < before.size:
            said(f"copying, {100 * at // before.size} %")
            at = await in_thread(_copy_some, fd, target, at, min(at + _STEP, before.size))
        if await in_use(source) or _state(fd) != before:
            raise DriverError(used(source))


async def _left(source: Path, in_use: Callable[[Path], Awaitable[bool]], said: Callable[[str], None]) -> None:
    """The machine that had it was just stopped, as far as is known: it may take a moment to be gone. Raises DriverError."""
    deadline = time.monotonic() + _MOMENT
    while await in_use(source):
        if time.monotonic() > deadline:
            raise DriverError(used(source))
        said("its source is still in use")
        await asyncio.sleep(_AGAIN)


@contextmanager
def _opened(source: Path) -> Iterator[int]:
    try:
        fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise DriverError(f"disk {source.stem} is not on this node: there is nothing to copy; bring it back") from error
    try:
        yield fd
    finally:
        os.close(fd)


def used(source: Path) -> str:
    return (
        f"disk {source.stem} is in use, and what changes meanwhile can't be copied: stop the machine that has it "
        "(runPolicy Halted) until the copy is made"
    )


def _state(fd: int) -> _State:
    info = os.fstat(fd)
    return _State(info.st_size, info.st_mtime_ns)


def _copy_some(source: int, target: int, at: int, end: int) -> int:
    """Gives where to go on."""
    while at < end:
        try:
            data = os.lseek(source, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing more
                return end
            raise
        if data >= end:
            return end
        stop = min(os.lseek(source, data, os.SEEK_HOLE), end)
        at = data
        while at < stop:
            chunk = os.pread(source, min(_READ, stop - at), at)
            if not chunk:
                return end
            os.pwrite(target, chunk, at)
            at += len(chunk)
    return at
