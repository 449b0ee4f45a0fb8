"""Pools under two writers: whatever comes first, the answer or the watch, nobody's part is lost."""

from __future__ import annotations

import asyncio
import copy
from typing import Any

import pytest

from zos.api.gridnode import GridNode, NodeHold
from zos.api.meta import Key
from zos.controller.ledger import Ledger, Lost
from zos.controller.registry import indexes
from zos.kube.client import Conflict, Raw
from zos.world.store import World

KEY = GridNode.key_of("", "n1")


class Server:
    """One GridNode, as an API server keeps it. ``answers`` holds back what it says to our writes until it is set."""

    def __init__(self) -> None:
        meta = {"name": "n1", "uid": "u", "generation": 1, "resourceVersion": "10"}
        self.raw: Raw = {"kind": "GridNode", "metadata": meta, "spec": {}, "status": {}}
        self.answers = asyncio.Event()
        self.answers.set()

    def write(self, status: Raw) -> Raw:
        self.raw = copy.deepcopy(self.raw)
        self.raw["metadata"]["resourceVersion"] = str(int(self.raw["metadata"]["resourceVersion"]) + 1)
        self.raw["status"].update(status)
        return self.raw

    async def patch(self, model: type[GridNode], namespace: str, name: str, body: Raw, **_: Any) -> Raw:
        if body["metadata"]["resourceVersion"] != self.raw["metadata"]["resourceVersion"]:
            await self.answers.wait()
            raise Conflict(409, "Conflict", "it changed")
        answer = self.write(body["status"])
        await self.answers.wait()
        return answer

    async def get(self, model: type[GridNode], namespace: str, name: str) -> Raw:
        await asyncio.sleep(0)
        return self.raw


class Side:
    """A controller's view of the server: its cache and its ledger."""

    def __init__(self, server: Server) -> None:
        self.world = World([*indexes()])
        self.again: list[Key] = []
        self.ledger = Ledger(server, self.world, self.hear, self.again.extend, "test")  # type: ignore[arg-type]
        self.hear(KEY, server.raw)

    def hear(self, key: Key, raw: Raw | None) -> None:
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
