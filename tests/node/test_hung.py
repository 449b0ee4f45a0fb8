"""Parts of a node that don't answer: what they have is not known, and everything else goes on."""

from __future__ import annotations

import asyncio
import dataclasses
import signal
import threading
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import pytest

from hypervisor import Libvirt
from zos.agent.converge import Converger, Pass
from zos.api.meta import Meta, Reason
from zos.api.nodeworkload import Owner
from zos.drivers import Driver, DriverError
from zos.drivers.domain import DomainDriver
from zos.drivers.file import FileDriver
from zos.kinds.kind import Here, OnNode, Report
from zos.kinds.registry import KINDS
from zos.kinds.zmount.part import MountOnNode, MountState
from zos.plan.diff import Observed, Op
from zos.plan.facts import Facts
from zos.plan.items import ContainerBoot, Domain, File, GuestDisk, Item, Service
from zos.plan.lowered import Lowered
from zos.plan.outcome import Outcome
from zos.world.resolution import ready, waiting

HALTED = Domain(
    name="zos-halted",
    uuid=str(uuid.uuid4()),
    cpu=1,
    memory=256 << 20,
    boot=ContainerBoot(image="sha256:" + "0" * 64, root=GuestDisk(disk="root-x", serial="root"), config="", config_digest=""),
    disks=(),
    nics=(),
    running=False,
)
PATIENCE = 1.0


class Kinds:
    """One kind: each workload wants what is written down for it."""

    def __init__(self) -> None:
        self.wants: dict[str, tuple[Item, ...]] = {}

    def lower(self, here: Here[MountOnNode]) -> Lowered:
        return Lowered(tuple(dataclasses.replace(item, owner=here.name) for item in self.wants[here.name]))

    def report(self, here: Here[MountOnNode], lowered: Lowered, outcome: Outcome) -> Report[MountState]:
        wrong = {**outcome.failed, **outcome.pending, **outcome.blocked}
        return Report(waiting(Reason.PROGRESSING, "; ".join(wrong.values())) if wrong else ready())


class Agent:
    def __init__(self, *drivers: Driver) -> None:
        self.kinds = Kinds()
        self.due = asyncio.Event()
        self.generation = 0
        self.converger = Converger(
            drivers,
            lambda _: OnNode(MountOnNode, MountState, self.kinds.lower, self.kinds.report),
            lambda _: Facts(node="n", now=time.time()),
            changed=self.due.set,
            slow_done=lambda *_: None,
            clock=time.monotonic,
            wall=time.time,
            patience=PATIENCE,
        )
        self.converger.watch()

    async def step(self) -> Pass:
        self.due.clear()
        self.generation += 1
        spec = KINDS.workload.asking(Owner(kind="ZMount", namespace="n", name="x", uid="x"), MountOnNode(size=1))
        workloads = {
            name: KINDS.workload(
                metadata=Meta(name=name, namespace="zos-node-n", uid=name, generation=self.generation,
                              creation_timestamp="2030-01-01T00:00:00Z"),
                spec=spec,
            )
            for name in self.kinds.wants
        }  # fmt: skip
        return await self.converger.converge(workloads, may_remove=True)

    async def until_ready(self, name: str, seconds: float) -> float:
        """Passes whenever something is told, as the agent does."""
        began = time.monotonic()
        async with asyncio.timeout(seconds):
            while not (result := await self.step()).reports[name].verdict.ready:
                again = 0.05 if result.again else max(0.05, (result.wake_at or time.monotonic() + 60) - time.monotonic())
                try:
                    async with asyncio.timeout(again):
                        await self.due.wait()
                except TimeoutError:
                    continue
        return time.monotonic() - began


@pytest.fixture
def libvirt() -> Iterator[Libvirt]:
    libvirt = Libvirt()
    yield libvirt
    libvirt.libvirtd.send_signal(signal.SIGCONT)
    libvirt.close()


@pytest.fixture
async def agent(libvirt: Libvirt, tmp_path: Path) -> AsyncIterator[Agent]:
    domains = DomainDriver(tmp_path, tmp_path / "run", tmp_path, uri=libvirt.uri, accelerator="tcg")
    agent = Agent(FileDriver(tmp_path), domains)
    agent.kinds.wants = {"vm": (HALTED,), "file": (File(path="a/file", content="one"),)}
    await agent.until_ready("vm", 60)
    yield agent
    await agent.converger.close()


def hanging() -> int:
    return sum(thread.name == "libvirt" for thread in threading.enumerate())


async def test_a_libvirtd_that_hangs_holds_up_nothing_else_and_heals(agent: Agent, libvirt: Libvirt, tmp_path: Path) -> None:
    libvirt.libvirtd.send_signal(signal.SIGSTOP)
    agent.kinds.wants["vm"] = (dataclasses.replace(HALTED, cpu=2),)
    stopped = time.monotonic()
    content = 0
    said = set()
    while time.monotonic() - stopped < 27:  # the connection is given up meanwhile, and a new one hangs in its beginning
        agent.converger.resync()
        content += 1
        agent.kinds.wants["file"] = (File(path="a/file", content=str(content)),)
        began = time.monotonic()
        result = await agent.step()
        assert result.reports["file"].verdict.ready
        assert (tmp_path / "a/file").read_text() == str(content)
        assert time.monotonic() - began < PATIENCE + 2
        assert not result.complete
        assert hanging() <= 2
        assert not result.reports["vm"].verdict.ready
        said.add(result.reports["vm"].verdict.message)
        await asyncio.sleep(0.5)
    assert any("the domain driver has not answered for 1 s" in text for text in said)
    agent.due.clear()
    libvirt.libvirtd.send_signal(signal.SIGCONT)
    await asyncio.wait_for(agent.due.wait(), 10)
    assert await agent.until_ready("vm", 20) < 10
    assert (await agent.step()).complete


async def test_an_agent_ends_although_libvirtd_hangs(agent: Agent, libvirt: Libvirt) -> None:
    libvirt.libvirtd.send_signal(signal.SIGSTOP)
    agent.converger.resync()
    await agent.step()
    began = time.monotonic()
    await agent.converger.close()
    assert time.monotonic() - began < 12


class Stuck:
    """Serves services; each operation takes until it is let go."""

    ITEMS: ClassVar[tuple[type[Item], ...]] = (Service,)
    SLOW: ClassVar[bool] = False

    def __init__(self) -> None:
        self.there: dict[str, Item] = {}
        self.begun: list[str] = []
        self.go = asyncio.Event()

    async def observe(self, wanted: Sequence[Item]) -> Mapping[str, Observed]:
        return {key: Observed(key, item, item.owner) for key, item in self.there.items()}

    async def apply(self, op: Op) -> None:
        self.begun.append(op.key)
        await self.go.wait()
        if op.key == "service/bad":
            raise DriverError("no")
        assert op.item is not None
        self.there[op.key] = op.item

    def watch(self, dirty: object) -> None:
        pass

    async def close(self) -> None:
        pass


async def test_operations_that_hang_hold_up_nothing_else(tmp_path: Path) -> None:
    """However many there are: no more than so many begin, and all are done in the end."""
    stuck = Stuck()
    agent = Agent(FileDriver(tmp_path), stuck)
    names = [f"s{number}" for number in range(40)]
    agent.kinds.wants = {name: (Service(name=name, argv=("x",)),) for name in (*names, "bad")}
    began = time.monotonic()
    await agent.step()
    assert len(stuck.begun) == 16
    agent.kinds.wants["file"] = (File(path="a/file", content="one"),)
    result = await agent.step()
    assert time.monotonic() - began < 10
    assert result.reports["file"].verdict.ready
    assert not any(report.verdict.ready for name, report in result.reports.items() if name != "file")
    assert len(stuck.begun) == 16
    stuck.go.set()
    for name in names:
        await agent.until_ready(name, 30)
    assert sorted(stuck.begun) == sorted(f"service/{name}" for name in (*names, "bad"))
    assert (await agent.step()).reports["bad"].verdict.message == "no"
    await agent.converger.close()
