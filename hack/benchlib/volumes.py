"""What a volume costs beside a plain directory on the same file system, and what many of them cost their node."""

from __future__ import annotations

import asyncio
import ctypes
import os
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchlib.progress import Progress
from benchlib.table import Row, ratio
from zos.drivers import loopmount
from zos.drivers.volume import VolumeDriver
from zos.plan.diff import diff
from zos.plan.items import Volume

ROUNDS = 7
MANY = 100
MiB = 1 << 20
_AT_ONCE = 16  # as the agent does
_NEWNS = 0x00020000  # linux/sched.h


def measure(progress: Progress) -> Generator[Row, None, None]:
    with _own_mounts(), _state() as state:
        driver = VolumeDriver(state, lambda name: 0x7A00_0000)
        one = Volume(name="volume-bench", size=1024 * MiB, user="bench")
        asyncio.run(_converge(driver, one))
        places = (driver.data(one.name), state / "plain")
        places[1].mkdir()
        rates: dict[str, tuple[list[float], list[float]]] = {}
        for number in range(ROUNDS):
            progress(f"round {number + 1} of {ROUNDS}")
            for what, work in _WORKS.items():
                ours, theirs = (work(place) for place in places)
                series = rates.setdefault(what, ([], []))
                series[0].append(ours)
                series[1].append(theirs)
        for what, (ours_all, theirs_all) in rates.items():
            relation, bound = (">=", 0.8) if what is _WRITTEN else ("", 0.0)
            yield ratio(f"{what}, in a volume / in a plain directory", ours_all, theirs_all, relation, bound)
        asyncio.run(_converge(driver))
        progress(f"{MANY} volumes")
        yield from _many(driver)


def _many(driver: VolumeDriver) -> Iterator[Row]:
    wanted = [Volume(name=f"volume-{number}", size=16 * MiB, user="bench") for number in range(MANY)]
    yield Row(f"{MANY} volumes of 16 MiB, made and mounted", asyncio.run(_converge(driver, *wanted)), unit="s")
    began = time.process_time()
    asyncio.run(_converge(driver, *wanted))
    yield Row(f"a look at {MANY} volumes, processor", time.process_time() - began, unit="s")
    yield Row(f"{MANY} volumes unmounted and erased", asyncio.run(_converge(driver)), unit="s")


async def _converge(driver: VolumeDriver, *wanted: Volume) -> float:
    """Seconds until these and no others are there."""
    slots = asyncio.Semaphore(_AT_ONCE)
    began = time.monotonic()
    ops = diff(wanted, await driver.observe(wanted), frozenset({""}))

    async def carry_out(index: int) -> None:
        async with slots:
            await driver.apply(ops[index])

    await asyncio.gather(*map(carry_out, range(len(ops))))
    return time.monotonic() - began


@contextmanager
def _own_mounts() -> Iterator[None]:
    """What is mounted here is seen by nobody else, who might keep it."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/self/ns/mnt") as before:
        if libc.unshare(_NEWNS) != 0:
            raise OSError(ctypes.get_errno(), "unshare")
        try:
            subprocess.run(["mount", "--make-rprivate", "/"], check=True)
            yield
        finally:
            where = os.getcwd()
            if libc.setns(before.fileno(), _NEWNS) != 0:
                raise OSError(ctypes.get_errno(), "setns")
            os.chdir(where)


@contextmanager
def _state() -> Iterator[Path]:
    Path("build").mkdir(exist_ok=True)
    state = Path(tempfile.mkdtemp(prefix="volumes-", dir="build")).absolute()
    try:
        yield state
    finally:
        for place in loopmount.mounts(state):
            loopmount.unmount(place)
        shutil.rmtree(state)


def _written(place: Path) -> float:
    return _rate(place, 256, lambda fd, _: os.write(fd, _PORTION))


def _appended(place: Path) -> float:
    def append(fd: int, _: int) -> None:
        os.write(fd, _PORTION[:4096])
        os.fsync(fd)

    return _rate(place, 400, append)


def _overwritten(place: Path) -> float:
    chosen = random.Random(1)
    room = 16

    def overwrite(fd: int, number: int) -> None:
        os.pwrite(fd, _PORTION[:4096], chosen.randrange(room * 256) * 4096)
        os.fdatasync(fd)

    (place / "file").write_bytes(_PORTION * room)
    os.sync()
    return _rate(place, 400, overwrite)


def _rate(place: Path, times: int, write: Callable[[int, int], object]) -> float:
    """How often a second, with all of it on the disk in the end."""
    fd = os.open(place / "file", os.O_RDWR | os.O_CREAT)
    try:
        began = time.monotonic()
        for number in range(times):
            write(fd, number)
        os.fsync(fd)
        return times / (time.monotonic() - began)
    finally:
        os.close(fd)
        os.unlink(place / "file")


_PORTION = os.urandom(MiB)
_WRITTEN = "256 blocks of 1 MiB, synced at the end"
_WORKS: dict[str, Callable[[Path], float]] = {
    _WRITTEN: _written,
    "appends of 4 KiB, each synced": _appended,
    "overwrites of 4 KiB, each synced": _overwritten,
}
