"""A volume whose file system fails under the service that has it: both drivers, in the order of the plan."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from filesystems import flush
from services import Bench, until
from volumes import fails, namespace
from zos.agent.execution import Operations
from zos.api.meta import Reason
from zos.drivers import DriverError, loopmount
from zos.drivers.service import ServiceDriver
from zos.drivers.volume import VolumeDriver
from zos.plan.diff import Observed, Op, diff
from zos.plan.facts import VolumeFact
from zos.plan.items import Item, Service, Volume
from zos.plan.outcome import Outcome

MiB = 1 << 20


def problem(volumes: VolumeDriver) -> str:
    found = volumes.facts()[VolumeFact]["volume-1"]
    assert isinstance(found, VolumeFact)
    return found.problem


class Beside:
    """A volume and the service that has it, as an agent has them converge: by a plan, in its order."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.volumes = VolumeDriver(bench.state, bench.accounts.uid, lambda name: self.services.vacate(name))
        self.services = ServiceDriver(bench.scan, bench.logs, bench.accounts, self.volumes.data)
        self.operations = Operations((self.volumes, self.services), lambda *_: None, time.monotonic)
        bench.volume = self.volumes.data  # type: ignore[method-assign]

    def wanted(self, script: str) -> tuple[Volume, Service]:
        kept = Volume(name="volume-1", size=32 * MiB, user="x", owner="w-1")
        argv = ("sh", "-c", script)
        return kept, Service(name="x", argv=argv, volume=kept.name, needs=(kept.key,), owner=kept.owner)

    async def converge(self, *wanted: Item) -> Outcome:
        """One pass."""
        seen, items = await self.seen(wanted), {item.key: item for item in wanted}
        done = await self.operations.execute(diff(wanted, seen), items, seen, frozenset(), lambda _: False)
        for op in done.done:
            self.operations.verified(op)
        failed = {key: failure.error for key, failure in self.operations.failures.items()}
        running = {key: self.operations.progress(key) for key in self.operations.running}
        return Outcome(failed, running, done.blocked)

    async def complains(self, *wanted: Item) -> str:
        """What one pass finds wrong."""
        said = (await self.converge(*wanted)).problem(wanted)
        assert said is not None
        return said.message

    async def until_right(self, *wanted: Item) -> None:
        """As long as there is anything to do."""
        async with asyncio.timeout(60):
            while await self.converge(*wanted) != Outcome() or diff(wanted, await self.seen(wanted)):
                await asyncio.sleep(0.05)

    async def seen(self, wanted: Sequence[Item]) -> dict[str, Observed]:
        return {**await self.volumes.observe(wanted), **await self.services.observe(wanted)}


@pytest.fixture
async def beside(bench: Bench) -> AsyncIterator[Beside]:
    made = Beside(bench)
    yield made
    for op in diff((), await made.services.observe(())):
        await made.services.apply(op)
    for place in loopmount.mounts(bench.state / "volumes"):
        subprocess.run(["umount", place], check=True)
    await made.services.close()


#: A program that never ends by itself, and notes each of its starts.
_STAYS = "echo $$ >> {volume}/starts; echo $$ > x; exec sleep 1000"


async def test_errors_under_a_service_are_mended_and_it_comes_back_by_itself(beside: Beside, caplog: Any) -> None:
    node, bench, wanted = beside, beside.bench, beside.wanted(_STAYS)
    await node.until_right(*wanted)
    first = await bench.written("x")
    data = node.volumes.data("volume-1")
    (data / "kept").write_bytes(b"precious")
    flush(data)
    fails(bench.state)
    with pytest.raises(OSError, match="Read-only file system"):
        (data / "more").write_bytes(b"")
    await node.volumes.observe(wanted)
    assert "its file system has had errors since" in problem(node.volumes)
    await node.until_right(*wanted)
    assert problem(node.volumes) == ""
    assert "ended, so that it can be mended: x" in caplog.text
    await until(lambda: bench.pid("x") not in (0, first))
    second = bench.pid("x")
    assert (data / "starts").read_text() == f"{first}\n{second}\n"
    assert (data / "kept").read_bytes() == b"precious"
    told = await bench.fact("x")
    assert (told.crashes, told.up) == ((), True), "it did not crash, it was asked to end"


async def test_what_a_machine_has_as_well_is_not_taken_from_the_service_before_that_ends(beside: Beside) -> None:
    node, bench, wanted = beside, beside.bench, beside.wanted(_STAYS)
    await node.until_right(*wanted)
    first = await bench.written("x")
    data = node.volumes.data("volume-1")
    flush(data)
    with namespace() as machine:
        fails(bench.state)
        for _ in range(3):
            said = await node.complains(*wanted)
            assert "its file system has had errors since" in said
            assert "a machine that has it mounted is to be stopped for that" in said
            assert f"in use by sleep (process {machine.pid})" in said
        assert (bench.pid("x"), (data / "starts").read_text()) == (first, f"{first}\n"), "it goes on reading"
        assert (await bench.fact("x")).up
        assert "its file system has had errors since" in problem(node.volumes)
    await node.until_right(*wanted)
    await until(lambda: bench.pid("x") not in (0, first))
    assert problem(node.volumes) == ""
    assert (data / "starts").read_text() == f"{first}\n{bench.pid('x')}\n"


async def test_errors_that_nobody_can_mend_are_said_and_the_service_waits(beside: Beside) -> None:
    node, bench, wanted = beside, beside.bench, beside.wanted(_STAYS)
    await node.until_right(*wanted)
    await bench.written("x")
    data, image = node.volumes.data("volume-1"), bench.state / "volumes/volume-1.img"
    (data / "kept").write_bytes(b"precious")
    flush(data)
    with open(data / "kept"):  # somebody else has it, like a machine
        fails(bench.state)
        for _ in range(2):
            said = await node.complains(*wanted)
            assert "its file system has had errors since" in said
            assert "it is checked and mended as soon as nobody has it" in said
            assert f"(process {os.getpid()})" in said
        assert not (await bench.fact("x")).up
    subprocess.run(["umount", data.parent], check=True)
    assert loopmount.released(image) is None
    with open(image, "r+b") as file:
        whole = file.read(24 * MiB)
        file.seek(0)
        file.write(os.urandom(24 * MiB))
    async with asyncio.timeout(30):
        while (why := (await node.converge(*wanted)).problem(wanted)) is None or "without a person" not in why.message:
            await asyncio.sleep(0.2)
    assert why.reason is Reason.FAILED
    assert not (await bench.fact("x")).up, "it is not started without its data"
    with open(image, "r+b") as file:  # the person
        file.write(whole)
    await node.until_right(*wanted)
    await bench.until_fact("x", lambda fact: fact.up)
    assert (data / "kept").read_bytes() == b"precious"


async def test_a_service_is_not_changed_while_it_makes_way_nor_ended_while_it_is_changed(bench: Bench) -> None:
    """Whoever changes it would start it before the volume could be unmounted."""
    bench.volume("v").mkdir(parents=True)
    stays = "trap '' TERM; echo $$ > x; while :; do sleep 0.1; done"
    service = Service(name="x", argv=("sh", "-c", stays), volume="v", grace=1)
    changed = replace(service, environment=(("A", "B"),))
    driver = bench.driver
    await driver.apply(Op("create", service.key, service))
    first = await bench.written("x")
    async with asyncio.TaskGroup() as beside:
        ending = beside.create_task(driver.vacate("v"))
        await until((bench.scan / "zos-svc-x/asked").exists)
        with pytest.raises(DriverError, match="service x is being ended, so that its volume can be mended"):
            await driver.apply(Op("update", service.key, changed))
    assert await ending == ["x"]
    assert not (await bench.fact("x")).up
    await driver.apply(Op("update", service.key, changed))
    await until(lambda: bench.pid("x") not in (0, first))
    async with asyncio.TaskGroup() as beside:
        beside.create_task(driver.apply(Op("update", service.key, service)))
        await until((bench.scan / "zos-svc-x/asked").exists)
        with pytest.raises(DriverError, match="service x, which has volume v, is being changed"):
            await driver.vacate("v")
    await bench.until_fact("x", lambda fact: fact.up)
    assert await driver.vacate("v") == ["x"]
    await driver.apply(Op("remove", service.key))
