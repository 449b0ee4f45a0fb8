"""Disks: real files, real file systems, a small file system of the test's own where space must run out."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from filesystems import flush, mounted
from zos.api.nodeworkload import Owner
from zos.drivers import DriverError, unused
from zos.drivers.disk import DiskDriver
from zos.plan.diff import Op, diff
from zos.plan.facts import UnusedDiskFact
from zos.plan.items import Disk

MiB = 1 << 20


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "disks"


def disk(size: int = 64 * MiB, *, name: str = "mount-1", format: str = "ext4", owner: str = "w-1") -> Disk:
    return Disk(name=name, size=size, format=format, owner=owner)  # type: ignore[arg-type]


async def converge(
    driver: DiskDriver, *wanted: Disk, erased: frozenset[str] = frozenset(), left: frozenset[str] = frozenset()
) -> list[str]:
    ops = diff(wanted, await driver.observe(wanted), erased, left=left)
    for op in ops:
        await driver.apply(op)
    return [f"{op.verb} {op.key}" for op in ops]


def kind_of(path: Path) -> str:
    return subprocess.run(["blkid", "-p", "-o", "value", "-s", "TYPE", path], capture_output=True, text=True).stdout.strip()


def disk_of(uid: str, **more: Any) -> Disk:
    owner = Owner(kind="ZMount", namespace="default", name=uid, uid=uid)
    return replace(disk(name=f"mount-{uid}", owner=f"w-{uid}"), **{"origin": owner} | more)


def marked(path: Path) -> None:
    """Something that only this disk has, where no file system keeps anything (ext4 leaves the first KiB to boot loaders)."""
    with open(path, "r+b") as file:
        file.write(b"precious")


def reserved(path: Path) -> int:
    return path.stat().st_blocks * 512


@pytest.mark.parametrize("format", ["ext4", "btrfs"])
async def test_a_new_disk_is_formatted_exact_and_reserved(directory: Path, format: str) -> None:
    driver = DiskDriver(directory)
    wanted = disk(300 * MiB + 4096, format=format)
    assert await converge(driver, wanted) == ["create disk/mount-1"]
    path = driver.path("mount-1")
    assert path.stat().st_size == 300 * MiB + 4096
    assert reserved(path) >= path.stat().st_size
    assert kind_of(path) == format
    assert await converge(driver, wanted) == []
    observed = (await driver.observe([]))["disk/mount-1"]
    assert (observed.item, observed.owner, observed.holds_data) == (wanted, "w-1", True)


@pytest.mark.parametrize("format", ["ext4", "btrfs"])
async def test_a_disk_has_whole_blocks_so_that_a_guest_can_write_all_it_sees(directory: Path, format: str) -> None:
    driver = DiskDriver(directory)
    wanted = disk(100_000_000, format=format)
    assert await converge(driver, wanted) == ["create disk/mount-1"]
    path = driver.path("mount-1")
    for write in range(2):
        assert path.stat().st_size == 100_003_840
        assert (await driver.observe([wanted]))["disk/mount-1"].item == wanted
        assert await converge(driver, wanted) == [], write
        seen = json.loads(subprocess.check_output(["qemu-img", "info", "--output=json", "-f", "raw", path]))["virtual-size"]
        last = ["qemu-io", "-f", "raw", "-c", f"write {seen - 512} 512", str(path)]
        assert "wrote 512/512" in subprocess.run(last, capture_output=True, text=True).stdout


@pytest.mark.parametrize("format", ["ext4", "btrfs"])
async def test_a_disk_from_before_is_made_whole_once_a_guest_wrote_its_end(directory: Path, format: str) -> None:
    driver, wanted = DiskDriver(directory), disk(100_000_100, format=format)
    await converge(driver, wanted)
    path = driver.path("mount-1")
    os.truncate(path, wanted.size)
    marked(path)
    assert await converge(driver, wanted) == []  # as long as it works, it is let be
    os.truncate(path, 100_000_256)  # QEMU's answer to a write of the last sector
    assert await converge(driver, wanted) == ["update disk/mount-1"]
    assert path.stat().st_size == 100_003_840
    assert path.read_bytes()[:8] == b"precious"
    assert await converge(driver, wanted) == []


async def test_small_btrfs_and_too_small(directory: Path) -> None:
    driver = DiskDriver(directory)
    await converge(driver, disk(16 * MiB, format="btrfs"))
    assert kind_of(driver.path("mount-1")) == "btrfs"
    with pytest.raises(DriverError, match="at least 16Mi"):
        await converge(driver, disk(16 * MiB, format="btrfs"), disk(MiB, name="mount-2", format="btrfs"))
    assert not list(directory.glob("*mount-2*"))


async def test_what_has_a_name_is_never_formatted(directory: Path) -> None:
    driver = DiskDriver(directory)
    directory.mkdir(exist_ok=True)
    driver.path("mount-1").write_bytes(b"precious" + bytes(64 * MiB - 8))
    # Its card is lost: adopted as it is, whoever asks.
    assert await converge(driver, disk()) == ["update disk/mount-1"]
    await driver.apply(Op("create", "disk/mount-1", disk()))
    assert driver.path("mount-1").read_bytes()[:8] == b"precious"
    with pytest.raises(DriverError, match="keeps what it holds"):
        await converge(driver, disk(format="btrfs"))
    assert driver.path("mount-1").read_bytes()[:8] == b"precious"


async def test_it_grows_with_its_content_and_never_shrinks(directory: Path) -> None:
    driver = DiskDriver(directory)
    await converge(driver, disk(64 * MiB))
    path = driver.path("mount-1")
    head = path.read_bytes()
    assert await converge(driver, disk(96 * MiB)) == ["update disk/mount-1"]
    assert path.stat().st_size == 96 * MiB
    assert reserved(path) >= 96 * MiB
    assert path.read_bytes()[: 64 * MiB] == head
    with pytest.raises(DriverError, match="has 96Mi and can't shrink to 64Mi"):
        await converge(driver, disk(64 * MiB))
    assert path.stat().st_size == 96 * MiB


async def test_a_disk_grows_only_to_what_its_file_system_can_grow_to(directory: Path) -> None:
    """Linux refuses to resize a btrfs to less than 256 MiB, so that the guest would go on with what it had."""
    driver = DiskDriver(directory)
    await converge(driver, disk(64 * MiB, format="btrfs"))
    with pytest.raises(DriverError, match="has 64Mi and can't grow to 256Mi: its file system grows to 256Mi or more only"):
        await converge(driver, disk(256 * MiB - 4096, format="btrfs"))
    assert driver.path("mount-1").stat().st_size == 64 * MiB
    assert await converge(driver, disk(64 * MiB, format="btrfs")) == []
    assert await converge(driver, disk(256 * MiB, format="btrfs")) == ["update disk/mount-1"]
    await converge(driver, disk_of("old", format="btrfs"))
    with pytest.raises(DriverError, match="can't grow to 96Mi"):
        await converge(driver, disk(256 * MiB, format="btrfs"), disk_of("new", adopt="old", format="btrfs", size=96 * MiB))
    assert driver.path("mount-old").exists(), "it stays whose it is"


async def test_a_running_guest_is_told_instead_of_the_file(directory: Path) -> None:
    told: list[tuple[Path, int]] = []

    async def resize(path: Path, size: int) -> bool:
        assert path.stat().st_size == 64 * MiB
        assert reserved(path) >= size
        told.append((path, size))
        return True

    driver = DiskDriver(directory, resize)
    await converge(driver, disk(64 * MiB))
    await converge(driver, disk(96 * MiB))
    assert told == [(driver.path("mount-1"), 96 * MiB)]


async def test_data_goes_only_for_a_word(directory: Path) -> None:
    driver = DiskDriver(directory)
    await converge(driver, disk())
    assert await converge(driver) == []
    assert await converge(driver, erased=frozenset({"somebody"})) == []
    assert await converge(driver, erased=frozenset({"w-1"})) == ["remove disk/mount-1"]
    assert list(directory.iterdir()) == []
    await driver.apply(Op("remove", "disk/mount-1", observed=None))


async def test_what_a_dead_agent_left_half_made_is_cleared(directory: Path) -> None:
    directory.mkdir()
    (directory / ".new-mount-1.raw").write_bytes(b"half")
    (directory / "mount-2.json").write_text(json.dumps({"owner": "w", "format": "ext4"}))  # died before the rename
    driver = DiskDriver(directory)
    assert await driver.observe([]) == {}
    assert await converge(driver, disk(), disk(name="mount-2")) == ["create disk/mount-1", "create disk/mount-2"]


@pytest.fixture
def small(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file system of 200 MiB."""
    format = getattr(request, "param", "ext4")
    with mounted(tmp_path, format, 200 * MiB, "-m", {"ext4": "0", "btrfs": "single"}[format]) as mount:
        yield mount


@pytest.mark.parametrize("small", ["ext4", "btrfs"], indirect=True)
async def test_all_of_a_disk_can_be_written_again_and_again_on_a_full_node(small: Path) -> None:
    driver = DiskDriver(small / "disks")
    await converge(driver, disk(12 * MiB))
    await converge(driver, disk(16 * MiB))
    with open(small / "fill", "wb") as fill:
        for portion in (2**power for power in range(27, 11, -1)):
            with contextlib.suppress(OSError):
                while True:
                    os.posix_fallocate(fill.fileno(), os.fstat(fill.fileno()).st_size, portion)
    flush(small)
    with open(driver.path("mount-1"), "r+b", buffering=0) as file:
        for byte in (b"a", b"b", b"c"):
            file.seek(0)
            for _ in range(16):
                assert file.write(byte * MiB) == MiB
            os.fsync(file.fileno())
    assert driver.path("mount-1").stat().st_size == 16 * MiB


async def test_no_space_says_the_numbers_and_leaves_nothing(small: Path) -> None:
    driver = DiskDriver(small / "disks")
    before = os.statvfs(small).f_bavail
    with pytest.raises(DriverError, match=r"1Gi asked, 1[0-9.]+Mi free"):
        await converge(driver, disk(1024 * MiB))
    assert list((small / "disks").iterdir()) == []
    assert os.statvfs(small).f_bavail >= before - 8
    await converge(driver, disk(64 * MiB))
    left = os.statvfs(small).f_bavail
    with pytest.raises(DriverError, match="free on the node"):
        await converge(driver, disk(512 * MiB))
    assert driver.path("mount-1").stat().st_size == 64 * MiB
    assert os.statvfs(small).f_bavail == left
    await converge(driver, disk(128 * MiB))
    assert reserved(driver.path("mount-1")) >= 128 * MiB


async def test_what_must_exist_is_never_made_empty(directory: Path) -> None:
    driver = DiskDriver(directory)
    with pytest.raises(DriverError, match="holds data and is not on this node; an empty one is not made in its place"):
        await converge(driver, disk_of("a", must_exist=True))
    assert list(directory.iterdir()) == []
    await converge(driver, disk_of("a"))
    assert await converge(driver, disk_of("a", must_exist=True)) == []


async def test_a_disk_says_whose_it_is_even_without_its_card(directory: Path) -> None:
    driver = DiskDriver(directory)
    await converge(driver, disk_of("a"), disk(name="root-b"))
    seen = await driver.observe([])
    assert seen["disk/mount-a"].origin == Owner(kind="ZMount", namespace="default", name="a", uid="a")
    assert seen["disk/root-b"].origin == Owner(kind="ZMachine", namespace="", name="", uid="b")  # an older agent's card
    for card in directory.glob("*.json"):
        card.write_text("garbage")
    seen = await driver.observe([])
    assert {key: thing.origin and thing.origin.uid for key, thing in seen.items()} == {"disk/mount-a": "a", "disk/root-b": "b"}
    assert all(thing.owner == "" and thing.holds_data for thing in seen.values())
    assert [thing.item and thing.item.size for thing in seen.values()] == [64 * MiB] * 2  # type: ignore[attr-defined]


async def test_what_a_disk_without_a_card_is_formatted_as_is_not_guessed(directory: Path) -> None:
    driver = DiskDriver(directory)
    await converge(driver, disk(name="mount-a", format="btrfs"), disk(name="mount-b", format="ext4"))
    for name in ("mount-a", "mount-b"):
        marked(driver.path(name))
        (directory / f"{name}.json").unlink()
    with pytest.raises(DriverError, match="formatted as btrfs, not ext4, and keeps what it holds"):
        await converge(driver, disk(name="mount-a", format="ext4"))
    with pytest.raises(DriverError, match="formatted as ext4, not btrfs, and keeps what it holds"):
        await converge(driver, disk(name="mount-b", format="btrfs"))
    assert not list(directory.glob("*.json"))
    wanted = (disk(name="mount-a", format="btrfs"), disk(name="mount-b", format="ext4"))
    assert await converge(driver, *wanted) == ["update disk/mount-a", "update disk/mount-b"]
    assert await converge(driver, *wanted) == []
    assert all(driver.path(name).read_bytes()[:8] == b"precious" for name in ("mount-a", "mount-b"))


async def test_a_disk_is_taken_over_with_all_that_it_holds(directory: Path) -> None:
    driver = DiskDriver(directory)
    await converge(driver, disk_of("old"))
    marked(driver.path("mount-old"))
    new = disk_of("new", adopt="old", must_exist=True, size=96 * MiB)
    assert await converge(driver, new) == ["create disk/mount-new"]
    assert driver.path("mount-new").read_bytes()[:8] == b"precious"
    assert driver.path("mount-new").stat().st_size == 96 * MiB
    assert sorted(path.name for path in directory.iterdir()) == ["mount-new.json", "mount-new.raw"]
    assert await converge(driver, new) == []
    seen = (await driver.observe([]))["disk/mount-new"]
    assert (seen.owner, seen.origin) == ("w-new", new.origin)


@pytest.mark.parametrize("step", ["card", "rename", "done"])
async def test_taking_over_survives_the_death_of_the_agent(directory: Path, step: str) -> None:
    driver = DiskDriver(directory)
    await converge(driver, disk_of("old"))
    marked(driver.path("mount-old"))
    new = disk_of("new", adopt="old")
    driver.write_card(new)
    if step != "card":
        driver.path("mount-old").rename(driver.path("mount-new"))
    if step == "done":
        (directory / "mount-old.json").unlink()
    again = DiskDriver(directory)
    seen = await again.observe([])
    assert set(seen) == ({"disk/mount-old"} if step == "card" else {"disk/mount-new"})
    await converge(again, new)
    assert set(await again.observe([])) == {"disk/mount-new"}
    assert again.path("mount-new").read_bytes()[:8] == b"precious"
    await again.apply(Op("create", "disk/mount-new", new))  # once more changes nothing
    assert again.path("mount-new").read_bytes()[:8] == b"precious"
    assert sorted(path.name for path in directory.iterdir()) == ["mount-new.json", "mount-new.raw"]


async def test_what_runs_is_not_taken_over_nor_what_is_not_there(directory: Path) -> None:
    used = [True]

    async def in_use(path: Path) -> bool:
        assert path == directory / "mount-old.raw"
        return used[0]

    driver = DiskDriver(directory, in_use=in_use)
    new = disk_of("new", adopt="old")
    with pytest.raises(DriverError, match="nothing to take over"):
        await converge(driver, new)
    await converge(driver, disk_of("old"))
    before = sorted(path.name for path in directory.iterdir())
    with pytest.raises(DriverError, match="a guest runs with disk mount-old"):
        await converge(driver, new)
    assert sorted(path.name for path in directory.iterdir()) == before
    used[0] = False
    await converge(driver, new)
    assert driver.path("mount-new").exists()


async def test_a_disk_that_is_there_is_not_replaced_by_another(directory: Path) -> None:
    driver = DiskDriver(directory)
    await converge(driver, disk_of("old"), disk_of("new"))
    for name in ("mount-old", "mount-new"):
        marked(driver.path(name))
    with pytest.raises(DriverError, match="here already and keeps what it holds, so mount-old stays in quarantine"):
        await converge(driver, disk_of("new", adopt="old"))
    assert {key.removeprefix("disk/") for key in await driver.observe([])} == {"mount-old", "mount-new"}


async def test_a_disk_that_no_guest_ever_had_says_so_until_one_has_it(directory: Path) -> None:
    driver = DiskDriver(directory)
    await converge(driver, disk())
    await converge(driver, disk(96 * MiB))  # grown, it is as empty as before
    (seen,) = (await DiskDriver(directory).observe([])).values()
    assert (seen.unused, seen.holds_data) == (True, True)
    await driver.observe([])
    assert driver.facts()[UnusedDiskFact] == {"mount-1": UnusedDiskFact()}
    unused.end(driver.path("mount-1"))
    with pytest.raises(DriverError, match="disk mount-1 was used since the node looked last"):
        await driver.apply(Op("remove", seen.key, observed=seen))
    assert await converge(driver, left=frozenset({"w-1"})) == []
    assert driver.facts()[UnusedDiskFact] == {}
    await converge(driver, disk(128 * MiB))
    assert not unused.is_unused(driver.path("mount-1"))


async def test_what_is_not_known_to_be_unused_counts_as_used(directory: Path) -> None:
    driver = DiskDriver(directory)
    await converge(driver, disk_of("plain"), disk_of("written"), disk_of("older"), disk_of("given"))
    marked(driver.path("mount-written"))  # by a guest that an agent started that knows of no marks
    (directory / "mount-older.unused").unlink()
    await converge(driver, disk_of("new", adopt="given"))
    assert {name for name in ("plain", "written", "older", "new") if unused.is_unused(driver.path(f"mount-{name}"))} == {
        "plain"
    }
    left = frozenset({"w-plain", "w-written", "w-older", "w-new"})
    assert await converge(driver, left=left) == ["remove disk/mount-plain"]


async def test_a_mark_that_goes_is_heard_of(directory: Path) -> None:
    driver = DiskDriver(directory)
    dirty = asyncio.Event()
    driver.watch(dirty.set)
    await converge(driver, disk())
    await asyncio.sleep(0)
    dirty.clear()
    unused.end(driver.path("mount-1"))
    async with asyncio.timeout(5):
        await dirty.wait()
    await driver.close()


async def test_a_card_without_its_disk_is_cleared(directory: Path) -> None:
    """Of a disk that was being made, taken over or erased when the agent died."""
    await converge(DiskDriver(directory), disk(), disk(name="mount-2"))
    (directory / "mount-1.raw").unlink()
    driver = DiskDriver(directory)
    assert {path.name for path in directory.iterdir()} == {"mount-2.raw", "mount-2.json", "mount-2.unused"}
    assert await converge(driver, disk(name="mount-2")) == []


async def test_what_leads_to_a_place_that_is_not_mounted_is_here(directory: Path, tmp_path: Path) -> None:
    """An administrator has moved the disk, and what it lies on is away."""
    await converge(DiskDriver(directory), disk())
    (directory / "mount-1.raw").rename(tmp_path / "elsewhere")
    (directory / "mount-1.raw").symlink_to(tmp_path / "away" / "mount-1.raw")
    driver = DiskDriver(directory)
    assert (directory / "mount-1.json").exists()
    with pytest.raises(DriverError):
        await converge(driver, disk())
    assert (directory / "mount-1.raw").is_symlink(), "no empty one was made in its place"
    (tmp_path / "away").mkdir()
    (tmp_path / "elsewhere").rename(tmp_path / "away" / "mount-1.raw")
    assert await converge(driver, disk()) == []


async def test_a_card_that_can_not_be_cleared_keeps_no_agent_from_starting(directory: Path) -> None:
    (directory / "mount-9.json").mkdir(parents=True)
    driver = DiskDriver(directory)
    await converge(driver, disk())
    assert (directory / "mount-1.raw").exists()


async def test_of_a_disk_that_could_not_be_made_nothing_is_left(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    driver = DiskDriver(directory)
    monkeypatch.setattr(unused, "mark", fails)  # the last thing before it has its name
    with pytest.raises(DriverError, match="Input/output error"):
        await converge(driver, disk())
    assert list(directory.iterdir()) == []
