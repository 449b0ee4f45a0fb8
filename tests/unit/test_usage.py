"""What machines use: told with the heartbeat, when it has changed, and no more often than the grid can bear."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from zos.agent.usage import Usage, noticed
from zos.api.meta import Meta
from zos.api.usage import MachineUsage, told, understood
from zos.controller.usages import Usages
from zos.drivers import DriverError
from zos.drivers.gueststats import GuestUse
from zos.kinds.registry import KINDS
from zos.plan.facts import DomainFact
from zos.plan.items import ContainerBoot, Domain, GuestDisk
from zos.world.heartbeat import Heartbeat
from zos.world.store import World
from zos.world.usage import of_machine

BOOT = ContainerBoot(image="sha256:1", root=GuestDisk(disk="r", serial="s"), config="c", config_digest="d")
RUNS = Domain(name="zos-a", uuid="uid-a", cpu=1, memory=1, boot=BOOT, disks=(), nics=(), running=True)
MiB = 1 << 20


class Node:
    def __init__(self) -> None:
        self.now = 0.0
        self.used: Mapping[str, GuestUse] | None = {"zos-a": GuestUse(cpu_seconds=5, memory=100 * MiB, sent_bytes=10**6)}
        self.facts = {"zos-a": DomainFact(running=True, started_at=1.0, runs=RUNS)}
        self.usage = Usage(self.look, lambda: self.facts, lambda: self.now)

    async def look(self) -> Mapping[str, GuestUse]:
        if self.used is None:
            raise DriverError("libvirt is away")
        return self.used

    async def later(self, **more: float) -> dict[str, MachineUsage]:
        self.now += 60
        if self.used is not None and "zos-a" in self.used:
            was = self.used["zos-a"]
            self.used = {"zos-a": GuestUse(**{**vars(was), **{name: vars(was)[name] + by for name, by in more.items()}})}
        await self.usage.sample()
        return understood(self.usage.text())


async def test_it_is_the_average_of_a_minute_and_told_anew_when_it_has_changed() -> None:
    node = Node()
    assert await node.later() == {}, "one look is none"
    one = await node.later(cpu_seconds=15.4, sent_bytes=6 * 10**6)
    assert one == {"uid-a": MachineUsage(cpu_millicores=260, memory=100_000_000, sent=100_000)}
    assert await node.later(cpu_seconds=16.5, sent_bytes=6 * 10**6) == one, "no change to speak of"
    assert (await node.later(cpu_seconds=30))["uid-a"].cpu_millicores == 500
    node.used = None
    assert (await node.later())["uid-a"].cpu_millicores == 500, "who can't look says nothing else"
    node.used = {"zos-a": GuestUse(cpu_seconds=1)}
    node.facts["zos-a"] = DomainFact(running=True, started_at=400.0, runs=RUNS)
    assert await node.later() == {}, "it was started anew"
    node.facts["zos-a"] = DomainFact(running=False, started_at=400.0)
    assert await node.later() == {}


def test_an_idle_machine_is_told_once() -> None:
    idle = noticed(None, MachineUsage(cpu_millicores=12, memory=200 * MiB, sent=17))
    assert idle == MachineUsage(memory=210_000_000)
    for cpu in range(30):
        assert noticed(idle, MachineUsage(cpu_millicores=cpu, memory=(195 + cpu) * MiB, received=cpu * 30)) is idle


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"u": [1]}', '{"u": [-1, 0, 0, 0, 0, 0]}', '{"u": ["x", 0, 0, 0, 0, 0]}', '{"u": [1e300, 0, 0, 0, 0, 0]}',
     '{"u": [0, 99999999999999999999, 0, 0, 0, 0]}', " " * 300_000, json.dumps({str(n): [0] * 6 for n in range(2000)})],
)  # fmt: skip
def test_a_node_may_write_anything(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        understood(text)
    assert len(understood(told({f"u{n}": MachineUsage() for n in range(3000)}))) == 1024


class Controller:
    def __init__(self) -> None:
        self.now, self.news = 0.0, 0
        self.world = World(KINDS.indexes())
        exchange: Any = SimpleNamespace(world=self.world, changed=self.changed)
        self.usages = Usages(exchange, lambda: self.now)

    def changed(self, _: object) -> None:
        self.news += 1

    def of(self, uid: str, node: str = "n1") -> MachineUsage | None:
        reader: Any = SimpleNamespace(view=self.view)
        return of_machine(reader, node, uid)

    def view(self, model: type[Any], namespace: str, name: str, view: Any) -> Any:
        found = self.world.peek(model.key_of(namespace, name))
        return view(found) if found is not None else None


def test_a_node_is_listened_to_once_a_minute_and_less_often_where_there_are_many() -> None:
    controller = Controller()
    controller.usages.heard("n1", told({"u": MachineUsage(cpu_millicores=100)}))
    assert controller.of("u") == MachineUsage(cpu_millicores=100)
    assert controller.of("v") is None
    assert controller.of("u", "n2") is None, "a node tells of its own machines only"
    for _ in range(5):
        controller.now += 10
        controller.usages.heard("n1", told({"u": MachineUsage(cpu_millicores=900)}))
    assert controller.news == 1
    controller.now += 10
    controller.usages.heard("n1", told({"u": MachineUsage(cpu_millicores=900)}))
    assert controller.of("u") == MachineUsage(cpu_millicores=900)
    controller.world.put(Heartbeat(metadata=Meta(name="n1", uid="n1"), alive=False))
    assert controller.of("u") is None, "nobody knows"
    for node in range(5):
        controller.usages.heard(f"m{node}", told({f"{node}-{n}": MachineUsage() for n in range(1000)}))
    controller.now += 100
    controller.usages.heard("n1", "garbage")
    assert controller.news == 7, "5,001 machines: one in 250 s"
    controller.now += 151
    controller.usages.heard("n1", "garbage")
    controller.world.put(Heartbeat(metadata=Meta(name="n1", uid="n1"), alive=True))
    assert controller.of("u") is None
    controller.usages.left("n1")
    controller.usages.left("n1")
    assert controller.news == 9
