"""Virtual machines' systems: an image's disk onto a disk of the machine's, once, and never over what is somebody's."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from zos.drivers import DriverError, halfwritten, systemcard, systems, unused
from zos.drivers.disk import DiskDriver
from zos.drivers.imagecache import directory_of
from zos.drivers.systems import SystemDriver
from zos.plan.diff import Op, diff
from zos.plan.facts import DiskFact, UnusedDiskFact, Written
from zos.plan.items import Disk, System

MiB = 1 << 20
IMAGE = "sha256:" + "1" * 64
SYSTEM = System(disk="mount-1", image=IMAGE, ref="oci://r/i:1", firmware="uefi", owner="w-1")
DISK = Disk(name="mount-1", size=64 * MiB, format="btrfs", owner="w-2")
AS_IT_IS = System(disk="mount-1", image="", ref="", owner="w-1")
WRITTEN = Written(image=IMAGE, ref="oci://r/i:1", firmware="uefi")


class Place:
    """The two drivers of one directory, and an image with something at its beginning, in its middle and at its end."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.image = directory_of(state / "images", IMAGE) / "disk.raw"
        self.image.parent.mkdir(parents=True, exist_ok=True)
        with open(self.image, "wb") as file:
            file.truncate(32 * MiB)
            for at in (0, 16 * MiB, 32 * MiB - 512):
                file.seek(at)
                file.write(b"system".ljust(510, b".") + b"\x55\xaa")
        self.disks = DiskDriver(state / "disks")
        self.systems = SystemDriver(state / "disks", state / "images")
        self.path = state / "disks" / "mount-1.raw"

    async def converge(self, *wanted: Disk | System) -> list[str]:
        done = []
        for driver, kind in ((self.disks, Disk), (self.systems, System)):
            mine = [item for item in wanted if isinstance(item, kind)]
            ops = diff(mine, await driver.observe(mine))
            for op in ops:
                await driver.apply(op)
            done += [f"{op.verb} {op.key}" for op in ops]
        return done

    async def fact(self, name: str = "mount-1") -> DiskFact:
        await self.disks.observe([DISK])
        found = self.disks.facts()[DiskFact][name]
        assert isinstance(found, DiskFact)
        return found


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


async def test_it_is_written_once_and_stays_reserved(place: Place) -> None:
    assert await place.converge(DISK, SYSTEM) == ["create disk/mount-1", "create system/mount-1"]
    content = place.path.read_bytes()
    assert content[: 32 * MiB] == place.image.read_bytes()
    assert not any(content[32 * MiB :]), "nothing is left of what the disk was formatted as"
    assert place.path.stat().st_blocks * 512 >= 64 * MiB
    assert await place.fact() == DiskFact(size=64 * MiB, written=WRITTEN)
    assert "mount-1" in place.disks.facts()[UnusedDiskFact], "nobody's data is on it yet"
    assert await place.converge(DISK, SYSTEM) == []
    assert await place.converge(DISK, replace(SYSTEM, image="sha256:" + "2" * 64)) == [], "whatever is wanted later"
    unused.end(place.path)
    assert await Place(place.state).fact() == DiskFact(size=64 * MiB, written=WRITTEN), "it is known to the next agent"


async def test_it_goes_with_its_disk_and_with_its_name(place: Place) -> None:
    await place.converge(DISK, SYSTEM)
    heir = replace(DISK, name="mount-2", adopt="1")
    await place.disks.observe([heir])
    await place.disks.apply(Op("create", heir.key, item=heir))
    assert (await place.fact("mount-2")).written == WRITTEN
    assert sorted(path.name for path in (place.state / "disks").glob("*.system")) == ["mount-2.system"]
    seen = await place.disks.observe([])
    await place.disks.apply(Op("remove", "disk/mount-2", observed=seen["disk/mount-2"]))
    assert list((place.state / "disks").iterdir()) == []


def used(place: Place) -> None:
    unused.end(place.path)


def used_and_blank(place: Place) -> None:
    used(place)
    with open(place.path, "r+b") as file:
        file.write(bytes(MiB))


def used_with_partitions(place: Place) -> None:
    used_and_blank(place)
    with open(place.path, "r+b") as file:
        file.seek(512)
        file.write(b"EFI PART")


def used_and_its_card_is_broken(place: Place) -> None:
    used(place)
    place.path.with_suffix(".system").write_text("{}")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (used, "a btrfs file system"),
        (used_and_blank, "data of a machine that had it"),
        (used_with_partitions, "a partition table (GPT)"),
        (used_and_its_card_is_broken, "what nobody knows any more"),
    ],
)
async def test_what_somebody_had_is_never_overwritten(place: Place, change: Callable[[Place], None], said: str) -> None:
    await place.converge(DISK)
    change(place)
    before = place.path.read_bytes()
    with pytest.raises(DriverError, match=r"disk mount-1 holds .* and is not overwritten") as refused:
        await place.converge(DISK, SYSTEM)
    assert said in str(refused.value)
    assert said in (await place.fact()).holds
    assert place.path.read_bytes() == before


async def test_a_writing_that_was_cut_off_starts_over(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    await place.converge(DISK)

    def crash(fd: int, content: bytes, at: int) -> int:
        if at:
            raise OSError(5, "cut off")
        return os.pwrite(fd, content, at)

    monkeypatch.setattr(systems, "_put", crash)
    with pytest.raises(DriverError, match="cut off"):
        await place.converge(DISK, SYSTEM)
    monkeypatch.undo()
    again = Place(place.state)
    assert await again.fact() == DiskFact(size=64 * MiB), "what is half written is nobody's loss, and no system"
    other = replace(SYSTEM, image="sha256:" + "2" * 64)
    with pytest.raises(DriverError, match="is not on this node any more"):
        await again.converge(DISK, other)
    assert await again.converge(DISK, SYSTEM) == ["create system/mount-1"]
    assert again.path.read_bytes()[: 32 * MiB] == again.image.read_bytes()


@pytest.fixture
async def half(place: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A writing was cut off when all but the first sector was there."""
    await place.converge(DISK)

    def crash(fd: int, sector: bytes) -> None:
        raise OSError(5, "cut off")

    with monkeypatch.context() as cut:
        cut.setattr(halfwritten, "finish", crash)
        with pytest.raises(DriverError, match="cut off"):
            await place.converge(DISK, SYSTEM)
    assert place.path.read_bytes()[512 : 32 * MiB] == place.image.read_bytes()[512:]
    return Place(place.state)


def nothing_more(place: Place) -> None:
    pass


def its_card_is_lost(place: Place) -> None:
    systemcard.end(place.path)


def its_card_is_broken(place: Place) -> None:
    place.path.with_suffix(".system").write_text("{}")


@pytest.mark.parametrize("change", [nothing_more, its_card_is_lost, its_card_is_broken])
async def test_nothing_half_written_is_taken_for_whole_whatever_is_beside_it(
    half: Place, change: Callable[[Place], None]
) -> None:
    change(half)
    assert await half.fact() == DiskFact(size=64 * MiB), "nobody's loss, and no system"
    with pytest.raises(DriverError, match="mount-1 is half written"):
        await half.converge(DISK, AS_IT_IS)
    assert await half.converge(DISK, SYSTEM) == ["create system/mount-1"]
    assert half.path.read_bytes()[: 32 * MiB] == half.image.read_bytes()


async def test_what_was_formatted_since_it_was_half_written_is_not_overwritten(half: Place) -> None:
    """By the guest of an agent that knows no systems, or by who brought another file back."""
    with open(half.path, "r+b") as file:
        file.write(bytes(512))
        file.seek(0x438)
        file.write(b"\x53\xef")
    card = systemcard.read(half.path)
    assert card is not None
    systemcard.write(half.path, replace(card, done=False))
    assert (await half.fact()).holds == "an ext4 file system"
    with pytest.raises(DriverError, match="is not overwritten"):
        await half.converge(DISK, SYSTEM)


async def test_a_disk_whose_card_is_lost_is_a_system_by_its_users_word(place: Place) -> None:
    await place.converge(DISK, SYSTEM)
    unused.end(place.path)
    systemcard.end(place.path)
    again = Place(place.state)
    there = DiskFact(size=64 * MiB, holds="a partition table (MBR)", partitioned=True)
    assert await again.fact() == there
    before = again.path.read_bytes()
    assert await again.converge(DISK, AS_IT_IS) == ["create system/mount-1"]
    assert (await again.fact()).written == Written(image="", ref="")
    assert again.path.read_bytes() == before
    assert await again.converge(DISK, SYSTEM) == [], "and is not written over"


async def test_what_no_machine_could_boot_from_is_no_system_whatever_is_said(place: Place) -> None:
    await place.converge(DISK)
    with pytest.raises(DriverError, match="mount-1 holds a btrfs file system, and no partition table"):
        await place.converge(DISK, AS_IT_IS)
    assert systemcard.read(place.path) is None


async def test_a_writing_that_nobody_waits_for_ends(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    await place.converge(DISK)
    begun, loop = asyncio.Event(), asyncio.get_running_loop()
    written: list[int] = []

    def slow(fd: int, content: bytes, at: int) -> int:
        written.append(at)
        loop.call_soon_threadsafe(begun.set)
        while len(written) == 1 and not work.cancelling():
            pass
        if len(written) == 2:
            time.sleep(0.5)  # for the loop to say that it is over
        return os.pwrite(fd, content, at)

    monkeypatch.setattr(systems, "_put", slow)
    work = asyncio.ensure_future(place.systems.apply(Op("create", SYSTEM.key, item=SYSTEM)))
    await begun.wait()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert len(written) <= 2, "it did not go on to the end"
    assert (await place.fact()).written is None


async def test_what_was_half_written_and_then_given_to_a_guest_is_that_guests(place: Place) -> None:
    await place.converge(DISK)
    systemcard.write(place.path, half := systemcard.SystemCard(image=IMAGE, ref="r", firmware="bios", done=False))
    assert (await place.fact()).holds == ""
    unused.end(place.path)
    systemcard.given(place.path)
    assert (await Place(place.state).fact()).holds == "a btrfs file system"
    with pytest.raises(DriverError, match="is not overwritten"):
        await place.converge(DISK, SYSTEM)
    systemcard.write(place.path, replace(half, done=True))
    systemcard.given(place.path)
    assert (await Place(place.state).fact()).written is not None, "what is whole is booted from again"


async def test_a_guest_gets_a_disk_without_the_sign(half: Place) -> None:
    unused.end(half.path)
    systemcard.given(half.path)
    assert systemcard.read(half.path) is None
    assert not halfwritten.is_signed(half.path)
    assert (await Place(half.state).fact()).holds == "data of a machine that had it"


async def test_a_disk_that_is_too_small_is_left_as_it_is(place: Place) -> None:
    await place.converge(small := replace(DISK, size=16 * MiB))
    with pytest.raises(DriverError, match="disk mount-1 has 16Mi, and the image needs 32Mi"):
        await place.converge(small, SYSTEM)
    assert systemcard.read(place.path) is None
    assert "mount-1" in place.disks.facts()[UnusedDiskFact]
