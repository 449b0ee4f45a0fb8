"""Virtual machines' own systems: an image's disk, written once onto a disk of the machine's.

What a disk was written from stands on a card beside it, before the first byte and after the last, and the disk itself has a
sign until it is whole (`zos.drivers.halfwritten`): a writing that was cut off starts over, and one that is done is never
repeated. A disk that a guest had, or that has something on it that nobody here wrote, is not overwritten. That this is a system
all the same is its user's word.
"""

from __future__ import annotations

import asyncio
import ctypes
import dataclasses
import errno
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, ClassVar

from zos.drivers import DriverError, diskcontent, halfwritten, systemcard, unused
from zos.drivers.diskimage import RAW, firmware_of
from zos.drivers.halfwritten import SECTOR
from zos.drivers.imagecache import directory_of
from zos.drivers.reservation import amount
from zos.drivers.systemcard import SystemCard
from zos.drivers.thread import in_thread
from zos.plan.diff import Observed, Op
from zos.plan.items import Item, System

_CHUNK = 4 << 20
#: fallocate(2): zeroes that stay reserved.
_ZERO_RANGE, _KEEP_SIZE = 0x10, 0x01
_libc = ctypes.CDLL(None, use_errno=True)


class SystemDriver:
    """System items. ``disks`` and ``images`` are the directories of those."""

    ITEMS: ClassVar[tuple[type[Item], ...]] = (System,)
    SLOW: ClassVar[bool] = True

    def __init__(self, disks: Path, images: Path) -> None:
        self._disks = disks
        self._images = images
        self._progress: dict[str, str] = {}
        self._dirty: Callable[[], None] = lambda: None
        self._told = 0.0

    def progress(self, key: str) -> str:
        return self._progress.get(key, "")

    async def observe(self, wanted: Sequence[Item]) -> Mapping[str, Observed]:
        """What was written of what is wanted: nothing else of it is anybody's but the disk's. It is that disk's content: that
        it needs to be written no more removes nothing."""
        asked = [item for item in wanted if isinstance(item, System)]
        return await asyncio.to_thread(self._observe, asked)

    def _observe(self, wanted: Sequence[System]) -> dict[str, Observed]:
        return {item.key: Observed(item.key, item, item.owner, holds_data=True) for item in wanted if self._is_done(item.disk)}

    def _is_done(self, disk: str) -> bool:
        try:
            return systemcard.whole(self._path(disk)) is not None
        except ValueError:
            return False

    def _path(self, disk: str) -> Path:
        return self._disks / f"{disk}.raw"

    async def apply(self, op: Op) -> None:
        if not isinstance(op.item, System):
            return
        try:
            await self._write(op.item, op.key)
        except OSError as error:
            raise DriverError(f"{op.key}: {error.strerror or error}") from error
        finally:
            self._progress.pop(op.key, None)

    def watch(self, dirty: Callable[[], None]) -> None:
        self._dirty = dirty

    async def close(self) -> None:
        self._dirty = lambda: None

    async def _write(self, item: System, key: str) -> None:
        path, source = self._path(item.disk), directory_of(self._images, item.image) / RAW
        if await in_thread(self._is_done, item.disk):
            return  # since the last look
        if not item.image:
            await in_thread(_take, path)
            return
        if there := await in_thread(diskcontent.of_others, path):
            raise DriverError(f"disk {item.disk} holds {there}, and is not overwritten")
        loop, stop = asyncio.get_running_loop(), threading.Event()

        def say(percent: int) -> None:
            loop.call_soon_threadsafe(self._say, key, f"writing the image to the disk, {percent} %")

        work = asyncio.ensure_future(in_thread(_copy, item, source, path, say, stop))
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            stop.set()
            await asyncio.wait([work])
            raise

    def _say(self, key: str, text: str) -> None:
        self._progress[key] = text
        if time.monotonic() - self._told >= 1.0:
            self._told = time.monotonic()
            self._dirty()


def _copy(item: System, source: Path, path: Path, say: Callable[[int], None], stop: threading.Event) -> None:
    if not source.exists():
        raise DriverError(f"image {item.image} is not on this node any more")
    with open(source, "rb") as image, open(path, "r+b", buffering=0) as disk:
        size, there = os.fstat(image.fileno()).st_size, os.fstat(disk.fileno()).st_size
        if there < size:
            raise DriverError(f"disk {item.disk} has {amount(there)}, and the image needs {amount(size)}")
        if halfwritten.is_sign(first := os.pread(image.fileno(), SECTOR, 0)):
            raise DriverError(f"image {item.image} was taken from a disk to which a system was being written: take a whole one")
        card = SystemCard(image=item.image, ref=item.ref, firmware=item.firmware, done=False)
        systemcard.write(path, card)
        halfwritten.sign(disk.fileno())
        card = dataclasses.replace(card, signed=True)
        systemcard.write(path, card)
        _zero(disk.fileno(), SECTOR, there)
        percent = -1
        for at, chunk in _extents(image, SECTOR, size):
            if stop.is_set():
                return
            _put(disk.fileno(), chunk, at)
            if percent != (percent := 100 * at // size):
                say(percent)
        os.fsync(disk.fileno())
        systemcard.write(path, dataclasses.replace(card, done=True))
        halfwritten.finish(disk.fileno(), first)
    unused.mark(path)  # nothing of anybody's is on it yet


def _take(path: Path) -> None:
    """Has what is on a disk count as a system. Raises DriverError for what is none."""
    if systemcard.is_half(path):
        raise DriverError(f"disk {path.stem} is half written: there is no system to boot on it, and it can be written anew")
    if not diskcontent.is_partitioned(path):
        holds = diskcontent.said(path) or "nothing that says what it is"
        raise DriverError(f"disk {path.stem} holds {holds}, and no partition table: no machine boots from that")
    systemcard.write(path, SystemCard(image="", ref="", firmware=firmware_of(path), done=True))


def _zero(fd: int, start: int, end: int) -> None:
    """All between, which stays reserved."""
    if _libc.fallocate(fd, _ZERO_RANGE | _KEEP_SIZE, ctypes.c_long(start), ctypes.c_long(end - start)) == 0:
        return
    code = ctypes.get_errno()
    if code not in (errno.EOPNOTSUPP, errno.ENOSYS):
        raise OSError(code, os.strerror(code))
    zeroes = bytes(_CHUNK)
    for at in range(start, end, _CHUNK):
        _put(fd, zeroes[: end - at], at)


def _put(fd: int, content: bytes, at: int) -> None:
    view = memoryview(content)
    while view:
        done = os.pwrite(fd, view, at)
        view, at = view[done:], at + done


def _extents(file: BinaryIO, start: int, size: int) -> Iterator[tuple[int, bytes]]:
    """What is in a sparse file from ``start`` on, piece by piece, with where it is."""
    fd, at = file.fileno(), start
    while at < size:
        try:
            at = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return  # a hole to the end
            raise
        end = os.lseek(fd, at, os.SEEK_HOLE)
        while at < end:
            chunk = os.pread(fd, min(_CHUNK, end - at), at)
            if not chunk:
                raise DriverError("the image got shorter while it was read")
            yield at, chunk
            at += len(chunk)
