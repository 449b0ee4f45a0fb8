"""Disks of guests: raw files, reserved to their last byte.

A disk gets its name only when it is complete, file system included; so what has a name is never formatted. The node never
mounts one: what a guest wrote there is not for the node's kernel to parse. A grown disk is filled by the guest's own init.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import json
import os
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

from zos.drivers import DriverError
from zos.drivers.process import run
from zos.drivers.thread import in_thread
from zos.plan.diff import Observed, Op
from zos.plan.items import Disk, Item

#: Tells a running guest of a disk's new size (bytes), and by that sets the file's size; False: no guest runs with it.
Resize = Callable[[Path, int], Awaitable[bool]]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_KEEP_SIZE = 1  # FALLOC_FL_KEEP_SIZE, linux/falloc.h
#: Below this btrfs wants data and metadata mixed, below the second it can't be made at all (mkfs.btrfs(8)).
_BTRFS_PLAIN = 256 << 20
_SMALLEST = {"btrfs": 16 << 20, "ext4": 1 << 20}

_libc = ctypes.CDLL(None, use_errno=True)


class DiskDriver:
    """Disk items, each ``<name>.raw`` with a card ``<name>.json`` beside it that says whose it is."""

    ITEMS: ClassVar[tuple[type[Item], ...]] = (Disk,)
    SLOW: ClassVar[bool] = False

    def __init__(self, directory: Path, resize: Resize | None = None) -> None:
        """``directory`` is the disks' own and is made. Disks half made by an agent that died are cleared."""
        self._directory = directory
        self._resize = resize
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for half in directory.glob(".new-*"):
            half.unlink()

    def path(self, name: str) -> Path:
        return self._directory / f"{name}.raw"

    async def observe(self, wanted: Sequence[Item]) -> Mapping[str, Observed]:
        return await asyncio.to_thread(self._observe)

    async def apply(self, op: Op) -> None:
        try:
            if not isinstance(op.item, Disk):
                await in_thread(self._remove, op.key.removeprefix("disk/"))
            elif op.observed is None:
                await self._create(op.item)
            else:
                await self._update(op.item)
        except OSError as error:
            raise DriverError(f"{op.key}: {error.strerror or error}") from error

    def watch(self, dirty: Callable[[], None]) -> None:
        """Nobody but the agent works here; the resync finds what went wrong all the same."""

    async def close(self) -> None:
        pass

    def _observe(self) -> dict[str, Observed]:
        observed: dict[str, Observed] = {}
        for path in self._directory.glob("[!.]*.raw"):
            name = path.name.removesuffix(".raw")
            try:
                size = path.stat().st_size
            except FileNotFoundError:
                continue
            item, owner = None, ""
            card = self._card(name)
            if card is not None:
                owner, format_ = card
                item = Disk(name=name, size=size, format=format_, owner=owner)
            observed[f"disk/{name}"] = Observed(f"disk/{name}", item, owner, holds_data=True)
        return observed

    def _card(self, name: str) -> tuple[str, Literal["btrfs", "ext4"]] | None:
        try:
            card = json.loads((self._directory / f"{name}.json").read_text())
            return str(card["owner"]), ("ext4" if card["format"] == "ext4" else "btrfs")
        except (OSError, ValueError, KeyError, TypeError):
            return None

    async def _create(self, item: Disk) -> None:
        if not _NAME.fullmatch(item.name):
            raise DriverError(f"{item.name!r} can't be the name of a disk")
        if item.size < _SMALLEST[item.format]:
            raise DriverError(f"{item.size} bytes are too small for {item.format}: at least {_amount(_SMALLEST[item.format])}")
        if self.path(item.name).exists():  # since the last look; whatever it is, it is not empty
            await self._update(item)
            return
        new = self._directory / f".new-{item.name}.raw"
        try:
            await in_thread(self._reserve_new, new, item)
            await run(*_mkfs(item), str(new), timeout=600)
            await in_thread(self._finish, new, item)
        finally:
            await in_thread(new.unlink, missing_ok=True)

    def _reserve_new(self, new: Path, item: Disk) -> None:
        fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            self._reserve(fd, item, 0)
            os.ftruncate(fd, item.size)
        finally:
            os.close(fd)

    def _finish(self, new: Path, item: Disk) -> None:
        with open(new, "rb") as file:
            os.fsync(file.fileno())
        self._write_card(item)
        new.rename(self.path(item.name))
        self._sync()

    async def _update(self, item: Disk) -> None:
        path = self.path(item.name)
        size = path.stat().st_size
        card = self._card(item.name)
        if card is not None and card[1] != item.format:
            raise DriverError(f"disk {item.name} is formatted as {card[1]}, not {item.format}, and keeps what it holds")
        if item.size < size:
            raise DriverError(f"disk {item.name} has {_amount(size)} and can't shrink to {_amount(item.size)}")
        if card is None:
            await in_thread(self._write_card, item)
        if item.size > size:
            await in_thread(self._reserve_more, path, item, size)
            # The size changes last, and at once: until then a crash leaves only a reservation that nobody sees.
            if self._resize is None or not await self._resize(path, item.size):
                await in_thread(os.truncate, path, item.size)

    def _reserve_more(self, path: Path, item: Disk, size: int) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            self._reserve(fd, item, size)
        except DriverError:
            os.ftruncate(fd, size)  # gives back what was got of it
            raise
        finally:
            os.close(fd)

    def _reserve(self, fd: int, item: Disk, start: int) -> None:
        room = os.fstatvfs(fd)
        free, more = room.f_bavail * room.f_frsize, item.size - start - _beyond(fd, start)
        full = f"disk {item.name}: {_amount(item.size - start)} asked, {_amount(free)} free on the node's file system"
        if more > free:
            raise DriverError(full)
        if _libc.fallocate(fd, _KEEP_SIZE, ctypes.c_long(start), ctypes.c_long(item.size - start)) != 0:
            code = ctypes.get_errno()
            if code in (errno.ENOSPC, errno.EDQUOT):
                raise DriverError(full)
            if code in (errno.EOPNOTSUPP, errno.ENOSYS):
                raise DriverError(f"the file system of {self._directory} can't reserve space; use ext4, XFS or btrfs")
            raise OSError(code, os.strerror(code))

    def _remove(self, name: str) -> None:
        self.path(name).unlink(missing_ok=True)
        (self._directory / f"{name}.json").unlink(missing_ok=True)
        self._sync()

    def _write_card(self, item: Disk) -> None:
        new = self._directory / f".new-{item.name}.json"
        with open(new, "w", encoding="utf-8") as file:
            json.dump({"owner": item.owner, "format": item.format}, file)
            file.flush()
            os.fsync(file.fileno())
        new.rename(self._directory / f"{item.name}.json")

    def _sync(self) -> None:
        fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _beyond(fd: int, size: int) -> int:
    """Bytes that are reserved already behind the file's end, by a growth that was cut off."""
    info = os.fstat(fd)
    return max(0, info.st_blocks * 512 - size) if size else 0


def _mkfs(item: Disk) -> tuple[str, ...]:
    # Never a discard: it would give back what was just reserved. The file is zero: nothing needs zeroing.
    if item.format == "ext4":
        return ("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "nodiscard,assume_storage_prezeroed=1")
    return ("mkfs.btrfs", "-q", "-f", "-K", *(("--mixed",) if item.size < _BTRFS_PLAIN else ()))


def _amount(size: int) -> str:
    """For people: a binary unit where it is exact enough."""
    for unit, factor in (("Gi", 1 << 30), ("Mi", 1 << 20)):
        if size >= factor:
            return f"{size / factor:.4g}{unit}"
    return f"{size} bytes"
