"""Disks of guests: raw files, reserved to their last byte.

A disk gets its name only when it is complete, file system included; so what has a name is never formatted. The node never
mounts one: what a guest wrote there is not for the node's kernel to parse. A grown disk is filled by the guest's own init.
Whether a guest ever had it is marked beside it (`zos.drivers.unused`).
Whose a disk is stands on its card; where that is lost, the uid in its name says it, and its content what it is formatted as.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import ValidationError

from zos import files
from zos.api.nodeworkload import Owner
from zos.drivers import DriverError, btrfsid, diskcontent, systemcard, unused
from zos.drivers.diskcopy import copy
from zos.drivers.diskuse import SECONDS, Told, Usage, used_of
from zos.drivers.inotify import MOVED_TO
from zos.drivers.keeping import (
    BLOCK,
    KeptDriver,
    as_asked,
    nothing_to_adopt,
    refuse_to_shrink,
    used_meanwhile,
)
from zos.drivers.process import run
from zos.drivers.reservation import amount, reserve
from zos.drivers.thread import in_thread
from zos.plan.diff import Observed
from zos.plan.facts import DiskFact, DiskUseFact, Fact, Known, UnusedDiskFact, Written
from zos.plan.items import Disk, Item

#: Tells a running guest of a disk's new size (bytes), and by that sets the file's size; False: no guest runs with it.
Resize = Callable[[Path, int], Awaitable[bool]]
#: Whether a guest runs with a disk. Raises DriverError where that can't be told.
InUse = Callable[[Path], Awaitable[bool]]
Format = Literal["btrfs", "ext4"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
#: Below this btrfs wants data and metadata mixed, below the second it can't be made at all (mkfs.btrfs(8)).
_BTRFS_PLAIN = 256 << 20
_SMALLEST = {"btrfs": 16 << 20, "ext4": 1 << 20}
#: Linux resizes no btrfs to less (btrfs_ioctl_resize): the guest would see nothing of the growth.
_BTRFS_GROWN = 256 << 20

#: Where a file system says what it is: offset and bytes (libblkid's superblocks).
_MAGIC: tuple[tuple[Format, int, bytes], ...] = (("ext4", 0x438, b"\x53\xef"), ("btrfs", 0x10040, b"_BHRfS_M"))


@dataclass(frozen=True)
class Card:
    """What is written down beside a disk. ``origin`` is missing on those of older agents."""

    owner: str
    format: Format
    origin: Owner | None = None


class DiskDriver(KeptDriver[Disk]):
    """Disk items, each ``<name>.raw``."""

    ITEMS: ClassVar[tuple[type[Item], ...]] = (Disk,)
    FACTS: ClassVar[tuple[type[Fact], ...]] = (UnusedDiskFact, DiskFact, DiskUseFact)
    HEARD: ClassVar[int] = KeptDriver.HEARD | MOVED_TO  # what is written down of one
    #: Of what is copied somebody may let go at any time, and of that nobody tells.
    LAST_RETRY: ClassVar[float] = 60.0

    def __init__(self, directory: Path, resize: Resize | None = None, in_use: InUse | None = None) -> None:
        """``directory`` is the disks' own and is made. Disks half made by an agent that died are cleared."""
        self._resize = resize
        self._in_use = in_use
        self._unused: frozenset[str] = frozenset()
        self._known: dict[str, DiskFact] = {}
        self._told = Told()
        self._progress: dict[str, str] = {}
        self._looking: asyncio.Task[None] | None = None
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for half in directory.glob(".new-*"):
            half.unlink()
        files.clear(directory)
        super().__init__(Disk, directory)

    def path(self, name: str) -> Path:
        return self._directory / f"{name}.raw"

    def facts(self) -> Known:
        return {
            UnusedDiskFact: dict.fromkeys(self._unused, UnusedDiskFact()),
            DiskFact: self._known,
            DiskUseFact: {name: DiskUseFact(used) for name, used in self._told.used.items()},
        }

    def watch(self, dirty: Callable[[], None]) -> None:
        super().watch(dirty)
        self._looking = asyncio.create_task(self._look_at_use(dirty), name="use of disks")

    async def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        await super().close()

    def usage(self) -> Iterator[Usage]:
        """Of disks that tell, exactly. Blocks."""
        for name, used in self._used().items():
            card = self._card(name)
            origin = (card.origin if card is not None else None) or Disk.origin_of(name)
            with contextlib.suppress(FileNotFoundError):
                size = self.path(name).stat().st_size
                if origin is not None:
                    yield Usage(origin, size, used)

    async def _look_at_use(self, dirty: Callable[[], None]) -> None:
        """Nothing tells of what a guest writes."""
        while True:
            await asyncio.sleep(SECONDS)
            if self._told.see(await in_thread(self._used)):
                dirty()

    def progress(self, key: str) -> str:
        return self._progress.get(key, "")

    def _used(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for path in self._directory.glob("[!.]*.raw"):
            with contextlib.suppress(OSError):
                if (used := used_of(path)) is not None:
                    found[path.stem] = used
        return found

    async def observe(self, wanted: Sequence[Item]) -> Mapping[str, Observed]:
        seen = await super().observe(wanted)
        self._told.see(await in_thread(self._used))
        self._unused = frozenset(key.removeprefix("disk/") for key, thing in seen.items() if thing.unused)
        return seen

    def _observe(self, wanted: Mapping[str, Disk]) -> dict[str, Observed]:
        observed: dict[str, Observed] = {}
        known: dict[str, DiskFact] = {}
        for path in self._directory.glob("[!.]*.raw"):
            name = path.name.removesuffix(".raw")
            try:
                size = path.stat().st_size
                known[name] = self._fact(path, size)
            except FileNotFoundError:
                continue
            card, asked = self._card(name), wanted.get(name)
            format_ = card.format if card is not None else None if asked is not None else _format_of(path)
            owner = card.owner if card is not None else ""
            origin = (card.origin if card is not None else None) or Disk.origin_of(name)
            item = Disk(name=name, size=size, format=format_, owner=owner, origin=origin) if format_ is not None else None
            if item is not None and asked is not None:
                item = as_asked(item, asked, self.path(asked.adopted).exists())
            never_used = unused.is_unused(path)
            observed[f"disk/{name}"] = Observed(f"disk/{name}", item, owner, holds_data=True, origin=origin, unused=never_used)
        self._known = known
        return observed

    def _fact(self, path: Path, size: int) -> DiskFact:
        if (system := _system(path)) is not None:
            plain = diskcontent.plain(path)
            return DiskFact(size=size, written=system, plain=plain, mountable=plain == diskcontent.BTRFS)
        before = self._known.get(path.stem)
        if before is not None and before.holds:  # which is never less
            return replace(before, size=size)
        held = diskcontent.of_others(path)
        return DiskFact(size=size, holds=held, partitioned=bool(held) and diskcontent.is_partitioned(path))

    def _card(self, name: str) -> Card | None:
        try:
            card = json.loads((self._directory / f"{name}.json").read_text())
            origin = Owner.model_validate(card["origin"]) if "origin" in card else None
            return Card(str(card["owner"]), "ext4" if card["format"] == "ext4" else "btrfs", origin)
        except (FileNotFoundError, IsADirectoryError, ValueError, KeyError, TypeError, ValidationError):
            return None

    def _file(self, name: str) -> Path:
        return self.path(name)

    def _refuse_impossible(self, item: Disk) -> None:
        if not _NAME.fullmatch(item.name):
            raise DriverError(f"{item.name!r} can't be the name of a disk")
        if item.size < _SMALLEST[item.format]:
            raise DriverError(f"{item.size} bytes are too small for {item.format}: at least {amount(_SMALLEST[item.format])}")

    async def _make(self, item: Disk) -> None:
        new = self._directory / f".new-{item.name}.raw"
        try:
            await in_thread(self._reserve_new, new, item)
            if item.source:
                await self._copy(new, item)
            else:
                await run(*_mkfs(item), str(new), timeout=600)
            await in_thread(self._finish, new, item)
        finally:
            self._progress.pop(item.key, None)
            await in_thread(new.unlink, missing_ok=True)

    async def _copy(self, new: Path, item: Disk) -> None:
        source = self.path(item.source)
        card = self._card(item.source)
        found = card.format if card is not None else None
        if found not in (None, item.format):
            raise DriverError(f"disk {item.source} is formatted as {found}, not {item.format}")
        if source.exists():
            _can_become(item, source.stat().st_size)
        fd = await in_thread(os.open, new, os.O_RDWR | os.O_CLOEXEC)
        try:
            await in_thread(_refuse_half_written, source)
            await copy(source, fd, self._may_be_in_use, lambda how: self._progress.update({item.key: how}))
            await in_thread(btrfsid.renew, fd)
        finally:
            os.close(fd)

    async def _may_be_in_use(self, path: Path) -> bool:
        return self._in_use is not None and await self._in_use(path)

    def _reserve_new(self, new: Path, item: Disk) -> None:
        fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            reserve(fd, 0, item.size, f"disk {item.name}")
            os.ftruncate(fd, item.size)
        finally:
            os.close(fd)

    def _finish(self, new: Path, item: Disk) -> None:
        with open(new, "rb") as file:
            os.fsync(file.fileno())
        self.write_card(item)
        if item.source:
            systemcard.copy(self.path(item.source), self.path(item.name))
        else:
            unused.mark(new, self.path(item.name))
        new.rename(self.path(item.name))
        files.sync(self._directory)

    async def _adopt(self, item: Disk) -> None:
        old = self.path(item.adopted)
        if not old.exists():
            raise DriverError(nothing_to_adopt(item))
        if self._in_use is not None and await self._in_use(old):
            raise DriverError(f"a guest runs with disk {item.adopted}: it is taken over when that has ended (runPolicy Halted)")
        card = self._card(item.adopted)
        found = card.format if card is not None else await in_thread(_format_of, old)
        if found not in (None, item.format):
            raise DriverError(f"disk {item.adopted} is formatted as {found}, not {item.format}: it stays in quarantine")
        _can_become(item, old.stat().st_size)
        await in_thread(self._rename, old, item)

    def _rename(self, old: Path, item: Disk) -> None:
        self.write_card(item)
        new = self.path(item.name)
        systemcard.copy(old, new)
        old.rename(new)
        files.sync(self._directory)
        self._forget(item.adopted)

    async def _mend(self, item: Disk) -> None:
        path = self.path(item.name)
        size = path.stat().st_size
        card = self._card(item.name)
        found = card.format if card is not None else await in_thread(_format_of, path)
        if found not in (None, item.format):
            raise DriverError(f"disk {item.name} is formatted as {found}, not {item.format}, and keeps what it holds")
        _can_become(item, size)
        if card is None:
            await in_thread(self.write_card, item)
        if item.size > size:
            never_used = await in_thread(unused.is_unused, path)
            await in_thread(self._reserve_more, path, item, size)
            # The size changes last, and at once: until then a crash leaves only a reservation that nobody sees.
            if self._resize is None or not await self._resize(path, item.size):
                await in_thread(os.truncate, path, item.size)
                if never_used:
                    await in_thread(unused.mark, path)

    def _reserve_more(self, path: Path, item: Disk, size: int) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            reserve(fd, size, item.size, f"disk {item.name}")
        except DriverError:
            os.ftruncate(fd, size)  # gives back what was got of it
            raise
        finally:
            os.close(fd)

    def _remove(self, name: str, never_used: bool) -> None:
        path = self.path(name)
        if never_used and path.exists() and not unused.is_unused(path):
            raise DriverError(used_meanwhile("disk", name))
        path.unlink(missing_ok=True)
        self._forget(name)

    def _forget(self, name: str) -> None:
        unused.end(self.path(name))
        systemcard.end(self.path(name))
        (self._directory / f"{name}.json").unlink(missing_ok=True)
        files.sync(self._directory)

    def write_card(self, item: Disk) -> None:
        """Whose a disk is, beside it. Raises OSError."""
        origin = {"origin": item.origin.wire()} if item.origin is not None else {}
        card = {"owner": item.owner, "format": item.format, **origin}
        files.write(self._directory / f"{item.name}.json", json.dumps(card), files.Durability.DURABLE)


def _system(path: Path) -> Written | None:
    """What was written on it to the end, by its card."""
    with contextlib.suppress(ValueError):
        if (card := systemcard.whole(path)) is not None:
            return Written(image=card.image, ref=card.ref, firmware=card.firmware)
    return None


def _format_of(path: Path) -> Format | None:
    """By what its file system says of itself; None: it says nothing."""
    with open(path, "rb") as file:
        for name, offset, magic in _MAGIC:
            file.seek(offset)
            if file.read(len(magic)) == magic:
                return name
    return None


def _can_become(item: Disk, size: int) -> None:
    """Raises DriverError for a disk of a size that can't have the one asked for."""
    refuse_to_shrink(item, size)
    if item.format == "btrfs" and size + BLOCK <= item.size < _BTRFS_GROWN:
        raise DriverError(
            f"disk {item.name} has {amount(size)} and can't grow to {amount(item.size)}: its file system grows to "
            f"{amount(_BTRFS_GROWN)} or more only; ask for that, or for {amount(size)} again"
        )


def _refuse_half_written(source: Path) -> None:
    """Raises DriverError for a virtual machine's disk that is not complete."""
    if systemcard.is_half(source):
        raise DriverError(f"disk {source.stem} is being written from an image: the copy waits for that")
    try:
        systemcard.read(source)
    except ValueError as error:
        raise DriverError(str(error)) from error


def _mkfs(item: Disk) -> tuple[str, ...]:
    # Never a discard: it would give back what was just reserved. The file is zero: nothing needs zeroing.
    if item.format == "ext4":
        return ("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "nodiscard,assume_storage_prezeroed=1")
    return ("mkfs.btrfs", "-q", "-f", "-K", *(("--mixed",) if item.size < _BTRFS_PLAIN else ()))
