"""What a node is at when its power is cut: its drivers over one state directory, in a process that may die anywhere."""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

from zos.drivers import Driver
from zos.drivers.disk import DiskDriver
from zos.drivers.image import ImageDriver
from zos.drivers.sources import Sources
from zos.drivers.systems import SystemDriver
from zos.plan.diff import diff
from zos.plan.facts import DiskFact, ImageFact
from zos.plan.items import Disk, Image, Item, System

MiB = 1 << 20
#: Where a disk's guest writes its records: behind what mkfs has put there, each in a block of its own.
RECORDS, RECORD = 8 * MiB, 4096
#: Of disks: the one that begins as an image, one that grows under its guest, and the copy of that.
WRITTEN, GROWN, COPY = "mount-written", "mount-grown", "mount-copy"
SMALLEST, STEP, LARGEST = 256 * MiB, 5 * MiB, 320 * MiB

Task = Callable[[Path, Path, Connection], None]


class Node:
    """The drivers of a node that has just been booted, or whose agent has begun anew."""

    def __init__(self, state: Path, sources: Path) -> None:
        self.images = ImageDriver(state / "images", Sources(directories=(sources,)))
        self.disks = DiskDriver(state / "disks")
        self.systems = SystemDriver(state / "disks", state / "images")
        self.tree = Image(ref=f"file://{sources}/tree.tar", owner="w")
        self.raw = Image(ref=f"file://{sources}/disk.raw", owner="w")

    async def converge(self, *wanted: Item) -> None:
        for driver in (self.images, self.disks, self.systems):
            await _converge(driver, [item for item in wanted if isinstance(item, driver.ITEMS)])

    async def write(self) -> None:
        """What a ZMount that begins as an image comes to."""
        disk = Disk(name=WRITTEN, size=64 * MiB, format="btrfs", owner="w")
        await self.converge(self.raw, disk)
        fact = await self.image(self.raw)
        assert fact is not None
        await self.converge(System(disk=WRITTEN, image=fact.digest, ref=self.raw.ref, owner="w"))

    async def image(self, image: Image) -> ImageFact | None:
        await self.images.observe([image])
        found = self.images.facts()[ImageFact].get(image.name)
        assert found is None or isinstance(found, ImageFact)
        return found

    async def disk(self, name: str) -> DiskFact | None:
        await self.disks.observe([])
        found = self.disks.facts()[DiskFact].get(name)
        assert found is None or isinstance(found, DiskFact)
        return found


async def _converge(driver: Driver, wanted: Sequence[Item]) -> None:
    ops = [op for op in diff(wanted, await driver.observe(wanted)) if op.item is not None]
    for op in ops:
        await driver.apply(op)


def record(number: int) -> bytes:
    return struct.pack("<Q", number) * (RECORD // 8)


def run(task: Task, state: Path, sources: Path, told: Connection, log: Path) -> None:
    """In a process of its own. What it says when its disk goes from under it is no news."""
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(fd, 2)
    task(state, sources, told)


def unpack(state: Path, sources: Path, told: Connection) -> None:
    node = Node(state, sources)
    asyncio.run(node.converge(node.tree))


def write(state: Path, sources: Path, told: Connection) -> None:
    asyncio.run(Node(state, sources).write())


def copy(state: Path, sources: Path, told: Connection) -> None:
    size = (state / "disks" / f"{GROWN}.raw").stat().st_size
    asyncio.run(Node(state, sources).converge(Disk(name=COPY, size=size, format="btrfs", owner="w", source=GROWN)))


def grow(state: Path, sources: Path, told: Connection) -> None:
    """A guest writes on, and is told that each record is safe, while its disk grows under it."""
    asyncio.run(_grow(Node(state, sources), told))


async def _grow(node: Node, told: Connection) -> None:
    path = node.disks.path(GROWN)
    size = path.stat().st_size if path.exists() else SMALLEST
    disk = Disk(name=GROWN, size=size, format="btrfs", owner="w")
    await node.converge(disk)
    told.send(0)  # whether there is a disk that anybody may rely on
    guest = asyncio.create_task(asyncio.to_thread(_guest, path, told))
    while not guest.done() and disk.size + STEP <= LARGEST:
        disk = replace(disk, size=disk.size + STEP)
        await node.converge(disk)
    await guest


def _guest(path: Path, told: Connection) -> None:
    fd = os.open(path, os.O_RDWR | os.O_DSYNC)
    number = last(fd)
    while True:
        number += 1
        os.pwrite(fd, record(number), RECORDS + number * RECORD)
        told.send(number)


def last(fd: int) -> int:
    """The highest record up to which all are there."""
    number = 0
    while os.pread(fd, RECORD, RECORDS + (number + 1) * RECORD) == record(number + 1):
        number += 1
    return number
