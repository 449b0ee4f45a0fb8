"""Services under a real s6-svscan of the test's own."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from bound import TOLD
from zos.drivers import DriverError
from zos.drivers.service import ServiceDriver
from zos.plan.diff import Op, diff
from zos.plan.items import Service


@pytest.fixture
async def scan(tmp_path: Path) -> AsyncIterator[Path]:
    directory = tmp_path / "scan"
    directory.mkdir()
    process = subprocess.Popen([*TOLD, "s6-svscan", str(directory)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (directory / ".s6-svscan" / "control").exists():
        await asyncio.sleep(0.02)
    yield directory
    subprocess.run(["s6-svscanctl", "-t", str(directory)], check=False)
    process.wait(20)


@pytest.fixture
async def driver(scan: Path, tmp_path: Path) -> AsyncIterator[ServiceDriver]:
    driver = ServiceDriver(scan, tmp_path / "logs")
    yield driver
    await driver.close()


async def converge(driver: ServiceDriver, *wanted: Service) -> list[str]:
    ops = diff(wanted, await driver.observe(wanted))
    await asyncio.gather(*(driver.apply(op) for op in ops))
    return sorted(f"{op.verb} {op.key}" for op in ops)


async def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not within the time"
        await asyncio.sleep(0.02)


def writer(tmp_path: Path, word: str = "one", *, name: str = "writer", owner: str = "w-1") -> Service:
    """Writes its process id and its variable to a file, a line to its log, and stays."""
    file = tmp_path / name
    script = f'echo "$$ {word} $WORD" > {file}.new; mv {file}.new {file}; echo said {word}; exec sleep 1000'
    return Service(name=name, argv=("sh", "-c", script), environment=(("WORD", "it's $HOME"),), owner=owner)


def pid_in(path: Path) -> int:
    return int(path.read_text().split()[0])


async def test_a_service_runs_with_its_environment_and_logs(driver: ServiceDriver, tmp_path: Path) -> None:
    service = writer(tmp_path)
    assert await converge(driver, service) == ["create service/writer"]
    await until((tmp_path / "writer").exists)
    assert (tmp_path / "writer").read_text().split(maxsplit=1)[1] == "one it's $HOME\n"
    log = tmp_path / "logs" / "zos-svc-writer" / "current"
    await until(lambda: log.exists() and "said one" in log.read_text())
    assert await converge(driver, service) == []
    observed = await driver.observe([])
    assert observed["service/writer"].owner == "w-1"


async def test_it_comes_back_by_itself(driver: ServiceDriver, tmp_path: Path) -> None:
    await converge(driver, writer(tmp_path))
    await until((tmp_path / "writer").exists)
    first = pid_in(tmp_path / "writer")
    os.kill(first, signal.SIGKILL)
    await until(lambda: pid_in(tmp_path / "writer") != first)
    assert await converge(driver, writer(tmp_path)) == []


async def test_a_changed_command_restarts_and_an_unchanged_one_does_not(driver: ServiceDriver, tmp_path: Path) -> None:
    await converge(driver, writer(tmp_path))
    await until((tmp_path / "writer").exists)
    first = pid_in(tmp_path / "writer")
    assert await converge(driver, writer(tmp_path, owner="w-2")) == []  # the owner is no difference
    assert await converge(driver, writer(tmp_path, "two")) == ["update service/writer"]
    await until(lambda: "two" in (tmp_path / "writer").read_text())
    assert not Path(f"/proc/{first}").exists()


async def test_removal_leaves_nothing(driver: ServiceDriver, tmp_path: Path, scan: Path) -> None:
    stubborn = Service(name="stubborn", argv=("sh", "-c", f"trap '' TERM; echo $$ > {tmp_path}/s; while :; do sleep 1; done"))
    await converge(driver, writer(tmp_path), stubborn)
    await until(lambda: (tmp_path / "writer").exists() and (tmp_path / "s").exists())
    pids = [pid_in(tmp_path / "writer"), pid_in(tmp_path / "s")]
    assert await converge(driver) == ["remove service/stubborn", "remove service/writer"]
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert [path.name for path in scan.iterdir()] == [".s6-svscan"]
    assert list((tmp_path / "logs").iterdir()) == []
    ours = subprocess.run(["pgrep", "-f", f"s6-log.*{tmp_path}"], capture_output=True, text=True)
    assert ours.stdout == ""
    assert await converge(driver) == []


async def test_services_that_end_slowly_hold_up_nobody(driver: ServiceDriver, tmp_path: Path, scan: Path) -> None:
    """One takes five seconds to be killed: three take no longer, others are looked after meanwhile, and the end is told."""
    dirty = asyncio.Event()
    driver.watch(dirty.set)
    names = ("one", "two", "three")
    script = "trap '' TERM; echo $$ > {0}; while :; do sleep 1; done"
    stubborn = [Service(name=name, argv=("sh", "-c", script.format(tmp_path / name)), owner="w-1") for name in names]
    await converge(driver, *stubborn)
    await until(lambda: all((tmp_path / name).exists() for name in names))
    for name in names:
        directory = scan / f".gone-zos-svc-{name}-x"
        directory.mkdir()
        (scan / f"zos-svc-{name}").rename(directory / "service")  # as an agent leaves them that is stopped just then
    began = time.monotonic()
    dying = {f"service/{name}": (None, "w-1") for name in names}
    assert {key: (thing.item, thing.owner) for key, thing in (await driver.observe([])).items()} == dying
    await driver.apply(Op("create", "service/writer", writer(tmp_path)))
    seen = await driver.observe([])
    assert seen.keys() == {*dying, "service/writer"}
    assert time.monotonic() - began < 4
    while len(await driver.observe([])) > 1:
        dirty.clear()
        await asyncio.wait_for(dirty.wait(), 10)
    assert time.monotonic() - began < 13


async def test_what_a_person_stopped_or_broke_is_mended(driver: ServiceDriver, tmp_path: Path, scan: Path) -> None:
    await converge(driver, writer(tmp_path))
    await until((tmp_path / "writer").exists)
    subprocess.run(["s6-svc", "-wD", "-d", str(scan / "zos-svc-writer")], check=True)
    (tmp_path / "writer").unlink()
    assert await converge(driver, writer(tmp_path)) == ["update service/writer"]
    await until((tmp_path / "writer").exists)
    (scan / "zos-svc-writer" / "zos.json").write_text("{")
    assert await converge(driver, writer(tmp_path)) == ["update service/writer"]
    assert await converge(driver, writer(tmp_path)) == []


async def test_a_half_made_and_a_half_removed_service_are_cleared(driver: ServiceDriver, tmp_path: Path, scan: Path) -> None:
    await converge(driver, writer(tmp_path))
    await until((tmp_path / "writer").exists)
    (scan / ".new-zos-svc-x-1").mkdir()
    (scan / ".gone-zos-svc-writer-abc").mkdir()
    (scan / "zos-svc-writer").rename(scan / ".gone-zos-svc-writer-abc" / "service")  # and here the agent died
    again = ServiceDriver(scan, tmp_path / "logs")
    assert [thing.item for thing in (await again.observe([])).values()] == [None]  # on its way
    while await again.observe([]):
        await asyncio.sleep(0.02)
    assert [path.name for path in scan.iterdir()] == [".s6-svscan"]
    assert not Path(f"/proc/{pid_in(tmp_path / 'writer')}").exists()


async def test_changes_are_noticed(driver: ServiceDriver, tmp_path: Path, scan: Path) -> None:
    dirty = asyncio.Event()
    driver.watch(dirty.set)
    await converge(driver, writer(tmp_path))
    await until((tmp_path / "writer").exists)
    await driver.observe([])
    await asyncio.sleep(0.3)
    dirty.clear()
    subprocess.run(["s6-svc", "-d", str(scan / "zos-svc-writer")], check=True)
    await asyncio.wait_for(dirty.wait(), 2)
    await converge(driver, writer(tmp_path))
    await asyncio.sleep(0.5)
    dirty.clear()
    await asyncio.sleep(0.5)
    assert not dirty.is_set()  # nothing happens: nothing wakes


async def test_without_a_supervisor_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "scan").mkdir()
    with pytest.raises(DriverError, match="no supervisor"):
        await converge(ServiceDriver(tmp_path / "scan", tmp_path / "logs"), writer(tmp_path))
