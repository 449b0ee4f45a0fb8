"""hack/torture power: a node's drivers on a file system of their own, whose power is cut in the middle of what they do.

What the kernel had not put onto the disk is lost then, as it is when a machine's power fails; what it had is there, in the
order of the file system's journal.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import hashlib
import io
import multiprocessing
import os
import shutil
import struct
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random

from torturelib import chaos, powerwork
from torturelib.chaos import Action, Invariant, Refused, Scenario, Step
from torturelib.powerwork import COPY, GROWN, LARGEST, STEP, WRITTEN, MiB, Node, Task
from zos import files
from zos.drivers import DriverError, systemcard
from zos.drivers.imagecache import directory_of

#: EXT4_IOC_SHUTDOWN (fs/ext4/ext4.h) and its flag by which nothing is flushed before.
_SHUTDOWN, _NO_FLUSH = 0x8004587D, 2
#: unshare(2).
_NEW_MOUNTS = 0x20000
_ROOM, _DISK, _FILES = 1200 * MiB, 32 * MiB, 300


class Power:
    """The world of this torture: one node's state directory, and what is known of what it holds."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self.sources = place / "sources"
        self.mount = place / "state"
        self.state = self.mount / "zos"
        self.safe = 0  # the last record that a guest was told is safe
        self.copied = 0  # and how many the copy has at least
        self.tree: dict[str, str] = {}  # what is in the image: digests by path
        self.system = b""
        self.cuts = 0
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["torturelib.powerwork"])

    async def begin(self) -> None:
        await asyncio.to_thread(self._begin)

    def _begin(self) -> None:
        self.sources.mkdir(parents=True)
        self.mount.mkdir()
        chance = Random(7)
        self._make_tree(chance)
        self._make_disk(chance)
        with open(self._place / "fs", "wb") as file:
            file.truncate(_ROOM)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", self._place / "fs"], check=True)
        self._attach()
        self.state.mkdir()

    def _make_disk(self, chance: Random) -> None:
        with open(self.sources / "disk.raw", "w+b") as file:
            file.truncate(_DISK)
            file.write(bytes(510) + b"\x55\xaa")
            for at in range(0, _DISK, 4 * MiB):
                file.seek(at + 4096)
                file.write(chance.randbytes(2 * MiB))
        self.system = (self.sources / "disk.raw").read_bytes()

    def _make_tree(self, chance: Random) -> None:
        with tarfile.open(self.sources / "tree.tar", "w") as archive:
            for number in range(_FILES):
                content = chance.randbytes(chance.randrange(1, 60_000))
                info = tarfile.TarInfo(f"d{number % 17}/f{number}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
                self.tree[f"/{info.name}"] = hashlib.sha256(content).hexdigest()

    async def calm(self) -> None:
        """Nothing is left as it is on purpose."""

    async def clear(self) -> None:
        self.close()

    def close(self) -> None:
        subprocess.run(["umount", "-l", self.mount], check=False, capture_output=True)
        shutil.rmtree(self._place, ignore_errors=True)

    def node(self) -> Node:
        return Node(self.state, self.sources)

    async def interrupted(self, task: Task, seconds: float, *, power: bool) -> str:
        """What came of it: a task that was cut off, by the end of its process alone or by that of the machine."""
        mine, theirs = self._context.Pipe(duplex=False)
        log = self._place / "log"
        process = self._context.Process(target=powerwork.run, args=(task, self.state, self.sources, theirs, log))
        process.start()
        theirs.close()
        deadline = asyncio.get_running_loop().time() + seconds
        while process.is_alive() and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.005)
            self._hear(mine)
        done = not process.is_alive()
        self._hear(mine)
        if power:
            self._cut()  # what anybody says from now on is not heard any more
        process.kill()
        process.join()
        if not power:
            self._hear(mine)
        if done and process.exitcode:
            raise AssertionError(f"{task.__name__} failed: {log.read_text()[-2000:]}")
        if power:
            await self._boot()
        how = "power cut" if power else "process killed"
        return f"{how} {'after it was done' if done else f'after {seconds:.3f} s'}"

    def _hear(self, told: Connection) -> None:
        try:
            while told.poll():
                self.safe = max(self.safe, told.recv())
        except EOFError:
            pass

    def _cut(self) -> None:
        fd = os.open(self.mount, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(fd, _SHUTDOWN, struct.pack("I", _NO_FLUSH))
        finally:
            os.close(fd)
        self.cuts += 1

    async def _boot(self) -> None:
        for _ in range(500):  # until helpers of what was killed have noticed: they see the file system in mounts of their own
            if await asyncio.to_thread(self._detached):
                self._attach()
                return
            await asyncio.sleep(0.02)
        raise AssertionError("something still holds the file system")

    def _detached(self) -> bool:
        subprocess.run(["umount", self.mount], capture_output=True, check=False)
        loops = subprocess.run(["losetup", "-j", self._place / "fs"], capture_output=True, check=True)
        return not loops.stdout and not self.mount.is_mount()

    def _attach(self) -> None:
        subprocess.run(["mount", "-o", "loop", self._place / "fs", self.mount], check=True)


# -- what is done ----------------------------------------------------------------------------------------------------------


def interrupt(task: Task, longest: float, before: Callable[[Power, Random], None]) -> Action[Power]:
    """``before`` makes room for something to be done, as a whole one would be left as it is."""

    async def run(world: Power, chance: Random) -> str:
        before(world, chance)
        return await world.interrupted(task, chance.uniform(0, longest), power=chance.random() < 0.7)

    return Action(f"cut-{task.__name__}", run)


def nothing_unpacked(world: Power, chance: Random) -> None:
    for place in (world.state / "images").glob("sha256-*/rootfs"):
        shutil.rmtree(place.parent)


def nothing_written(world: Power, chance: Random) -> None:
    """What was cut off is gone on with."""
    path = world.state / "disks" / f"{WRITTEN}.raw"
    if path.exists() and systemcard.whole(path) is not None:
        _remove(path)
    if chance.random() < 0.3:
        for place in (world.state / "images").glob("sha256-*/disk.raw"):
            shutil.rmtree(place.parent)


def room_to_grow(world: Power, chance: Random) -> None:
    path = world.state / "disks" / f"{GROWN}.raw"
    if path.exists() and path.stat().st_size + STEP > LARGEST:
        world.safe = 0
        _remove(path)


def no_copy(world: Power, chance: Random) -> None:
    if not (world.state / "disks" / f"{GROWN}.raw").exists():
        raise Refused("there is nothing to copy yet")
    _remove(world.state / "disks" / f"{COPY}.raw")
    world.copied = world.safe


def _remove(disk: Path) -> None:
    for path in disk.parent.glob(f"{disk.stem}.*"):
        path.unlink()
    files.sync(disk.parent)  # or the next cut brings it back, as it was then


# -- what holds ------------------------------------------------------------------------------------------------------------


async def whole_or_begun_anew(world: Power) -> list[str]:
    path = world.state / "disks" / f"{WRITTEN}.raw"
    fact = await world.node().disk(WRITTEN)
    if fact is None:
        return []
    if fact.written is None:
        return [f"it counts as somebody's: {fact.holds}"] if fact.holds else []
    content = path.read_bytes()
    if content[:_DISK] != world.system or any(content[_DISK:]):
        return ["it counts as whole, and is not what the image is"]
    return []


async def records(world: Power) -> list[str]:
    found = []
    for name, safe in ((GROWN, world.safe), (COPY, world.copied)):
        path = world.state / "disks" / f"{name}.raw"
        if not path.exists():
            found += [f"{name} is gone, with {safe} records"] if name == GROWN and safe else []
            continue
        fd = os.open(path, os.O_RDONLY)
        there = powerwork.last(fd)
        os.close(fd)
        if there < safe:
            found.append(f"{name} has {there} records, and {safe} were safe")
    return found


async def reserved(world: Power) -> list[str]:
    found = []
    for path in (world.state / "disks").glob("[!.]*.raw"):
        info = path.stat()
        if info.st_blocks * 512 < info.st_size:
            found.append(f"{path.stem} has {info.st_size} bytes, and {info.st_blocks * 512} of them are reserved")
    return found


async def unpacked(world: Power) -> list[str]:
    node = world.node()
    fact = await node.image(node.tree)
    if fact is None:
        return []
    root = directory_of(world.state / "images", fact.digest) / "rootfs"
    files = [path for path in root.rglob("*") if path.is_file()]
    there = {str(path)[len(str(root)) :]: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    wrong = [path for path in world.tree.keys() | there.keys() if world.tree.get(path) != there.get(path)]
    return [f"it counts as unpacked, and {len(wrong)} files are wrong, {min(wrong)} among them"] if wrong else []


async def cleared(world: Power) -> list[str]:
    world.node()  # which clears what another left
    places = (world.state / "images", world.state / "disks")
    return [f"{path.parent.name} has {path.name}" for place in places for path in place.glob(".*")]


async def goes_on(world: Power) -> list[str]:
    node = world.node()
    try:
        await node.write()
        await node.converge(node.tree)
    except DriverError as error:
        return [str(error)]
    fact, image = await node.disk(WRITTEN), await node.image(node.tree)
    return [] if fact is not None and fact.written is not None and image is not None else ["it is not there"]


async def nothing(world: Power) -> list[str]:
    return ["the directory is still there"] if world.state.exists() else []


SCENARIO = Scenario(
    actions=(
        interrupt(powerwork.unpack, 1.0, nothing_unpacked),
        interrupt(powerwork.write, 0.8, nothing_written),
        interrupt(powerwork.grow, 0.8, room_to_grow),
        interrupt(powerwork.copy, 0.6, no_copy),
    ),
    always=(
        Invariant("a disk from an image is whole, or begun anew", whole_or_begun_anew),
        Invariant("what a guest was told is safe is there", records),
        Invariant("what a disk has is reserved", reserved),
        Invariant("an image is unpacked, or not there", unpacked),
        Invariant("nothing half made stays", cleared),
    ),
    rest=(Invariant("all of it is made at last", goes_on),),
    end=(Invariant("nothing is left", nothing),),
    pause=0.0,
    patience=60.0,
)


def apart() -> None:
    """Mounts of this process' own: what others begin meanwhile would hold a file system that is to be mounted anew."""
    if ctypes.CDLL(None, use_errno=True).unshare(_NEW_MOUNTS) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)


async def run(seed: int, seconds: float, asked: list[str], steps: list[Step]) -> int:
    apart()
    world = Power(Path(tempfile.mkdtemp(prefix="zos-power-", dir="/var/tmp")))  # fetchers see no /tmp but their own
    try:
        actions = chaos.choose(SCENARIO.actions, asked, short=False)
        report = await chaos.torture(
            world, SCENARIO, actions, seed=seed, seconds=seconds, say=partial(print, flush=True), steps=steps
        )
        print(f"{world.cuts} power cuts")
        return 1 if report.violations else 0
    finally:
        world.close()
