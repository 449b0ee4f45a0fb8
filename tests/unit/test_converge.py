"""Passes of a node with drivers that are dicts and everything else real."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zos import __version__
from zos.agent import knowledge
from zos.agent.converge import Converger, Pass
from zos.agent.simulation import Node, digest_of, drivers
from zos.api.meta import Meta, Reason
from zos.api.nodeworkload import NodeWorkload, Owner
from zos.api.quarantine import Quarantined, QuarantineOrder, Recipient
from zos.api.resources import GUEST_OVERHEAD
from zos.kinds.kind import Here, OnNode, Report
from zos.kinds.registry import KINDS
from zos.kinds.zmount.part import MountOnNode, MountState
from zos.plan.diff import Observed, Op
from zos.plan.facts import Facts, ImageFact
from zos.plan.items import (
    Bridge,
    ContainerBoot,
    Disk,
    Domain,
    File,
    GuestDisk,
    Image,
    Item,
    Netns,
    Segment,
    Service,
    Tap,
    Veth,
    Volume,
)
from zos.plan.lowered import Lowered
from zos.plan.outcome import Outcome
from zos.world.resolution import ready, waiting


def boot(ref: str) -> ContainerBoot:
    return ContainerBoot(image=digest_of(ref), root=GuestDisk(disk="root-uid-vm", serial="r"), config="c", config_digest="")


def workload(
    name: str, *, deleting: bool = False, created: str = "2030-01-01T00:00:00Z", generation: int = 1, erase: bool = False,
    retain: bool = False,
) -> NodeWorkload:  # fmt: skip
    return KINDS.workload(
        metadata=Meta(
            name=name, namespace="zos-node-n", uid=name, generation=generation, creation_timestamp=created,
            deletion_timestamp="2030-01-02T00:00:00Z" if deleting else None, finalizers=("zos.grid.tf/agent",),
        ),
        spec=KINDS.workload.asking(
            Owner(kind="ZMount", namespace="default", name=name, uid=f"uid-{name}"), MountOnNode(size=1)
        ).model_copy(update={"erase": f"uid-{name}" if erase else None, "retain": retain}),
    )  # fmt: skip


class Script:
    """A workload kind whose lowering is written down per workload."""

    def __init__(self) -> None:
        self.wants: dict[str, Callable[[Facts], Lowered]] = {}

    def lower(self, here: Here[MountOnNode]) -> Lowered:
        return self.wants[here.name](here.facts)

    def report(self, here: Here[MountOnNode], lowered: Lowered, outcome: Outcome) -> Report[MountState]:
        if lowered.problem is not None:
            return Report(waiting(lowered.problem.reason, lowered.problem.message))
        for key, error in outcome.failed.items():
            return Report(waiting(Reason.FAILED, f"{key}: {error}"))
        for key, what in outcome.pending.items():
            return Report(waiting(Reason.PROGRESSING, f"{key}: {what}"))
        for key, need in outcome.blocked.items():
            return Report(waiting(Reason.DEPENDENCY_NOT_READY, f"{key} waits for {need}"))
        return Report(ready())


@dataclass
class Bench:
    """A node, its agent's converger, and a clock that only the test moves."""

    node: Node = field(default_factory=Node)
    script: Script = field(default_factory=Script)
    workloads: dict[str, NodeWorkload] = field(default_factory=dict)
    time: float = 1000.0
    dirty: asyncio.Event = field(default_factory=asyncio.Event)
    orders: tuple[QuarantineOrder, ...] = ()
    slow: list[tuple[Op, bool]] = field(default_factory=list)
    knows: bool = True  # whether this agent knows that kind

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """A new agent on the same node."""
        served = self.served = drivers(self.node)

        def facts(workloads: Mapping[str, NodeWorkload]) -> Facts:
            known, unseen = knowledge.known(served), knowledge.unseen(self.converger.blind())
            return Facts(node="n", now=self.time, known=known, unknown=unseen)

        self.converger = Converger(
            served,
            lambda _: OnNode(MountOnNode, MountState, self.script.lower, self.script.report) if self.knows else None,
            facts,
            changed=self.dirty.set,
            slow_done=lambda op, ok: self.slow.append((op, ok)),
            clock=lambda: self.time,
            wall=lambda: self.time,
        )
        self.converger.watch()

    def want(self, name: str, *items: Item) -> None:
        self.wants(name, lambda _: Lowered(tuple(replace(item, owner=name) for item in items)))

    def wants(self, name: str, lower: Callable[[Facts], Lowered]) -> None:
        self.script.wants[name] = lower
        before = self.workloads.get(name)
        self.workloads[name] = workload(name, generation=before.metadata.generation + 1 if before is not None else 1)

    def delete(self, name: str, *, retain: bool = False) -> None:
        """By the user, who has said so."""
        self.workloads[name] = workload(name, deleting=True, erase=True, retain=retain)

    async def once(self, *, may_remove: bool = True) -> Pass:
        self.dirty.clear()
        return await self.converger.converge(self.workloads, may_remove=may_remove, origins=self.origins, orders=self.orders)

    @property
    def origins(self) -> dict[str, Owner]:
        """The owners of all workloads that there ever were."""
        return {name: workload(name).spec.owner for name in self.script.wants}

    async def settled(self) -> Pass:
        """Passes until nothing asks for another one."""
        for _ in range(50):
            result = await self.once()
            if self.converger.underway:
                await asyncio.wait_for(self.dirty.wait(), 5)
            elif not result.again and not self.dirty.is_set():
                return result
        raise AssertionError("it doesn't settle")


@pytest.fixture
async def bench() -> Bench:
    return Bench()


DISK = Disk(name="mount-uid-w", size=1, format="ext4")
VOLUME = Volume(name="volume-uid-w", size=1, user="program-w")


@pytest.fixture(params=[DISK, VOLUME], ids=lambda item: item.FAMILY)
def data(request: pytest.FixtureRequest) -> Disk | Volume:
    """What holds data, of each kind."""
    assert isinstance(request.param, Disk | Volume)
    return request.param


def of(data: Disk | Volume, uid: str, **more: Any) -> Disk | Volume:
    """The same of another owner."""
    return replace(data, name=f"{data.name.partition('-')[0]}-{uid}", **more)


async def test_what_is_wanted_is_made_and_then_left_alone(bench: Bench) -> None:
    bench.want("w", DISK, Netns(name="r"))
    result = await bench.once()
    assert result.reports["w"].verdict.ready
    assert set(bench.node.things) == {"disk/mount-uid-w", "netns/r"}
    writes = bench.node.writes
    bench.converger.resync()
    again = await bench.once()
    assert (again.done, bench.node.writes) == ((), writes)


async def test_a_failure_stays_its_own_and_is_tried_again_later(bench: Bench) -> None:
    bench.want("bad", Netns(name="bad"), Service(name="s", argv=("x",), needs=("netns/bad",)))
    bench.want("good", Netns(name="good"))
    bench.node.faults["netns/bad"] = "no more namespaces"
    result = await bench.once()
    assert result.reports["good"].verdict.ready
    assert result.reports["bad"].verdict.message == "netns/bad: no more namespaces"
    assert result.wake_at is not None
    assert result.wake_at > bench.time
    del bench.node.faults["netns/bad"]
    assert not (await bench.once()).reports["bad"].verdict.ready  # not before its time
    bench.time = result.wake_at
    assert (await bench.once()).reports["bad"].verdict.ready


async def test_retries_become_rarer_but_a_changed_item_is_tried_at_once(bench: Bench) -> None:
    bench.want("w", File(path="f", content="1"))
    bench.node.faults["file/f"] = "disk full"
    waits = []
    for _ in range(12):
        result = await bench.once()
        assert result.wake_at is not None
        waits.append(result.wake_at - bench.time)
        bench.time = result.wake_at
    assert waits[0] < 2
    assert waits[5] > 20
    assert all(wait <= 360 for wait in waits)
    await bench.once()
    bench.want("w", File(path="f", content="2"))
    del bench.node.faults["file/f"]
    assert (await bench.once()).reports["w"].verdict.ready


async def test_one_broken_workload_stays_its_own_problem_and_keeps_what_it_has(bench: Bench) -> None:
    bench.want("w", Netns(name="w"))
    bench.want("other", Netns(name="o"))
    await bench.settled()

    def explode(facts: Facts) -> Lowered:
        raise KeyError("bug")

    bench.wants("w", explode)
    bench.want("other", Netns(name="o2"))
    result = await bench.settled()
    assert result.reports["w"].verdict.reason is Reason.FAILED
    assert result.reports["other"].verdict.ready
    assert set(bench.node.things) == {"netns/w", "netns/o2"}


async def test_nothing_goes_without_a_word(bench: Bench, data: Disk | Volume) -> None:
    bench.want("w", data, Netns(name="r"))
    await bench.settled()
    writes = bench.node.writes
    bench.workloads["w"] = workload("w", deleting=True)  # by hand
    result = await bench.settled()
    assert result.clean == {"w"}
    assert "w" not in result.reports
    bench.workloads.clear()  # as an empty API server would show it, too
    result = await bench.settled()
    assert set(bench.node.things) == {data.key, "netns/r"}
    assert result.quarantine == (
        Quarantined(uid="uid-w", kind="ZMount", namespace="default", name="w", running=True, storage=1),
    )
    bench.want("w", data, Netns(name="r"))  # it is back, and nothing happened at all
    result = await bench.settled()
    assert (result.quarantine, bench.node.writes) == ((), writes)
    bench.want("w")  # it says itself that it wants neither; data is not given up like that
    await bench.settled()
    assert set(bench.node.things) == {data.key}
    bench.delete("w")
    result = await bench.settled()
    assert bench.node.things == {}
    assert result.clean == {"w"}


async def test_a_word_about_somebody_else_is_none(bench: Bench, data: Disk | Volume) -> None:
    bench.want("w", data)
    await bench.settled()
    stranger = workload("w", deleting=True).spec.model_copy(update={"erase": "uid-of-an-earlier-w"})
    bench.workloads["w"] = workload("w", deleting=True).model_copy(update={"spec": stranger})
    assert (await bench.settled()).clean == {"w"}
    assert set(bench.node.things) == {data.key}


async def test_what_is_retained_ends_and_leaves_its_data(bench: Bench, data: Disk | Volume) -> None:
    bench.want("w", data, Netns(name="r"))
    await bench.settled()
    bench.node.unused.clear()  # a guest has had it
    bench.node.stir()
    bench.delete("w", retain=True)
    result = await bench.settled()
    assert result.clean == {"w"}
    assert set(bench.node.things) == {data.key}
    bench.workloads.clear()
    (entry,) = (await bench.settled()).quarantine
    assert (entry.uid, entry.running, entry.storage) == ("uid-w", False, 1)


async def test_of_what_leaves_only_that_goes_which_no_guest_ever_had(bench: Bench, data: Disk | Volume) -> None:
    bench.want("w", data)
    await bench.settled()
    bench.delete("w", retain=True)
    assert (await bench.settled()).clean == {"w"}
    assert bench.node.things == {}
    # Given to somebody, it is his, and not gone just before.
    bench.workloads.clear()
    bench.want("old", of(data, "uid-old"))
    await bench.settled()
    del bench.workloads["old"]
    bench.orders = (QuarantineOrder(uid="uid-old", give_to=Recipient(kind="ZMount", namespace="default", name="new")),)
    await bench.settled()
    assert set(bench.node.things) == {of(data, "uid-old").key}


async def test_orders_count_for_what_belongs_to_nobody_only(bench: Bench, data: Disk | Volume) -> None:
    bench.want("a", of(data, "uid-a"), Netns(name="r"))
    bench.want("b", of(data, "uid-b"), Netns(name="s"))
    await bench.settled()
    bench.orders = (QuarantineOrder(uid="uid-a", discard=True), QuarantineOrder(uid="uid-other", discard=True))
    await bench.settled()
    assert len(bench.node.things) == 4
    bench.workloads.clear()
    result = await bench.settled()
    assert set(bench.node.things) == {of(data, "uid-b").key, "netns/s"}
    assert [entry.uid for entry in result.quarantine] == ["uid-b"]
    recipient = Recipient(kind="ZMount", namespace="default", name="c")
    bench.orders = (QuarantineOrder(uid="uid-b", give_to=recipient),)
    await bench.settled()
    assert set(bench.node.things) == {of(data, "uid-b").key}


async def test_a_disk_becomes_that_of_whom_it_is_given_to(bench: Bench, data: Disk | Volume) -> None:
    old = of(data, "uid-old")
    new = of(data, "uid-new", size=2, adopt="uid-old")
    bench.want("old", old)
    await bench.settled()
    bench.want("new", new)
    result = await bench.once()
    assert result.reports["new"].verdict.message == (
        f"{new.key}: {old.key} is not in quarantine: NodeWorkload old has it, and keeps it until that is gone"
    )
    del bench.workloads["old"]
    result = await bench.settled()
    assert result.reports["new"].verdict.ready
    assert bench.node.things == {new.key: new}
    assert result.quarantine == ()
    writes = bench.node.writes
    bench.converger.resync()
    await bench.settled()
    assert bench.node.writes == writes


async def test_what_must_be_there_is_not_made_empty(bench: Bench, data: Disk | Volume) -> None:
    bench.want("w", replace(data, must_exist=True))
    result = await bench.once()
    assert "holds data and is not on this node" in result.reports["w"].verdict.message
    assert bench.node.things == {}
    bench.node.things[data.key] = replace(data, owner="w")  # its file was brought back
    bench.converger.resync()
    bench.time += 10
    assert (await bench.settled()).reports["w"].verdict.ready


async def test_what_is_not_whole_keeps_all_that_it_has(bench: Bench) -> None:
    was = File(path="f", content="1")
    bench.want("w", was, Netns(name="r"))
    await bench.settled()
    image = Image(ref="oci://r/other:1")
    bench.wants("w", lambda _: Lowered((image, replace(was, content="2")), whole=False))
    await bench.settled()
    assert set(bench.node.things) == {"file/f", "netns/r", image.key}
    assert bench.node.things["file/f"] == was
    bench.wants("w", lambda facts: Lowered((replace(was, content=facts.secret("w", "X")),)))
    result = await bench.settled()
    assert result.reports["w"].verdict.reason is Reason.PROGRESSING
    assert "X can't be opened" in result.reports["w"].verdict.message
    assert bench.node.things["file/f"] == was
    bench.want("w", was, Netns(name="r"))
    writes = bench.node.writes
    await bench.settled()
    assert bench.node.writes == writes + 1  # the other image
    assert set(bench.node.things) == {"file/f", "netns/r"}


async def test_what_is_certain_is_done_though_the_rest_is_not_known(bench: Bench) -> None:
    guest = Domain(name="g", uuid="u", cpu=1, memory=1, boot=boot("oci://r/i:1"), disks=(), nics=(), running=True)
    image = Image(ref="oci://r/i:1")
    root = Disk(name="root-uid-vm", size=1, format="ext4")
    bench.want("w", image, root, replace(guest, needs=(image.key, root.key)), File(path="f", content="1"))
    await bench.settled()
    assert bench.node.things[guest.key].running  # type: ignore[attr-defined]
    stopped = replace(guest, running=False)
    bench.wants("w", lambda _: Lowered((stopped,), whole=False))
    await bench.settled()
    assert bench.node.things[guest.key].running, "what is not whole changes nothing"  # type: ignore[attr-defined]
    bench.wants("w", lambda _: Lowered((stopped,), whole=False, certain=frozenset({guest.key})))
    await bench.settled()
    assert not bench.node.things[guest.key].running  # type: ignore[attr-defined]
    assert "file/f" in bench.node.things
    bench.wants("w", lambda _: Lowered((), whole=False))
    await bench.settled()
    assert {guest.key, "file/f"} <= set(bench.node.things)


async def test_what_is_not_whole_says_nothing_against_what_is(bench: Bench) -> None:
    bench.wants("old", lambda _: Lowered((File(path="f", content="old"),), whole=False))
    bench.want("young", File(path="f", content="young"))
    bench.workloads["young"] = workload("young", created="2031-01-01T00:00:00Z")
    result = await bench.settled()
    assert result.reports["young"].verdict.ready
    assert result.reports["old"].verdict.message == "file/f: NodeWorkload young wants it differently: one of the two has to go"


async def test_a_driver_that_can_not_look_when_the_agent_begins_takes_nothing_down(bench: Bench) -> None:
    guest = Domain(
        name="g", uuid="uid-vm", cpu=1, memory=1, boot=boot("oci://r/i:1"), disks=(), nics=(), running=True,
        needs=("disk/root-uid-vm",),
    )  # fmt: skip

    def machine(facts: Facts) -> Lowered:
        image = Image(ref="oci://r/i:1")
        if facts.get(ImageFact, image.ref) is None:
            return Lowered((image,), whole=False)
        return Lowered((image, Disk(name="root-uid-vm", size=1, format="ext4"), guest))

    bench.wants("vm", machine)
    await bench.settled()
    bench.restart()
    bench.node.blind[Image] = "the disk answers slowly"
    writes = bench.node.writes
    result = await bench.once()
    assert result.reports["vm"].verdict.message == "the node can't look at its images: the disk answers slowly"
    assert result.wake_at is not None
    bench.node.blind.clear()
    bench.time = result.wake_at
    result = await bench.settled()
    assert result.reports["vm"].verdict.ready
    assert (bench.node.writes, bench.node.starts) == (writes, {"g": 1})


async def test_the_ground_stays_under_a_guest_that_stays(bench: Bench) -> None:
    image = Image(ref="oci://r/i:1")
    data = Disk(name="mount-uid-data", size=1, format="ext4")
    guest = Domain(
        name="g", uuid="uid-vm", cpu=2, memory=3, boot=boot(image.ref),
        disks=(GuestDisk(disk=data.name, serial="d"),), nics=(), running=True,
        needs=("disk/root-uid-vm", data.key, image.key),
    )  # fmt: skip
    tap = Tap(name="t-aaaaaaaaaa-0", bridge="eth1", mtu=1500, needs=("segment/eth1",))
    bench.want("first", Segment(interface="eth1"))
    bench.want("data", data)
    bench.want("vm", image, Disk(name="root-uid-vm", size=1, format="ext4"), guest, Segment(interface="eth1"), tap)
    await bench.settled()
    del bench.workloads["vm"]
    bench.delete("first")
    bench.delete("data")
    result = await bench.settled()
    assert {"segment/eth1", data.key, guest.key, tap.key} <= set(bench.node.things)
    assert result.clean == {"first"}  # what it shared with others holds nobody up
    blocked = result.reports["data"].verdict
    assert blocked.reason is Reason.DELETION_BLOCKED
    assert blocked.message == f"{data.key} is in use by domain/g, which the node keeps: it goes when that does"
    (entry,) = result.quarantine
    assert (entry.uid, entry.running, entry.cpu, entry.memory, entry.storage) == ("uid-vm", True, 2, 3 + GUEST_OVERHEAD, 1)
    bench.orders = (QuarantineOrder(uid="uid-vm", discard=True),)
    result = await bench.settled()
    assert result.clean == {"first", "data"}
    assert bench.node.things == {}


async def test_a_network_of_an_older_agent_stays_for_the_guests_that_are_still_on_it(bench: Bench) -> None:
    bridge = Bridge(name="b-aaaaaaaaaa", mtu=1500)
    pair = Veth(name="l-aaaaaaaaaa", peer_netns="r", peer_name="lan", mtu=1500, bridge=bridge.name)
    tap = Tap(name="t-bbbbbbbbbb-0", bridge=bridge.name, mtu=1500)
    bench.want("net", bridge, pair)
    bench.want("vm", tap)
    await bench.settled()
    bench.want("net", Bridge(netns="r", name="lan", mtu=1500))
    bench.wants("vm", lambda _: Lowered(whole=False))
    await bench.settled()
    assert {bridge.key, pair.key, tap.key} <= set(bench.node.things)
    bench.want("vm", replace(tap, bridge=None, wired_to="v"))
    await bench.settled()
    assert set(bench.node.things) == {"link/r/lan", tap.key}


async def test_half_a_restart_is_none(bench: Bench) -> None:
    """What is under way for a workload goes on when it vanishes without a word."""
    bench.node.delay = 0.05
    image = Image(ref="oci://r/i:1")
    bench.want("w", image)
    await bench.once()
    bench.workloads.clear()
    await bench.settled()
    assert bench.slow[0][1]
    assert set(bench.node.things) == {image.key}


async def test_a_clock_that_is_set_back_wakes_in_time(bench: Bench) -> None:
    at: list[float] = []

    def later(facts: Facts) -> Lowered:
        at.append(facts.now)
        return Lowered(wake_at=facts.now + 60)

    bench.wants("w", later)
    await bench.once()
    bench.time -= 3600
    result = await bench.once()
    assert at == [1000.0, 1000.0 - 3600]
    assert result.wake_at == bench.time + 60


async def test_what_is_told_changes_by_time_alone(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was seen to change, nothing is wanted anew: a program that crashed has run for long enough."""
    told: list[float] = []

    def tried(here: Here[MountOnNode], lowered: Lowered, outcome: Outcome) -> Report[MountState]:
        told.append(here.facts.now)
        if here.facts.now < 1060.0:
            return Report(waiting(Reason.CRASH_LOOP, "runs again"), wake_at=1060.0)
        return Report(ready())

    monkeypatch.setattr(bench.script, "report", tried)
    bench.want("w", Netns(name="r"))
    result = await bench.settled()
    assert result.wake_at == 1060.0
    before = len(told)
    bench.time = 1059.0
    assert (await bench.once()).reports["w"].verdict.reason == Reason.CRASH_LOOP
    assert len(told) == before
    bench.time = 1060.0
    result = await bench.once()
    assert result.reports["w"].verdict.ready
    assert result.wake_at is None
    await bench.once()
    assert len(told) == before + 1


async def test_nothing_is_removed_before_the_workloads_are_known(bench: Bench) -> None:
    bench.want("w", DISK, Netns(name="r"))
    await bench.settled()
    bench.restart()
    del bench.workloads["w"]
    bench.want("new", Netns(name="n"))
    result = await bench.once(may_remove=False)
    assert set(bench.node.things) == {"disk/mount-uid-w", "netns/r", "netns/n"}
    assert (result.reports, result.clean) == ({}, frozenset())


async def test_a_deletion_is_over_when_nothing_is_left_and_not_before(bench: Bench) -> None:
    bench.want("w", DISK, Netns(name="r"))
    await bench.settled()
    bench.delete("w")
    bench.node.faults["netns/r"] = "busy"
    result = await bench.once()
    assert result.clean == frozenset()
    assert result.reports["w"].verdict == waiting(Reason.DELETION_BLOCKED, "remove netns/r: busy")
    del bench.node.faults["netns/r"]
    assert result.wake_at is not None
    bench.time = result.wake_at
    assert (await bench.once()).clean == {"w"}


async def test_a_shared_thing_goes_with_the_last_who_wants_it(bench: Bench) -> None:
    bench.want("a", Segment(interface="eth1"))
    bench.want("b", Segment(interface="eth1"))
    await bench.settled()
    bench.delete("a")
    result = await bench.settled()
    assert result.clean == {"a"}
    assert set(bench.node.things) == {"segment/eth1"}
    del bench.workloads["a"]
    bench.delete("b")
    await bench.settled()
    assert bench.node.things == {}


async def test_two_who_want_one_thing_differently_the_older_wins(bench: Bench) -> None:
    bench.want("old", File(path="f", content="old"))
    bench.want("young", File(path="f", content="young"))
    bench.workloads["young"] = workload("young", created="2031-01-01T00:00:00Z")
    result = await bench.settled()
    assert result.reports["old"].verdict.ready
    assert result.reports["young"].verdict.message == "file/f: NodeWorkload old wants it differently: one of the two has to go"


async def test_slow_work_runs_beside_and_its_end_goes_on_with_the_rest(bench: Bench) -> None:
    image = Image(ref="oci://r/i:1")

    def machine(facts: Facts) -> Lowered:
        items: tuple[Item, ...] = (replace(image, owner="vm"),)
        if facts.get(ImageFact, image.ref) is not None:
            items += (Disk(name="root-uid-vm", size=1, format="ext4", owner="vm"),)
        return Lowered(items)

    bench.node.delay = 0.05
    bench.wants("vm", machine)
    bench.want("other", Netns(name="o"))
    first = await bench.once()
    assert first.reports["other"].verdict.ready
    assert first.reports["vm"].verdict.message == "image/oci://r/i:1: in progress"
    last = await bench.settled()
    assert last.reports["vm"].verdict.ready
    assert "disk/root-uid-vm" in bench.node.things
    assert [(op.key, ok) for op, ok in bench.slow] == [(image.key, True)]


async def test_a_new_agent_takes_nothing_down_that_it_only_does_not_know_yet(bench: Bench) -> None:
    """What a driver knows of things may depend on which of them are wanted."""
    image = Image(ref="oci://r/i:1")
    served: set[str] = set()

    def machine(facts: Facts) -> Lowered:
        items: tuple[Item, ...] = (replace(image, owner="vm"),)
        if facts.get(ImageFact, image.ref) is not None:
            items += (Netns(name="r", owner="vm"),)
        return Lowered(items)

    bench.wants("vm", machine)
    await bench.settled()
    bench.restart()
    (images,) = (driver for driver in bench.served if Image in driver.ITEMS)
    observe, facts = images.observe, images.facts  # type: ignore[attr-defined]

    async def asked(wanted: Sequence[Item]) -> Mapping[str, Observed]:
        served.clear()
        served.update(item.ref for item in wanted if isinstance(item, Image))
        return {key: seen for key, seen in (await observe(wanted)).items() if key.removeprefix("image/") in served}

    images.observe = asked  # type: ignore[method-assign]
    images.facts = lambda: {  # type: ignore[attr-defined]
        of: {ref: fact for ref, fact in about.items() if ref in served} for of, about in facts().items()
    }
    writes = bench.node.writes
    result = await bench.settled()
    assert bench.node.writes == writes
    assert result.reports["vm"].verdict.ready


async def test_slow_work_that_nobody_wants_any_more_is_called_off(bench: Bench) -> None:
    bench.node.delay = 60
    bench.want("vm", Image(ref="oci://r/huge:1"))
    await bench.once()
    bench.delete("vm")
    result = await bench.settled()
    assert result.clean == {"vm"}
    assert bench.node.things == {}


async def test_a_guest_stands_on_its_disk_and_leaves_before_it(bench: Bench) -> None:
    root = Disk(name="root-uid-vm", size=1, format="ext4")
    guest = Domain(
        name="g", uuid="uid-vm", cpu=1, memory=1, boot=boot("oci://r/i:1"), disks=(), nics=(), running=True,
        needs=("disk/root-uid-vm",),
    )  # fmt: skip
    bench.node.things["image/oci://r/i:1"] = Image(ref="oci://r/i:1", owner="another")
    bench.want("vm", root, guest)
    await bench.settled()
    bench.node.delay = 0.05
    bench.delete("vm")
    for _ in range(3):  # other news come meanwhile
        between = await bench.once()
        assert {"disk/root-uid-vm", "domain/g"} <= set(bench.node.things)
        assert between.clean == frozenset()
    assert (await bench.settled()).clean == {"vm"}
    assert set(bench.node.things) == {"image/oci://r/i:1"}


async def test_drift_is_noticed_and_mended(bench: Bench) -> None:
    bench.want("w", Netns(name="r"))
    await bench.settled()
    bench.node.lose("netns/r")
    assert bench.dirty.is_set()
    result = await bench.once()
    assert [op.key for op in result.done] == ["netns/r"]
    assert set(bench.node.things) == {"netns/r"}


async def test_what_does_not_stick_does_not_spin(bench: Bench) -> None:
    bench.want("w", Netns(name="r"))
    quick = bench.served[0]

    async def pretend(op: Op) -> None:
        bench.node.writes += 1

    quick.apply = pretend  # type: ignore[method-assign]
    for _ in range(5):
        result = await bench.once()
    assert bench.node.writes == 1
    assert "not there as it should be" in result.reports["w"].verdict.message
    for _ in range(3600):  # with notifications all the time, which its own writes may be the cause of
        bench.time += 1
        bench.converger.resync()
        result = await bench.once()
    assert 10 < bench.node.writes < 25
    quick.apply = type(quick).apply.__get__(quick)  # type: ignore[method-assign]
    bench.time += 400
    assert (await bench.once()).reports["w"].verdict.ready
    bench.node.lose("netns/r")
    assert [op.key for op in (await bench.once()).done] == ["netns/r"]  # and nothing of that is remembered


async def test_what_is_slow_and_does_not_stick_does_not_spin_either(bench: Bench) -> None:
    bench.want("w", Image(ref="oci://a"))
    (images,) = (driver for driver in bench.served if Image in driver.ITEMS)

    async def pretend(op: Op) -> None:
        bench.node.writes += 1

    images.apply = pretend  # type: ignore[method-assign]
    for _ in range(3600):
        bench.time += 1
        result = await bench.once()
        if bench.converger.underway:
            await asyncio.wait_for(bench.dirty.wait(), 5)
    assert 10 < bench.node.writes < 30
    assert "not there as it should be" in result.reports["w"].verdict.message
    images.apply = type(images).apply.__get__(images)  # type: ignore[method-assign]
    bench.time += 400
    assert (await bench.settled()).reports["w"].verdict.ready


async def test_a_subsystem_that_is_away_holds_up_its_items_and_removes_nothing(bench: Bench) -> None:
    bench.want("w", Netns(name="r"))
    bench.want("gone", Netns(name="g"))
    await bench.settled()
    quick = bench.served[0]
    observe = quick.observe

    async def away(wanted: object) -> dict[str, object]:
        raise OSError("connection refused")

    quick.observe = away  # type: ignore[assignment]
    bench.converger.resync()
    bench.delete("gone")
    bench.want("new", Netns(name="n"))
    result = await bench.once()
    assert result.clean == frozenset()
    assert "the node can't see what it has: OSError: connection refused" in result.reports["gone"].verdict.message
    assert result.reports["w"].verdict.ready  # as far as anyone can tell
    assert "connection refused" in result.reports["new"].verdict.message
    assert set(bench.node.things) == {"netns/r", "netns/g"}
    quick.observe = observe
    assert result.wake_at is not None
    bench.time = result.wake_at
    result = await bench.settled()
    assert result.clean == {"gone"}
    assert result.reports["new"].verdict.ready


NAMES = st.integers(0, 5)
WANTED = st.dictionaries(
    st.sampled_from(["a", "b", "c"]),
    st.lists(st.tuples(NAMES, st.sampled_from(["1", "2"]), st.frozensets(NAMES, max_size=2)), max_size=5),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(WANTED, min_size=1, max_size=4), st.dictionaries(NAMES, st.sampled_from(["1", "2"])))
def test_whatever_is_wanted_whatever_is_there_it_settles_and_then_does_nothing(
    wishes: list[dict[str, list[tuple[int, str, frozenset[int]]]]], there: dict[int, str]
) -> None:
    async def story() -> None:
        bench = Bench()
        for n, content in there.items():
            bench.node.things[f"file/{n}"] = File(path=str(n), content=content)  # half made, and nobody's
        for wish in wishes:
            for name in bench.workloads.keys() - wish.keys():
                bench.delete(name)
            for name, files in wish.items():
                items = {
                    n: File(path=str(n), content=content, needs=tuple(f"file/{m}" for m in sorted(needs) if m < n))
                    for n, content, needs in files
                }
                bench.want(name, *items.values())
            result = await bench.settled()
            wanted = bench.converger.wanted
            possible: dict[str, Item] = {}
            for key in sorted(wanted):  # needs point to smaller numbers only
                if all(need in possible for need in wanted[key].needs):
                    possible[key] = wanted[key]
            assert set(bench.node.things) == set(possible) | (set(bench.node.things) & set(wanted))
            for key, item in possible.items():
                assert bench.node.things[key] == item
            writes = bench.node.writes
            bench.converger.resync()
            await bench.settled()
            assert bench.node.writes == writes
            assert set(result.reports) == set(wish)
            assert result.quarantine == ()

    asyncio.run(story())


async def test_slow_work_that_fails_says_so_until_it_works(bench: Bench) -> None:
    image = Image(ref="oci://r/i:1")
    bench.node.faults[image.key] = "registry away"
    bench.want("w", image)
    result = await bench.settled()
    assert result.reports["w"].verdict.message == f"{image.key}: registry away"
    assert result.wake_at is not None
    assert bench.slow[-1][1] is False
    bench.node.faults.clear()
    assert not (await bench.settled()).reports["w"].verdict.ready  # not before its time
    bench.time = result.wake_at
    assert (await bench.settled()).reports["w"].verdict.ready


async def test_a_gift_to_another_kind_ends_nothing(bench: Bench) -> None:
    bench.want("w", DISK, Netns(name="r"))
    await bench.settled()
    bench.workloads.clear()
    recipient = Recipient(kind="ZMachine", namespace="default", name="c")
    bench.orders = (QuarantineOrder(uid="uid-w", give_to=recipient),)
    await bench.settled()
    assert set(bench.node.things) == {DISK.key, "netns/r"}


async def test_what_lost_its_mark_is_found_by_its_uid(bench: Bench) -> None:
    bench.want("w", DISK)
    await bench.settled()
    bench.node.things[DISK.key] = replace(DISK, owner="", origin=None)
    assert (await bench.settled()).quarantine == ()
    bench.delete("w")
    assert (await bench.settled()).clean == {"w"}
    assert bench.node.things == {}
    stranger = Disk(name="mount-uid-nobody", size=7, format="ext4")
    bench.node.things[stranger.key] = stranger
    marked = Disk(name="root-uid-other", size=5, format="ext4", owner="w")  # by the name of one who has another uid
    bench.node.things[marked.key] = marked
    bench.delete("w")
    bench.converger.resync()
    result = await bench.settled()
    assert set(bench.node.things) == {stranger.key, marked.key}
    assert [(entry.uid, entry.kind, entry.storage) for entry in result.quarantine] == [
        ("uid-other", "ZMachine", 5), ("uid-nobody", "ZMount", 7),
    ]  # fmt: skip


async def test_a_volume_that_nobody_mounts_any_more_stays_and_is_counted(bench: Bench) -> None:
    bench.want("w", VOLUME)
    await bench.settled()
    bench.workloads.clear()
    bench.node.things[VOLUME.key] = replace(VOLUME, whole=False, owner="", origin=None)  # after a reboot, its card lost
    bench.converger.resync()
    writes = bench.node.writes
    (entry,) = (await bench.settled()).quarantine
    assert (entry.uid, entry.storage, bench.node.writes) == ("uid-w", 1, writes)
    bench.want("w", VOLUME)
    assert (await bench.settled()).quarantine == ()
    assert bench.node.things == {VOLUME.key: VOLUME}


async def test_what_nobody_knows_is_shown_by_the_name_on_it(bench: Bench) -> None:
    bench.node.things["netns/r"] = Netns(name="r", owner="network-default-net-abc")
    result = await bench.settled()
    assert set(bench.node.things) == {"netns/r"}
    assert result.quarantine == (Quarantined(uid="network-default-net-abc", running=True),)
    bench.orders = (QuarantineOrder(uid="network-default-net-abc", discard=True),)
    assert (await bench.settled()).quarantine == ()
    assert bench.node.things == {}


IMAGE = Image(ref="oci://r/i:1")


async def test_a_slow_operation_that_fails_is_told_and_forgotten_when_it_is_not_asked_for_any_more(bench: Bench) -> None:
    bench.want("w", IMAGE)
    bench.node.faults[IMAGE.key] = "no such image"
    result = await bench.settled()
    assert result.reports["w"].verdict.message == f"{IMAGE.key}: no such image"
    assert result.wake_at is not None
    assert [ok for _, ok in bench.slow] == [False]
    assert not bench.converger.underway
    del bench.node.faults[IMAGE.key]
    bench.time = result.wake_at
    result = await bench.settled()
    assert result.reports["w"].verdict.ready
    assert (result.wake_at, [ok for _, ok in bench.slow]) == (None, [False, True])


async def test_what_is_being_made_for_a_workload_that_goes_holds_it_until_it_has_ended(bench: Bench) -> None:
    bench.want("w", IMAGE)
    bench.node.delay = 0.2
    await bench.once()
    assert bench.converger.underway == {IMAGE.key}
    bench.delete("w")
    result = await bench.once()
    assert result.clean == frozenset()
    result = await bench.settled()
    assert result.clean == {"w"}


async def test_what_was_told_of_it_stays_where_nobody_can_say_how_it_stands(bench: Bench) -> None:
    bench.script.report = lambda *_: Report(ready(), state=MountState(size=7))  # type: ignore[method-assign]
    bench.want("w", DISK)
    await bench.settled()

    def explode(_: Facts) -> Lowered:
        raise KeyError("bug")

    bench.wants("w", explode)
    report = (await bench.settled()).reports["w"]
    assert report == Report(waiting(Reason.FAILED, "the agent failed on it; its log says why"), state=MountState(size=7))
    bench.knows = False
    bench.wants("w", explode)
    report = (await bench.settled()).reports["w"]
    said = f"agent is of release {__version__}, does not know ZMount, and leaves what there is of it as it is: upgrade it to"
    assert said in report.verdict.message
    assert report.state == MountState(size=7)
