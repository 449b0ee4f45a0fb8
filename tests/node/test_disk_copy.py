"""Disks that begin as a copy of another: real files and file systems, mounted beside each other."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from zos.api.nodeworkload import Owner
from zos.drivers import DriverError, btrfsid, diskcopy, systemcard, unused
from zos.drivers.disk import DiskDriver
from zos.drivers.systemcard import SystemCard
from zos.plan.diff import Op, diff
from zos.plan.items import Disk

MiB = 1 << 20


def disk(name: str, size: int = 64 * MiB, source: str = "", format: str = "btrfs") -> Disk:
    owner = Owner(kind="ZMount", namespace="default", name=name, uid=name)
    source = f"mount-{source}" if source else ""
    return Disk(name=f"mount-{name}", size=size, format=format, owner=f"w-{name}", origin=owner, source=source)  # type: ignore[arg-type]


async def converge(driver: DiskDriver, *wanted: Disk) -> list[str]:
    ops = diff(wanted, await driver.observe(wanted))
    for op in ops:
        await driver.apply(op)
    return [f"{op.verb} {op.key}" for op in ops]


@contextmanager
def mounted(driver: DiskDriver, name: str, at: Path) -> Iterator[Path]:
    at.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", "loop", driver.path(f"mount-{name}"), at], check=True)
    try:
        yield at
    finally:
        subprocess.run(["umount", at], check=True)


@pytest.fixture
async def driver(tmp_path: Path) -> DiskDriver:
    """With a disk ``a`` that somebody has written to."""
    driver = DiskDriver(tmp_path / "disks")
    await converge(driver, disk("a"))
    unused.end(driver.path("mount-a"))
    with mounted(driver, "a", tmp_path / "a") as at:
        (at / "kept").write_bytes(b"precious")
        (at / "large").write_bytes(os.urandom(12 * MiB))
    return driver


async def test_a_copy_has_all_of_it_and_is_another_file_system(driver: DiskDriver, tmp_path: Path) -> None:
    before = driver.path("mount-a").read_bytes()
    assert await converge(driver, disk("a"), disk("b", 300 * MiB, "a")) == ["create disk/mount-b"]
    assert await converge(driver, disk("a"), disk("b", 300 * MiB)) == []  # what it was made from is no part of what it is
    await converge(driver, disk("c", 300 * MiB, "b"))  # a copy of a copy
    path = driver.path("mount-b")
    assert (path.stat().st_size, path.stat().st_blocks * 512 >= 300 * MiB) == (300 * MiB, True)
    assert not unused.is_unused(path), "it holds data, though no guest had it"
    with (
        mounted(driver, "a", tmp_path / "a") as a,
        mounted(driver, "b", tmp_path / "b") as b,
        mounted(driver, "c", tmp_path / "c") as c,
    ):
        assert len({os.stat(at).st_dev for at in (a, b, c)}) == 3
        for at in (b, c):
            assert (at / "kept").read_bytes() == b"precious"
            assert (at / "large").read_bytes() == (a / "large").read_bytes()
        (b / "kept").write_bytes(b"other")
        assert ((a / "kept").read_bytes(), (c / "kept").read_bytes()) == (b"precious", b"precious")
    check = subprocess.run(["btrfs", "check", "--readonly", path], capture_output=True, text=True)
    assert check.returncode == 0, check.stderr
    assert len(before) == driver.path("mount-a").stat().st_size


async def test_a_copy_without_a_btrfs_is_the_same_to_the_byte(tmp_path: Path) -> None:
    driver = DiskDriver(tmp_path / "disks")
    await converge(driver, disk("a", format="ext4"))
    with open(driver.path("mount-a"), "r+b") as file:
        file.seek(40 * MiB - 3)
        file.write(b"precious")
    await converge(driver, disk("a", format="ext4"), disk("b", source="a", format="ext4"))
    assert driver.path("mount-b").read_bytes() == driver.path("mount-a").read_bytes()


async def test_a_machine_that_was_just_stopped_is_waited_for(driver: DiskDriver, tmp_path: Path) -> None:
    looks = iter([True, True, False, False])

    async def in_use(_: Path) -> bool:
        return next(looks)

    await converge(DiskDriver(tmp_path / "disks", in_use=in_use), disk("a"), disk("b", source="a"))
    with mounted(driver, "b", tmp_path / "b") as at:
        assert (at / "kept").read_bytes() == b"precious"


async def test_what_is_used_meanwhile_is_copied_anew(
    driver: DiskDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diskcopy, "_MOMENT", 1.0)
    use = {"now": True}

    async def in_use(path: Path) -> bool:
        assert path == driver.path("mount-a")
        return use["now"]

    driver = DiskDriver(tmp_path / "disks", in_use=in_use)
    with pytest.raises(DriverError, match=r"mount-a is in use, .* stop the machine that has it"):
        await converge(driver, disk("a"), disk("b", source="a"))
    use["now"] = False

    def write(how: str) -> None:
        with open(driver.path("mount-a"), "r+b") as file:
            file.write(b"x")

    target = os.open(tmp_path / "target", os.O_RDWR | os.O_CREAT)
    with pytest.raises(DriverError, match="in use"):
        await diskcopy.copy(driver.path("mount-a"), target, in_use, write)
    os.close(target)
    assert not list((tmp_path / "disks").glob("*mount-b*"))
    await converge(driver, disk("a"), disk("b", source="a"))
    with mounted(driver, "b", tmp_path / "b") as at:
        assert (at / "kept").read_bytes() == b"precious"


async def test_one_that_was_cut_off_starts_over(driver: DiskDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diskcopy, "_STEP", MiB)
    reached = asyncio.Event()
    monkeypatch.setattr(btrfsid, "renew", lambda fd: reached.set())
    making = asyncio.create_task(driver.apply(Op("create", "disk/mount-b", disk("b", source="a"))))
    async with asyncio.timeout(20):
        while not driver.progress("disk/mount-b"):
            await asyncio.sleep(0)
    assert driver.progress("disk/mount-b").startswith("copying, ")
    making.cancel()
    with pytest.raises(asyncio.CancelledError):
        await making
    assert not reached.is_set()
    assert driver.progress("disk/mount-b") == ""
    assert not list((tmp_path / "disks").glob("*mount-b*"))
    (tmp_path / "disks" / ".new-mount-b.raw").write_bytes(b"half")  # of an agent that was killed
    again = DiskDriver(tmp_path / "disks")
    monkeypatch.undo()
    assert await converge(again, disk("a"), disk("b", source="a")) == ["create disk/mount-b"]
    with mounted(again, "b", tmp_path / "b") as at:
        assert (at / "kept").read_bytes() == b"precious"


async def test_what_is_here_is_never_copied_over(driver: DiskDriver, tmp_path: Path) -> None:
    await converge(driver, disk("a"), disk("b"))
    with mounted(driver, "b", tmp_path / "b") as at:
        (at / "own").write_bytes(b"own")
    assert await converge(driver, disk("a"), disk("b", source="a")) == []
    await driver.apply(Op("create", "disk/mount-b", disk("b", source="a")))
    with mounted(driver, "b", tmp_path / "b") as at:
        assert (at / "own").read_bytes() == b"own"


async def test_a_machines_system_is_known_for_one_and_copied_when_it_is_whole(driver: DiskDriver) -> None:
    source = driver.path("mount-a")
    card = SystemCard(image="sha256:one", ref="oci://r/vm:1", firmware="uefi", done=False)
    systemcard.write(source, card)
    with pytest.raises(DriverError, match="mount-a is being written from an image"):
        await converge(driver, disk("a"), disk("b", source="a"))
    systemcard.write(source, replace(card, done=True))
    await converge(driver, disk("a"), disk("b", source="a"))
    assert systemcard.read(driver.path("mount-b")) == replace(card, done=True)


async def test_what_can_not_be_copied_says_why(driver: DiskDriver, tmp_path: Path) -> None:
    for wanted, words in (
        (disk("b", source="absent"), "disk mount-absent is not on this node: there is nothing to copy"),
        (disk("b", 32 * MiB, "a"), "has 64Mi and can't shrink to 32Mi"),
        (disk("b", source="a", format="ext4"), "formatted as btrfs, not ext4"),
        (disk("b", 1 << 50, "a"), "free on the node's file system"),
    ):
        with pytest.raises(DriverError, match=words):
            await converge(driver, disk("a"), wanted)
        assert not list((tmp_path / "disks").glob("*mount-b*"))


def test_a_superblock_that_is_not_right_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    with open(path, "wb") as file:
        file.truncate(64 * MiB)
    subprocess.run(["mkfs.btrfs", "-q", "--mixed", path], check=True)
    with open(path, "r+b") as file:
        file.seek((64 << 10) + 0x100)
        file.write(b"x")
    before = path.read_bytes()
    fd = os.open(path, os.O_RDWR)
    assert not btrfsid.renew(fd)
    os.close(fd)
    assert path.read_bytes() == before
    assert btrfsid.crc32c(b"123456789") == 0xE3069283
