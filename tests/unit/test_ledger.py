"""Pools under two writers: whatever comes first, the answer or the watch, nobody's part is lost."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable
from typing import Any

import pytest

from zos.api.gridnode import GridNode, GridNodeStatus
from zos.api.meta import Key
from zos.api.resources import NodeHold, Resources
from zos.controller.ledger import Denied, Ledger, Lost
from zos.controller.writing import Exchange, status_patch
from zos.kinds.registry import KINDS
from zos.kube.client import ApiError, Conflict, Raw
from zos.world.store import World

KEY = GridNode.key_of("", "n1")


class Server:
    """One GridNode, as an API server keeps it. ``answers`` holds back what it says to our writes until it is set; ``refuses``
    says why it does not take a status."""

    def __init__(self) -> None:
        meta = {"name": "n1", "uid": "u", "generation": 1, "resourceVersion": "10"}
        self.raw: Raw = {"kind": "GridNode", "metadata": meta, "spec": {}, "status": {}}
        self.answers = asyncio.Event()
        self.answers.set()
        self.refuses: Callable[[Raw], str | None] = lambda status: None
        self.patches = 0

    def write(self, status: Raw) -> Raw:
        self.raw = copy.deepcopy(self.raw)
        self.raw["metadata"]["resourceVersion"] = str(int(self.raw["metadata"]["resourceVersion"]) + 1)
        self.raw["status"].update(status)
        return self.raw

    async def patch(self, model: type[GridNode], namespace: str, name: str, body: Raw, **_: Any) -> Raw:
        if body["metadata"]["resourceVersion"] != self.raw["metadata"]["resourceVersion"]:
            await self.answers.wait()
            raise Conflict(409, "Conflict", "it changed")
        self.patches += 1
        if (why := self.refuses({**self.raw["status"], **body["status"]})) is not None:
            await self.answers.wait()
            raise ApiError(422, "Invalid", why)
        answer = self.write(body["status"])
        await self.answers.wait()
        return answer

    async def get(self, model: type[GridNode], namespace: str, name: str) -> Raw:
        await asyncio.sleep(0)
        return self.raw


class Side:
    """A controller's view of the server: its cache and its ledger."""

    def __init__(self, server: Server, gather: float = 0.0) -> None:
        self.world = World(KINDS.indexes())
        self.again: list[Key] = []
        self.now = 0.0
        exchange = Exchange(server, self.world, self.hear, self.again.extend, lambda *_: None)  # type: ignore[arg-type]
        self.ledger = Ledger(exchange, lambda: self.now, gather)
        self.hear(KEY, server.raw)

    def hear(self, key: Key, raw: Raw | None, foreseen: object = None) -> None:
        assert raw is not None
        known = self.world.peek(key)
        if known is None or int(raw["metadata"]["resourceVersion"]) > int(known.metadata.resource_version):
            self.again.extend(self.world.put(self.ledger.rebase(key, GridNode.model_validate(raw))))

    @property
    def node(self) -> GridNode:
        found = self.world.peek(KEY)
        assert isinstance(found, GridNode)
        return found


def hold(name: str) -> NodeHold:
    return NodeHold(uid=name, owner=f"ZMount default/{name}", storage=1)


CAPACITY = {"capacity": {"cpu": 4, "memory": "8Gi", "storage": "1Gi"}}


async def settle() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


async def test_shares_come_back_together_and_are_taken_at_once() -> None:
    server = Server()
    side = Side(server, gather=0.2)
    await asyncio.gather(*(taken for name in "abc" if (taken := side.ledger.hold(KEY, hold(name))) is not None))
    patches = server.patches
    first = side.ledger.release(KEY, "a")
    await asyncio.sleep(0.05)
    second = side.ledger.release(KEY, "b")
    await settle()
    assert server.patches == patches, "it waits for more"
    assert side.node.status.holds == (hold("c"),), "and they can be had again already"
    assert first is not None
    assert second is not None
    await asyncio.gather(first, second)
    assert server.patches == patches + 1
    back, taken = side.ledger.release(KEY, "c"), side.ledger.hold(KEY, hold("d"))
    await settle()
    assert server.patches == patches + 2
    assert all(waiter is not None and waiter.done() for waiter in (back, taken))
    assert side.node == GridNode.model_validate(server.raw)


@pytest.mark.parametrize("more", [False, True])
async def test_the_watch_is_quicker_than_the_answer(more: bool) -> None:
    server = Server()
    side = Side(server)
    server.answers.clear()
    waiters = [side.ledger.hold(KEY, hold("a"))]
    await settle()  # the write has arrived, its answer is on its way
    side.hear(KEY, server.write(CAPACITY))  # the agent's, on top of ours
    if more:
        waiters.append(side.ledger.hold(KEY, hold("b")))
    side.again.clear()
    server.answers.set()
    await settle()
    assert all(waiter is not None and waiter.done() and waiter.exception() is None for waiter in waiters)
    assert side.node.status.capacity.cpu == 4
    assert {entry.uid for entry in side.node.status.holds} == ({"a", "b"} if more else {"a"})
    assert side.node == GridNode.model_validate(server.raw)


async def test_a_pool_that_changed_unheard_is_read_anew_even_when_it_is_used_again_at_once() -> None:
    server = Server()
    side = Side(server)
    server.write(CAPACITY)  # nobody tells of it
    lost = side.ledger.hold(KEY, hold("a"))
    again: list[Any] = []

    def meanwhile() -> None:
        if not again and KEY in side.again and lost is not None and lost.done():
            again.append(side.ledger.hold(KEY, hold("b")))
            side.ledger.release(KEY, "b")  # so there is nothing to write, which would show the change

    for _ in range(100):
        await asyncio.sleep(0)
        meanwhile()
    assert lost is not None
    assert isinstance(lost.exception(), Lost)
    assert again, "the test proves nothing"
    assert side.node.status.capacity.cpu == 4
    assert side.node == GridNode.model_validate(server.raw)


def bad_holds(status: Raw) -> str | None:
    return next((f"{entry['uid']} is bad" for entry in status.get("holds", ()) if entry["uid"].startswith("bad")), None)


def uids(found: Any) -> set[str]:
    entries = found["status"]["holds"] if isinstance(found, dict) else found.status.holds
    return {entry["uid"] if isinstance(entry, dict) else entry.uid for entry in entries}


def said(waiter: asyncio.Future[None] | None) -> str:
    """What somebody is told who wants a part written: nothing if it is."""
    assert waiter is not None
    assert waiter.done()
    error = waiter.exception()
    assert error is None or (isinstance(error, Denied) and error.permanent)
    return str(error or "")


async def test_a_share_that_is_refused_is_told_to_its_holder_and_holds_up_no_other() -> None:
    server = Server()
    side = Side(server)
    server.refuses = bad_holds
    names = [f"good{number}" for number in range(60)] + ["bad1", "bad2"]
    names.sort(key=lambda name: hash(name) % 7)
    own = side.node.status.model_copy(update={"node_namespace": "zos-node-n1"})
    waiters = {name: side.ledger.hold(KEY, hold(name), Key("ZMount", "default", name)) for name in names}
    status = side.ledger.status(KEY, side.node.status.model_copy(update={"node_namespace": own.node_namespace}))
    for _ in range(10):
        await settle()
    assert {name for name in names if said(waiters[name])} == {"bad1", "bad2"}
    assert "bad1 is bad" in said(waiters["bad1"])
    assert said(status) == ""
    assert uids(side.node) == uids(server.raw) == {name for name in names if name.startswith("good")}
    assert server.raw["status"]["nodeNamespace"] == "zos-node-n1"
    assert server.patches < 40, "each was written on its own"
    assert not {key for key in side.again if key.name.startswith("bad")}, "who is told comes again by himself"


async def test_what_was_refused_is_tried_on_its_own_less_and_less_often() -> None:
    server = Server()
    side = Side(server)
    server.refuses = bad_holds
    tried: list[float] = []
    for second in range(600):
        side.now, before = float(second), server.patches
        waiter = side.ledger.hold(KEY, hold("bad"))
        await settle()
        assert said(waiter) == "GridNode n1: the API server refuses it: bad is bad"
        if server.patches > before:
            tried.append(side.now)
    assert tried[:5] == [0, 1, 3, 6, 12]
    assert len(tried) < 11
    before = server.patches
    both = side.ledger.hold(KEY, hold("good")), side.ledger.hold(KEY, hold("bad").model_copy(update={"storage": 2}))
    await settle()
    assert [bool(said(waiter)) for waiter in both] == [False, True], "another wish is another try"
    assert server.patches == before + 2, "it was tried together with others, whom that could hold up"
    side.now += 3600
    assert side.ledger.hold(KEY, hold("other"))
    await settle()
    before = server.patches
    both = side.ledger.hold(KEY, hold("another")), side.ledger.hold(KEY, hold("bad"))
    await settle()
    assert [bool(said(waiter)) for waiter in both] == [False, True]
    assert server.patches == before + 3, "it is not remembered for ever"
    server.refuses = lambda status: None
    side.now += 300
    again = side.ledger.hold(KEY, hold("bad"))
    await settle()
    assert said(again) == ""
    assert uids(server.raw) == {"good", "bad", "other", "another"}


async def test_a_pool_whose_own_status_is_refused_goes_on_taking_and_giving_back_shares() -> None:
    server = Server()
    side = Side(server)
    server.refuses = lambda status: "too much" if status.get("allocated", {}).get("cpu", 0) > 9 else None
    await settle()
    first = side.ledger.hold(KEY, hold("a"))
    await settle()
    assert said(first) == ""

    def resolved(**more: Any) -> GridNodeStatus:
        return side.node.status.model_copy(update={"allocated": Resources(cpu=10), **more})

    waiters = side.ledger.hold(KEY, hold("b")), side.ledger.status(KEY, resolved())
    side.again.clear()
    await settle()
    assert [said(waiter) for waiter in waiters] == ["", "GridNode n1: the API server refuses it: too much"]
    assert uids(server.raw) == {"a", "b"}
    assert side.node == GridNode.model_validate(server.raw)
    before = server.patches
    gone = side.ledger.status(KEY, resolved(holds=(hold("b"),)))  # and "a" is over
    await settle()
    assert said(gone) == "GridNode n1: the API server refuses it: too much"
    assert uids(server.raw) == {"b"}
    assert server.patches == before + 1, "what was refused a moment ago was written again"
    side.hear(KEY, server.write(CAPACITY))  # somebody has done something about it
    server.refuses = lambda status: None
    waiter = side.ledger.status(KEY, resolved())
    await settle()
    assert said(waiter) == ""
    assert server.raw["status"]["allocated"]["cpu"] == 10


async def test_shares_leave_room_for_the_pool_to_say_how_it_stands() -> None:
    server = Server()
    side = Side(server)
    long = [hold(f"{number:04}").model_copy(update={"owner": f"ZMount {'n' * 63}/{'d' * 253}"}) for number in range(4000)]
    waiters = [side.ledger.hold(KEY, entry) for entry in long]
    for _ in range(20):
        await settle()
    refused = [waiter for waiter in waiters if said(waiter)]
    assert 0 < len(refused) < 2000
    assert "no room to write down more" in said(refused[0])
    assert len(side.node.status.holds) == len(long) - len(refused)
    assert 900_000 < len(side.node.model_dump_json(by_alias=True, exclude_none=True)) < 1_100_000
    waiter = side.ledger.release(KEY, side.node.status.holds[0].uid)
    status = side.ledger.status(KEY, side.node.status.model_copy(update={"node_namespace": "zos-node-n1"}))
    await settle()
    assert said(waiter) == said(status) == ""
    assert side.node == GridNode.model_validate(server.raw)


def test_a_patch_says_what_was_never_written_and_nothing_of_others() -> None:
    unwritten = GridNodeStatus.model_validate({"features": {}, "nodeNamespace": "zos-node-n1"})
    counted = unwritten.model_copy(update={"free": Resources(cpu=0, memory=0, storage=0), "holds": (), "node_namespace": None})
    assert status_patch(unwritten, counted) == {
        "free": {"cpu": 0, "memory": "0", "storage": "0"},
        "nodeNamespace": None,
    }
    assert status_patch(GridNodeStatus.model_validate(counted.wire()), counted) == {}
