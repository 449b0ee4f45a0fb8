"""Volumes: real loop devices and file systems, and a small file system of the test's own in the place of the node's."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from filesystems import flush, mounted
from volumes import fails, namespace
from zos.api.nodeworkload import Owner
from zos.drivers import DriverError, ext4, loopmount
from zos.drivers.volume import VolumeDriver
from zos.plan.diff import Op, diff
from zos.plan.facts import VolumeFact
from zos.plan.items import Volume

MiB = 1 << 20
UIDS = {"zdb": 0x7A00_0001, "other": 0x7AFF_FFFF}
#: Where the kernel lets this process grow what is mounted (capabilities(7)).
MAY_GROW = bool(int(Path("/proc/self/status").read_text().split("CapEff:")[1].split()[0], 16) >> 24 & 1)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    yield from _state(tmp_path / "state")


def _state(path: Path) -> Iterator[Path]:
    path.mkdir()
    yield path
    for place in sorted(loopmount.mounts(path / "volumes"), reverse=True):
        subprocess.run(["umount", place], check=True)
    for image in (path / "volumes").glob("*.img"):
        assert loopmount.released(image) is None
    shutil.rmtree(path)  # many times some MiB


@pytest.fixture
def small(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A state directory on a file system of 256 MiB."""
    with mounted(tmp_path, getattr(request, "param", "ext4"), 256 * MiB) as mount:
        yield from _state(mount / "state")


def opened(state: Path) -> VolumeDriver:
    return VolumeDriver(state, UIDS.__getitem__)


def volume(size: int = 32 * MiB, *, name: str = "volume-1", **more: Any) -> Volume:
    return Volume(**{"name": name, "size": size, "user": "zdb", "owner": "w-1"} | more)


def volume_of(uid: str, **more: Any) -> Volume:
    owner = Owner(kind="ZDB", namespace="default", name=uid, uid=uid)
    return replace(volume(name=f"volume-{uid}", owner=f"w-{uid}"), **{"origin": owner} | more)


async def converge(
    driver: VolumeDriver, *wanted: Volume, erased: frozenset[str] = frozenset(), left: frozenset[str] = frozenset()
) -> list[str]:
    ops = diff(wanted, await driver.observe(wanted), erased, left=left)
    for op in ops:
        await driver.apply(op)
    return [f"{op.verb} {op.key}" for op in ops]


def free(path: Path) -> int:
    room = os.statvfs(path)
    return room.f_bavail * room.f_frsize


def fact(driver: VolumeDriver, name: str = "volume-1") -> VolumeFact:
    found = driver.facts()[VolumeFact][name]
    assert isinstance(found, VolumeFact)
    return found


def names(state: Path) -> list[str]:
    return sorted(path.name for path in (state / "volumes").iterdir())


def fill(directory: Path, name: str = "fill") -> int:
    """Writes until there is no room; gives how many bytes were taken."""
    written = 0
    with open(directory / name, "wb", buffering=0) as file:
        for portion in (os.urandom(256 << 10), bytes(4096)):
            try:
                while taken := file.write(portion):
                    written += taken
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
        os.fsync(file.fileno())
    return written


def nested(directory: Path, depth: int) -> None:
    """Directories of the volume's user in each other, deeper than a path is long."""
    at = os.open(directory, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("nested", dir_fd=at)
        os.chown("nested", UIDS["zdb"], UIDS["zdb"], dir_fd=at)
        inner = os.open("nested", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = inner
    os.close(at)


def touched(file: Path) -> bool:
    try:
        file.touch()
    except OSError:
        return False
    return True


def rebooted(state: Path, name: str = "volume-1", wait: bool = True) -> None:
    """What a reboot leaves: no mount, and so no loop device."""
    subprocess.run(["umount", state / "volumes" / name], check=True)
    assert not wait or loopmount.released(state / "volumes" / f"{name}.img") is None


_WORK = """
import os
with open("at-work", "wb", 0) as file:
    while True:
        file.write(b"x" * 512)
        os.fsync(file.fileno())
        print(flush=True)
"""


class Writer:
    """A program of its user's that works in the directory until it is told to end."""

    def __init__(self, directory: Path, user: str = "zdb") -> None:
        command = ["/usr/bin/python3", "-c", _WORK]
        self.process = subprocess.Popen(command, cwd=directory, user=UIDS[user], group=UIDS[user], stdout=subprocess.PIPE)
        self.has_written()

    def has_written(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"\n"

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()


# -- the limit ---------------------------------------------------------------------------------------------------------


async def test_a_new_volume_is_reserved_mounted_and_its_users_own(state: Path) -> None:
    driver, wanted = opened(state), volume(64 * MiB + 100)
    assert await converge(driver, wanted) == ["create volume/volume-1"]
    image, data = state / "volumes/volume-1.img", state / wanted.path
    assert data == driver.data("volume-1")
    assert image.stat().st_size == 64 * MiB + 4096
    assert image.stat().st_blocks * 512 >= image.stat().st_size
    assert (data.stat().st_uid, data.stat().st_gid, data.stat().st_mode & 0o7777) == (UIDS["zdb"], UIDS["zdb"], 0o700)
    assert data.parent.stat().st_uid == 0
    assert [path.name for path in data.iterdir()] == []
    flags = next(
        line.split()[3] for line in Path("/proc/mounts").read_text().splitlines() if line.split()[1] == str(data.parent)
    )
    assert {"rw", "nosuid", "nodev", "noexec", "noatime"} <= set(flags.split(","))
    assert names(state) == ["volume-1", "volume-1.img", "volume-1.json"]
    assert await converge(driver, wanted) == []
    observed = (await driver.observe([wanted]))["volume/volume-1"]
    assert (observed.item, observed.owner, observed.holds_data) == (wanted, "w-1", True)
    assert list(driver.accounts()) == [*UIDS.items()][:1]


async def test_its_limit_is_hard_and_nobody_elses_room_changes(small: Path) -> None:
    driver = opened(small)
    await converge(driver, volume_of("a", size=64 * MiB), volume_of("b", size=32 * MiB))
    flush(small)
    room, other = free(small), free(driver.data("volume-b"))
    taken = sum(fill(driver.data("volume-a"), name) for name in "abc")  # what was kept for metadata may be left over
    assert 48 * MiB < taken <= 64 * MiB
    flush(driver.data("volume-a"), small)
    assert abs(free(small) - room) <= 64 << 10  # the node's file system writes down where what is
    assert free(driver.data("volume-b")) == other
    await driver.observe([])
    seen = fact(driver, "volume-a")
    assert taken <= seen.used <= seen.size <= 64 * MiB
    assert seen.problem == ""


@pytest.mark.parametrize("small", ["ext4", "btrfs"], indirect=True)
async def test_what_is_reserved_can_be_written_on_a_full_node(small: Path) -> None:
    driver = opened(small)
    await converge(driver, volume(64 * MiB))
    for name in "abc":
        fill(small, name)
    assert fill(driver.data("volume-1")) > 48 * MiB
    again = driver.data("volume-1") / "fill"
    with open(again, "r+b", buffering=0) as file:
        for _ in range(3):
            for at in range(0, again.stat().st_size, MiB // 4):
                file.seek(at)
                file.write(b"over")
            os.fsync(file.fileno())
    assert not loopmount.mounts(small / "volumes")[small / "volumes/volume-1"].read_only


async def test_neither_sparse_files_nor_many_small_ones_get_past_it(state: Path) -> None:
    driver = opened(state)
    await converge(driver, volume(16 * MiB))
    data = driver.data("volume-1")
    with open(data / "sparse", "wb") as file:
        file.truncate(1 << 40)
    made = [name for name in map(str, range(20_000)) if touched(data / name)]
    assert 100 < len(made) < 20_000
    (state / "beside").write_bytes(b"others have room")
    assert (state / "volumes/volume-1.img").stat().st_blocks * 512 < 17 * MiB


async def test_trimming_gives_nothing_of_it_back_and_a_hole_is_filled(state: Path) -> None:
    driver = opened(state)
    await converge(driver, volume(64 * MiB))
    subprocess.run(["fstrim", driver.data("volume-1").parent], capture_output=True)
    image = state / "volumes/volume-1.img"
    assert image.stat().st_blocks * 512 >= 64 * MiB
    (driver.data("volume-1") / "kept").write_bytes(b"precious")
    subprocess.run(["fallocate", "--punch-hole", "--offset", str(40 * MiB), "--length", str(8 * MiB), image], check=True)
    assert await converge(driver, volume(64 * MiB)) == ["update volume/volume-1"]
    assert image.stat().st_blocks * 512 >= 64 * MiB
    assert (driver.data("volume-1") / "kept").read_bytes() == b"precious"
    assert await converge(driver, volume(64 * MiB)) == []


async def test_a_full_node_says_the_numbers_and_nothing_is_left(small: Path) -> None:
    driver = opened(small)
    before = free(small)
    with pytest.raises(DriverError, match=r"volume volume-1: 1Gi asked, 2[0-9.]+Mi free on the node"):
        await converge(driver, volume(1024 * MiB))
    assert names(small) == []
    await converge(driver, volume(64 * MiB))
    (driver.data("volume-1") / "kept").write_bytes(b"precious")
    left = free(small)
    assert left <= before - 64 * MiB
    with pytest.raises(DriverError, match="free on the node's file system"):
        await converge(driver, volume(512 * MiB))
    flush(small)
    assert abs(free(small) - left) <= 64 << 10
    assert await converge(driver, volume(64 * MiB)) == []
    assert (driver.data("volume-1") / "kept").read_bytes() == b"precious"


async def test_its_use_is_told_and_small_changes_of_it_are_not(state: Path) -> None:
    driver = opened(state)
    await converge(driver, volume(64 * MiB))
    await driver.observe([])
    first = fact(driver)
    assert first.used < MiB
    for size, told in ((100 << 10, False), (8 * MiB, True)):
        (driver.data("volume-1") / f"{size}").write_bytes(os.urandom(size))
        flush(driver.data("volume-1"))
        await driver.observe([])
        assert (fact(driver) != first) is told
    assert first.used + 8 * MiB <= fact(driver).used <= first.used + 9 * MiB
    rebooted(state)
    await driver.observe([])
    assert fact(driver).used >= 8 * MiB, "as it was when it could be looked at last"


async def test_names_and_sizes_that_can_not_be(state: Path) -> None:
    driver = opened(state)
    with pytest.raises(DriverError, match="at least 16Mi"):
        await converge(driver, volume(MiB))
    with pytest.raises(DriverError, match="can't be the name of a volume"):
        await converge(driver, volume(name="../x"))
    assert names(state) == []


# -- growing -----------------------------------------------------------------------------------------------------------


async def test_it_grows_with_what_it_holds_and_never_shrinks(state: Path) -> None:
    driver = opened(state)
    await converge(driver, volume(32 * MiB))
    (driver.data("volume-1") / "kept").write_bytes(b"precious")
    before = free(driver.data("volume-1"))
    assert await converge(driver, volume(128 * MiB)) == ["update volume/volume-1"]
    image = state / "volumes/volume-1.img"
    assert (image.stat().st_size, image.stat().st_blocks * 512 >= 128 * MiB) == (128 * MiB, True)
    assert free(driver.data("volume-1")) > before + 80 * MiB
    assert (driver.data("volume-1") / "kept").read_bytes() == b"precious"
    assert await converge(driver, volume(128 * MiB)) == []
    assert fact(driver).size > 110 * MiB
    with pytest.raises(DriverError, match="has 128Mi and can't shrink to 32Mi"):
        await converge(driver, volume(32 * MiB))
    assert fill(driver.data("volume-1")) > 96 * MiB
    await converge(driver, volume(128 * MiB + 4096))  # less than a block group
    assert await converge(driver, volume(128 * MiB + 4096)) == []


async def test_it_grows_under_its_users_hands(state: Path) -> None:
    driver = opened(state)
    await converge(driver, volume(32 * MiB))
    data = driver.data("volume-1")
    with Writer(data) as writer:
        inode = data.stat().st_ino
        if MAY_GROW:
            assert await converge(driver, volume(128 * MiB)) == ["update volume/volume-1"]
        else:
            lacks = rf"in use by python\S* \(process {writer.process.pid}\); it grows when that ends.*CAP_SYS_RESOURCE"
            with pytest.raises(DriverError, match=lacks):
                await converge(driver, volume(128 * MiB))
            assert (await driver.observe([]))["volume/volume-1"].item == volume(32 * MiB, whole=False)
        writer.has_written()
        assert data.stat().st_ino == inode
    await converge(driver, volume(128 * MiB))
    assert await converge(driver, volume(128 * MiB)) == []
    assert free(data) > 100 * MiB
    assert (data / "at-work").stat().st_size > 0


@pytest.mark.skipif(MAY_GROW, reason="it grows at once here")
async def test_a_growth_that_waits_can_be_taken_back(small: Path) -> None:
    driver = opened(small)
    await converge(driver, volume(32 * MiB))
    room = free(small)
    with Writer(driver.data("volume-1")) as writer:
        with pytest.raises(DriverError, match="CAP_SYS_RESOURCE"):
            await converge(driver, volume(128 * MiB))
        assert await converge(driver, volume(32 * MiB)) == ["update volume/volume-1"]
        assert await converge(driver, volume(32 * MiB)) == []
        writer.has_written()
    assert (small / "volumes/volume-1.img").stat().st_size == 32 * MiB
    assert free(small) > room - 48 * MiB


# -- what a crash, a reboot and damage leave ---------------------------------------------------------------------------


async def test_a_reboot_or_a_lost_mount_is_mended(state: Path) -> None:
    driver = opened(state)
    await converge(driver, volume())
    (driver.data("volume-1") / "kept").write_bytes(b"precious")
    rebooted(state)
    again = opened(state)
    assert not again.data("volume-1").exists(), "nobody writes to the node's own file system instead"
    assert await converge(again) == []
    assert fact(again).problem == "it is not mounted"
    assert await converge(again, volume()) == ["update volume/volume-1"]
    assert (again.data("volume-1") / "kept").read_bytes() == b"precious"
    assert await converge(again, volume()) == []
    assert fact(again).problem == ""


async def test_an_agent_that_starts_again_disturbs_nothing(state: Path) -> None:
    await converge(opened(state), volume())
    with Writer(opened(state).data("volume-1")) as writer:
        driver = opened(state)
        mounted = loopmount.mounts(state / "volumes")
        assert await converge(driver, volume()) == []
        assert loopmount.mounts(state / "volumes") == mounted
        writer.has_written()


_CONTAINER = """
mount -t tmpfs dev /dev
mknod -m 666 /dev/null c 1 3
mknod -m 666 /dev/zero c 1 5
mknod -m 666 /dev/urandom c 1 9
"""


def test_an_agent_in_a_container_mounts_for_its_node(state: Path) -> None:
    """What it mounts in a directory that it shares with its node is there for all, and stays when the container has gone. (Its
    own /dev knows no loop devices.)"""
    subprocess.run(["mount", "--bind", state, state], check=True)
    try:
        subprocess.run(["mount", "--make-shared", state], check=True)
        child = os.fork()
        if not child:
            try:
                assert ctypes.CDLL(None).unshare(0x00020000) == 0  # CLONE_NEWNS
                subprocess.run(["sh", "-ec", _CONTAINER], check=True)
                asyncio.run(converge(opened(state), volume()))
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        driver = opened(state)
        assert asyncio.run(converge(driver, volume())) == []
        with Writer(driver.data("volume-1")):
            pass
        assert asyncio.run(converge(driver, erased=frozenset({"w-1"}))) == ["remove volume/volume-1"]
    finally:
        subprocess.run(["umount", state], check=True)


async def test_a_mount_that_goes_is_heard_of_and_those_of_others_are_not(state: Path, tmp_path: Path) -> None:
    driver = opened(state)
    await converge(driver, volume())
    dirty = asyncio.Event()
    driver.watch(dirty.set)
    (tmp_path / "others").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", tmp_path / "others"], check=True)
    await asyncio.sleep(0.1)
    assert not dirty.is_set()
    subprocess.run(["umount", tmp_path / "others"], check=True)
    rebooted(state)
    async with asyncio.timeout(10):
        await dirty.wait()
    await driver.close()
    await driver.close()


async def test_something_else_in_its_place_is_said_and_stays(state: Path) -> None:
    driver = opened(state)
    await converge(driver, volume())
    place = driver.data("volume-1").parent
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place], check=True)
    with pytest.raises(DriverError, match="something else is mounted at"):
        await converge(driver, volume())
    assert "something else" in fact(driver).problem
    subprocess.run(["umount", place], check=True)
    assert await converge(driver, volume()) == []


async def test_a_damaged_image_is_said_and_kept(state: Path) -> None:
    driver = opened(state)
    await converge(driver, volume())
    rebooted(state)
    image = state / "volumes/volume-1.img"
    with open(image, "r+b") as file:
        file.write(os.urandom(24 * MiB))
    for _ in range(2):
        with pytest.raises(
            DriverError, match=r"volume-1: its file system can't be mended without a person, and stays as it is"
        ):
            await converge(driver, volume())
    assert image.stat().st_size == 32 * MiB
    assert not driver.data("volume-1").exists()
    assert fact(driver).problem == "it is not mounted"
    assert await converge(driver, erased=frozenset({"w-1"})) == ["remove volume/volume-1"]
    assert names(state) == []


async def test_what_can_be_mended_is(state: Path) -> None:
    driver = opened(state)
    await converge(driver, volume())
    (driver.data("volume-1") / "kept").write_bytes(b"precious")
    rebooted(state)
    image = state / "volumes/volume-1.img"
    subprocess.run(["debugfs", "-w", "-R", "set_super_value free_blocks_count 7", image], check=True, capture_output=True)
    subprocess.run(["debugfs", "-w", "-R", "set_super_value state 2", image], check=True, capture_output=True)
    assert await converge(driver, volume()) == ["update volume/volume-1"]
    assert (driver.data("volume-1") / "kept").read_bytes() == b"precious"
    subprocess.run(["umount", driver.data("volume-1").parent], check=True)
    subprocess.run(["e2fsck", "-f", "-n", image], check=True, capture_output=True)


async def test_a_file_system_that_takes_no_more_writes_is_said_and_mended_when_its_user_lets_go(state: Path) -> None:
    driver = opened(state)
    await converge(driver, volume())
    place = driver.data("volume-1").parent
    (driver.data("volume-1") / "kept").write_bytes(b"precious")
    subprocess.run(["mount", "-o", "remount,ro", place], check=True)
    with open(driver.data("volume-1") / "kept", "rb"):
        with pytest.raises(DriverError, match="volume volume-1 is in use by"):
            await converge(driver, volume())
        assert "takes no more writes" in fact(driver).problem
    assert await converge(driver, volume()) == ["update volume/volume-1"]
    assert (driver.data("volume-1") / "kept").read_bytes() == b"precious"
    assert await converge(driver, volume()) == []


async def test_errors_are_told_with_their_time_and_mended_once_whoever_has_it_is_gone(state: Path) -> None:
    told: list[str] = []

    async def vacate(name: str) -> list[str]:
        told.append(driver.progress(f"volume/{name}"))
        return ["x"]

    driver = VolumeDriver(state, UIDS.__getitem__, vacate)
    await converge(driver, volume())
    (driver.data("volume-1") / "kept").write_bytes(b"precious")
    flush(driver.data("volume-1"))
    fails(state)
    with pytest.raises(OSError, match="Read-only file system"):
        (driver.data("volume-1") / "more").write_bytes(b"")
    ill = r"its file system has had errors since 20\d\d-.* UTC, and takes no more writes"
    with open(driver.data("volume-1") / "kept"):
        with pytest.raises(DriverError, match=rf"^volume volume-1: {ill}; .* as soon as nobody has it.* in use by"):
            await converge(driver, volume())
        assert re.fullmatch(ill, fact(driver).problem)
    assert await converge(driver, volume()) == ["update volume/volume-1"]
    assert len(told) == 2
    assert re.fullmatch(f"{ill}: it is being checked and mended, and whoever uses it goes on after that", told[0])
    assert (driver.data("volume-1") / "kept").read_bytes() == b"precious"
    assert await converge(driver, volume()) == []
    assert (fact(driver).problem, driver.progress("volume/volume-1")) == ("", "")


async def test_an_image_that_is_gone_is_said_and_nothing_empty_comes_in_its_place(state: Path) -> None:
    driver = opened(state)
    await converge(driver, volume())
    (driver.data("volume-1") / "kept").write_bytes(b"precious")
    (state / "volumes/volume-1.img").unlink()
    with pytest.raises(DriverError, match="its image file is gone, and an empty one is not made in its place"):
        await converge(driver, volume())
    assert "can be copied for as long as it stays mounted" in fact(driver).problem
    assert (driver.data("volume-1") / "kept").read_bytes() == b"precious"
    with pytest.raises(DriverError, match="its image file is gone"):
        await driver.apply(Op("create", "volume/volume-1", volume()))
    assert await converge(driver, erased=frozenset({"w-1"})) == ["remove volume/volume-1"]
    assert names(state) == []


async def test_a_volume_says_whose_it_is_even_without_its_card(state: Path) -> None:
    driver = opened(state)
    await converge(driver, volume_of("a"), volume_of("b"))
    (driver.data("volume-a") / "kept").write_bytes(b"precious")
    (state / "volumes/volume-a.json").unlink()
    (state / "volumes/volume-b.json").write_text("garbage")
    seen = await driver.observe([])
    assert {key: (thing.owner, thing.origin and thing.origin.uid) for key, thing in seen.items()} == {
        "volume/volume-a": ("", "a"),
        "volume/volume-b": ("", "b"),
    }
    assert await converge(driver) == []
    assert len(await converge(driver, volume_of("a"), volume_of("b"))) == 2
    assert (driver.data("volume-a") / "kept").read_bytes() == b"precious"
    assert json.loads((state / "volumes/volume-b.json").read_text())["origin"]["name"] == "b"
    assert await converge(driver, volume_of("a"), volume_of("b")) == []


async def test_what_must_exist_is_never_made_empty(state: Path) -> None:
    driver = opened(state)
    with pytest.raises(DriverError, match="holds data and is not on this node; an empty one is not made in its place"):
        await converge(driver, volume(must_exist=True))
    assert names(state) == []
    await converge(driver, volume())
    assert await converge(driver, volume(must_exist=True)) == []


# -- whose it is -------------------------------------------------------------------------------------------------------


async def test_it_is_taken_over_with_all_that_is_in_it(state: Path) -> None:
    driver = opened(state)
    await converge(driver, volume_of("old"))
    data = driver.data("volume-old")
    (data / "folder").mkdir()
    (data / "folder/kept").write_bytes(b"precious")
    (data / "of-a-guest").write_bytes(b"root's")
    (data / "link").symlink_to("/etc/passwd")
    nested(data, 1500)
    for path in (data / "folder", data / "folder/kept", data / "link"):
        os.chown(path, UIDS["zdb"], UIDS["zdb"], follow_symlinks=False)
    new = volume_of("new", adopt="old", must_exist=True, size=64 * MiB, user="other")
    with open(data / "of-a-guest", "rb"), pytest.raises(DriverError, match="volume volume-old is in use by"):
        await converge(driver, new)
    with pytest.raises(DriverError, match="volume-old has 32Mi and can't shrink to 16Mi"):
        await converge(driver, replace(new, size=16 * MiB))
    assert names(state) == ["volume-old", "volume-old.img", "volume-old.json"]
    assert await converge(driver, new) == ["create volume/volume-new"]
    data = driver.data("volume-new")
    assert (data / "folder/kept").read_bytes() == b"precious"
    heir = UIDS["other"]
    assert subprocess.check_output(["find", data / "nested", "!", "-uid", str(heir)]) == b""
    subprocess.run(["rm", "-r", data / "nested"], check=True)
    owners = {path.name: os.lstat(path).st_uid for path in (data, *data.rglob("*"))}
    assert owners == {"data": heir, "folder": heir, "kept": heir, "link": heir, "of-a-guest": 0}
    assert Path("/etc/passwd").stat().st_uid == 0
    assert names(state) == ["volume-new", "volume-new.img", "volume-new.json"]
    assert await converge(driver, new) == []
    seen = (await driver.observe([]))["volume/volume-new"]
    assert (seen.owner, seen.origin) == ("w-new", new.origin)


async def test_what_is_not_here_is_not_taken_over_and_what_is_here_is_not_replaced(state: Path) -> None:
    driver = opened(state)
    with pytest.raises(DriverError, match="volume volume-old is not on this node: there is nothing to take over"):
        await converge(driver, volume_of("new", adopt="old"))
    await converge(driver, volume_of("old"), volume_of("new"))
    with pytest.raises(DriverError, match="here already and keeps what it holds, so volume-old stays in quarantine"):
        await converge(driver, volume_of("new", adopt="old"))
    assert set(await driver.observe([])) == {"volume/volume-old", "volume/volume-new"}


async def test_data_goes_only_for_a_word(small: Path) -> None:
    driver = opened(small)
    room = free(small)
    await converge(driver, volume())
    (driver.data("volume-1") / "kept").write_bytes(b"precious")
    assert await converge(driver) == []
    assert await converge(driver, erased=frozenset({"somebody"}), left=frozenset({"w-1"})) == []
    assert await converge(driver, erased=frozenset({"w-1"})) == ["remove volume/volume-1"]
    assert names(small) == []
    await driver.apply(Op("remove", "volume/volume-1", observed=None))
    assert free(small) > room - 4 * MiB


async def test_one_in_use_is_not_taken_away_and_it_is_said_by_whom(state: Path) -> None:
    driver = opened(state)
    await converge(driver, volume())
    with Writer(driver.data("volume-1")) as writer:
        with pytest.raises(DriverError, match=rf"volume volume-1 is in use by python\S* \(process {writer.process.pid}\)"):
            await converge(driver, erased=frozenset({"w-1"}))
        writer.has_written()
        assert await converge(driver, volume()) == []
    assert await converge(driver, erased=frozenset({"w-1"})) == ["remove volume/volume-1"]


async def test_one_that_another_mount_namespace_has_is_not_taken_away(state: Path) -> None:
    driver = opened(state)
    await converge(driver, volume())
    with namespace() as other:
        with pytest.raises(DriverError, match=rf"in use by sleep \(process {other.pid}\)"):
            await converge(driver, erased=frozenset({"w-1"}))
        assert (state / "volumes/volume-1.img").exists()
        assert await converge(driver, volume()) == [], "it is as it was"
        subprocess.run(["mount", "-o", "remount,ro", driver.data("volume-1").parent], check=True)
        for _ in range(2):
            with pytest.raises(DriverError, match=rf"in use by sleep \(process {other.pid}\)"):
                await converge(driver, volume())
            assert "takes no more writes" in fact(driver).problem
        subprocess.run(["mount", "-o", "remount,rw", driver.data("volume-1").parent], check=True)
        rebooted(state, wait=False)
        assert await converge(driver, volume()) == ["update volume/volume-1"]  # the same file system, mounted here again
        if not MAY_GROW:
            with pytest.raises(DriverError, match="CAP_SYS_RESOURCE"):
                await converge(driver, volume(128 * MiB))
            assert driver.data("volume-1").exists()
        (driver.data("volume-1") / "kept").write_bytes(b"precious")
        seen = subprocess.run(
            ["nsenter", f"--mount=/proc/{other.pid}/ns/mnt", "cat", driver.data("volume-1") / "kept"], capture_output=True
        )
        assert seen.stdout == b"precious"
        with (
            open(driver.data("volume-1") / "kept"),
            pytest.raises(DriverError, match=rf"in use by \S+ \(process {os.getpid()}\)$"),
        ):
            await converge(driver, erased=frozenset({"w-1"}))
    assert await converge(driver, erased=frozenset({"w-1"})) == ["remove volume/volume-1"]


async def test_one_with_errors_that_another_mount_namespace_has_is_put_back_and_it_is_said_who_has_it(state: Path) -> None:
    driver = opened(state)
    await converge(driver, volume())
    (driver.data("volume-1") / "kept").write_bytes(b"precious")
    flush(driver.data("volume-1"))
    with namespace() as other:
        fails(state)
        called = rf"in use by sleep \(process {other.pid}\)$"
        for _ in range(2):
            with pytest.raises(DriverError, match=called):
                await converge(driver, erased=frozenset({"w-1"}))
            assert (driver.data("volume-1") / "kept").read_bytes() == b"precious", "it is where it was"
        ill = "its file system has had errors since .* a machine that has it mounted is to be stopped .* volume volume-1"
        for _ in range(2):
            with pytest.raises(DriverError, match=f"^volume volume-1: {ill} is {called}"):
                await converge(driver, volume())
            assert (driver.data("volume-1") / "kept").read_bytes() == b"precious"
        rebooted(state, wait=False)  # it is only elsewhere now
        for _ in range(2):
            with pytest.raises(DriverError, match=f"^volume volume-1: {ill} is {called}"):
                await converge(driver, volume())
    assert await converge(driver, volume()) == ["update volume/volume-1"]
    assert (driver.data("volume-1") / "kept").read_bytes() == b"precious"
    assert await converge(driver, volume()) == []
    assert fact(driver).problem == ""


async def test_one_that_can_not_be_put_back_is_still_said_to_be_in_use(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was begun when nobody else had it yet."""
    driver = opened(state)
    await converge(driver, volume())

    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with namespace() as other:
        fails(state)
        monkeypatch.setattr(loopmount, "keepers", lambda _: [])
        monkeypatch.setattr(loopmount, "mount", refused)
        for _ in range(2):
            with pytest.raises(DriverError, match=rf"had errors since .* in use by sleep \(process {other.pid}\)$"):
                await converge(driver, volume())
    monkeypatch.undo()
    assert await converge(driver, volume()) == ["update volume/volume-1"]


async def test_a_mount_namespace_that_follows_its_nodes_keeps_nobody_from_mending(state: Path) -> None:
    subprocess.run(["mount", "--bind", state, state], check=True)
    try:
        subprocess.run(["mount", "--make-shared", state], check=True)
        driver = opened(state)
        await converge(driver, volume())
        with namespace("slave"):
            fails(state)
            assert await converge(driver, volume()) == ["update volume/volume-1"]
            assert await converge(driver, volume()) == []
        assert await converge(driver, erased=frozenset({"w-1"})) == ["remove volume/volume-1"]
    finally:
        subprocess.run(["umount", "-R", state], check=True)


async def test_one_in_which_nothing_ever_was_goes_without_a_word(state: Path) -> None:
    driver = opened(state)
    await converge(driver, volume_of("a"), volume_of("b"), volume_of("c"), volume_of("d"))
    (driver.data("volume-b") / "x").write_bytes(b"")
    (driver.data("volume-c") / "x").write_bytes(b"")
    (driver.data("volume-c") / "x").unlink()
    seen = await driver.observe([])
    assert {key for key, thing in seen.items() if thing.unused} == {"volume/volume-a", "volume/volume-d"}
    (driver.data("volume-d") / "x").write_bytes(b"since then")
    with pytest.raises(DriverError, match="volume volume-d was used since the node looked last"):
        await driver.apply(Op("remove", "volume/volume-d", observed=seen["volume/volume-d"]))
    (driver.data("volume-d") / "y").write_bytes(b"it can be written to as before")
    everybody = frozenset({"w-a", "w-b", "w-c", "w-d"})
    rebooted(state, "volume-a")
    assert await converge(driver, left=everybody) == [], "what can't be looked at is not known to be empty"
    await converge(driver, volume_of("a"))
    await converge(driver, volume_of("a", size=64 * MiB))  # grown, it is as empty as before
    assert await converge(driver, left=everybody) == ["remove volume/volume-a"]


# -- the death of the agent --------------------------------------------------------------------------------------------

#: What a driver does to a node, by the interpreter's audit events; what is opened counts where it may be written to.
_DEEDS = frozenset(f"os.{call}" for call in ("rename", "chown", "chmod", "remove", "rmdir", "mkdir", "truncate", "utime")) | {
    "shutil.rmtree",
    "subprocess.Popen",
}
_IOCTLS = frozenset({0x4C0A, 0x4C07, 0x40086610})  # LOOP_CONFIGURE, LOOP_SET_CAPACITY, EXT4_IOC_RESIZE_FS


def run_until(state: Path, deed: int, *wanted: Volume, erased: frozenset[str] = frozenset()) -> bool:
    """Has an agent converge that is killed just before it does something to the node for the ``deed``-th time; False: it was
    done before."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        assert status in (0, signal.SIGKILL), status
        return status != 0
    left = deed

    def die(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if event in _DEEDS or writes or (event == "fcntl.ioctl" and arguments[1] in _IOCTLS):
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

    try:
        driver = opened(state)
        sys.addaudithook(die)
        asyncio.run(converge(driver, *wanted, erased=erased))
        os._exit(0)
    finally:
        os._exit(1)


@pytest.mark.parametrize("step", ["make", "erase", "grow", "adopt"])
def test_an_agent_that_is_killed_loses_nothing_and_leaves_nothing(state: Path, step: str) -> None:
    old, kept = volume_of("a"), b"precious"
    wanted = {
        "make": (old,),
        "erase": (),
        "grow": (replace(old, size=64 * MiB),),
        "adopt": (volume_of("b", adopt="a", user="other"),),
    }[step]
    word = frozenset({"w-a"}) if step == "erase" else frozenset()

    async def mended() -> None:
        driver = opened(state)
        assert not [name for name in names(state) if name.startswith(".")]
        there = await driver.observe([])
        assert set(there) <= {"volume/volume-a"} if step != "adopt" else len(there) == 1
        wish = wanted or ((old,) if there else ())  # as long as it is here at all, it is whole
        await converge(driver, *wish)
        assert await converge(driver, *wish) == []
        for item in wish:
            assert step == "make" or (driver.data(item.name) / "kept").read_bytes() == kept
            assert step != "make" or not list(driver.data(item.name).iterdir())
            assert free(driver.data(item.name)) > item.size * 0.7
        await converge(driver, erased=frozenset({"w-a", "w-b"}))
        assert names(state) == []

    async def begun() -> None:
        if step != "make":
            driver = opened(state)
            await converge(driver, old)
            (driver.data("volume-a") / "kept").write_bytes(kept)
            os.chown(driver.data("volume-a") / "kept", UIDS["zdb"], UIDS["zdb"])

    for deed in itertools.count(1):
        asyncio.run(begun())
        died = run_until(state, deed, *wanted, erased=word)
        asyncio.run(mended())
        if not died:
            break
    print(f"{step}: killed before each of {deed - 1} deeds")
    assert deed > 4


@pytest.mark.parametrize("step", ["make", "adopt"])
def test_of_what_was_cut_off_and_is_not_wanted_any_more_nothing_is_left(state: Path, step: str) -> None:
    old = volume_of("a")
    wanted = old if step == "make" else volume_of("b", adopt="a", user="other")

    async def erased() -> None:
        driver = opened(state)
        await converge(driver, erased=frozenset({"w-a", "w-b"}))
        assert names(state) == []

    for deed in itertools.count(1):
        if step == "adopt":
            asyncio.run(converge(opened(state), old))
        died = run_until(state, deed, wanted)
        asyncio.run(erased())
        if not died:
            break


async def test_of_what_could_not_be_made_no_card_is_left(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = opened(state)

    def fails(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(driver.files, "named", fails)
    with pytest.raises(DriverError, match="Input/output error"):
        await converge(driver, volume())
    assert names(state) == []


# -- many --------------------------------------------------------------------------------------------------------------


async def test_fifty_of_them(state: Path) -> None:
    driver = opened(state)
    wanted = [volume_of(f"{number}", size=16 * MiB) for number in range(50)]
    times = [time.monotonic()]
    await asyncio.gather(*(driver.apply(op) for op in diff(wanted, await driver.observe(wanted))))
    times.append(time.monotonic())
    assert await converge(driver, *wanted) == []
    times.append(time.monotonic())
    for number in range(50):
        rebooted(state, f"volume-{number}")
    times.append(time.monotonic())
    await asyncio.gather(*(driver.apply(op) for op in diff(wanted, await driver.observe(wanted))))
    times.append(time.monotonic())
    assert await converge(driver, *wanted) == []
    erased = frozenset(item.owner for item in wanted)
    times.append(time.monotonic())
    await asyncio.gather(*(driver.apply(op) for op in diff([], await driver.observe([]), erased)))
    times.append(time.monotonic())
    assert names(state) == []
    made, looked, _, mounted, _, gone = (after - before for before, after in itertools.pairwise(times))
    print(f"50 volumes: made {made:.2f} s, looked at {looked:.3f} s, mounted {mounted:.2f} s, erased {gone:.2f} s")


def test_a_file_system_tells_its_size(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(32 * MiB))
    assert ext4.size_of(image) is None
    subprocess.run(["mkfs.ext4", "-q", "-b", "1024", image, "20000"], check=True)
    assert ext4.size_of(image) == 20000 * 1024
