"""What is told of what happens to objects: each step once, whoever looks and how often."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from cases import load, world_of
from fixpoint import carried_out, resolve, settle
from memory import Request
from wholegrid import standing
from zos.api.gridnode import GridNode
from zos.api.meta import Condition, Meta, Reason
from zos.api.network import Network
from zos.api.nodeworkload import NodeWorkload
from zos.api.resources import NodeHold
from zos.api.zmachine import ZMachine
from zos.controller.executor import Executor
from zos.controller.ledger import Ledger, Lost
from zos.controller.writing import Exchange
from zos.kinds.registry import KINDS
from zos.kinds.zmachine.part import ImagePull, MachineState
from zos.kube.client import Conflict, Raw
from zos.world.heartbeat import Heartbeat
from zos.world.resolution import Hold, Notice, Resolution, waiting
from zos.world.store import World

_GOLDEN = Path(__file__).parent.parent / "golden"
WEB = ZMachine.key_of("default", "web")
ONE, TWO = f"sha256:{'1' * 64}", f"sha256:{'2' * 64}"


def placed() -> World:
    """A world in which machine ``web`` was just given its node, which has not begun."""
    world = world_of(load(_GOLDEN / "zmachine" / "placed.yaml")[0])
    machine: Any = world.peek(WEB)
    first = resolve(machine, world)
    (news,) = first.notices
    assert (news.reason, news.message) == (Reason.PLACED, "on node n1, with private address 10.20.3.3 in network net")
    carried_out(world, machine, first)
    return world


def reasons(notices: tuple[Notice, ...]) -> list[str]:
    return [str(notice.reason) for notice in notices]


def says(world: World, state: MachineState, image: str = "") -> tuple[Notice, ...]:
    """What is told when the machine's node says this. Told twice, by two who look at the same, it is the same; when the status
    is written it is over."""
    workload: Any = next(w for w in world.all(NodeWorkload.KIND) if w.spec.owner.name == "web")  # type: ignore[attr-defined]
    ready = workload.status.condition("Ready")
    conditions = (
        (ready, Condition(type="ImageReady", status="True", reason=Reason.SUCCEEDED, message=image)) if image else (ready,)
    )
    world.put(workload.model_copy(update={"status": workload.saying(state, conditions=conditions)}))
    machine: Any = world.peek(WEB)
    found = resolve(machine, world)
    assert resolve(machine, world).notices == found.notices
    assert resolve(carried_out(world, machine, found, nodes=False), world).notices == ()
    return found.notices


def test_a_machines_way() -> None:
    world = placed()
    pending = MachineState(image_digest=ONE, image_pull=ImagePull(seconds=4, size=13 << 20))
    (pulled,) = says(world, pending, ONE)
    assert (pulled.reason, pulled.message) == (Reason.IMAGE_PULLED, "image oci://r/i:t (13Mi) fetched in 4 s")
    runs = pending.model_copy(update={"state": "Running", "started_at": "2030-01-01T00:00:00Z"})
    (started,) = says(world, runs, ONE)
    assert (started.reason, started.message) == (Reason.STARTED, "on node n1")
    again = runs.model_copy(update={"started_at": "2030-01-01T00:01:00Z", "started_because": "the guest died"})
    (restarted,) = says(world, again, ONE)
    assert (restarted.reason, restarted.message) == (Reason.RESTARTED, "the guest died")
    assert restarted.once != started.once


def test_an_image_that_is_there_is_not_said_to_have_been_fetched() -> None:
    assert says(placed(), MachineState(image_digest=ONE), ONE) == ()


def test_another_image_is_told_while_the_machine_runs_with_the_first() -> None:
    world = placed()
    runs = MachineState(image_digest=ONE, image_pull=ImagePull(seconds=4), started_at="2030-01-01T00:00:00Z")
    assert reasons(says(world, runs, ONE)) == ["ImagePulled", "Started"]
    (pulled,) = says(world, runs, TWO)
    assert (pulled.reason, pulled.once) == (Reason.IMAGE_PULLED, TWO)
    assert says(world, runs.model_copy(update={"image_digest": TWO}), TWO) == ()


def test_a_node_that_was_silent_has_no_news() -> None:
    world = placed()
    runs = MachineState(image_digest=ONE, started_at="2030-01-01T00:00:00Z")
    says(world, runs, ONE)
    for alive in (False, True):
        world.put(Heartbeat(metadata=Meta(name="n1", uid="n1"), alive=alive))
        assert says(world, runs, ONE) == ()


def test_nodes_and_laptops_join_once() -> None:
    world = world_of(load(_GOLDEN / "network" / "worked-example.yaml")[0])
    network: Any = next(iter(world.all(Network.KIND)))
    before = network.model_copy(update={"status": network.status.model_copy(update={"nodes": (), "access": ()})})
    world.put(before)
    told: list[Notice] = []
    for _ in range(6):
        network = world.peek(network.key)
        found = resolve(network, world)
        told += found.notices
        carried_out(world, network, found)
    assert sorted(notice.message.partition(" with ")[0] for notice in told if notice.reason is Reason.JOINED) == [
        "laptop laptop",
        *(f"node {node.name}" for node in sorted(network.status.nodes, key=lambda node: str(node.name)) if node.ready),
    ]
    assert any(node.ready for node in network.status.nodes)
    settle(world, ("Network",))
    network = world.peek(network.key)
    world.put(Heartbeat(metadata=Meta(name=network.status.nodes[0].name, uid="n"), alive=False))
    silent = resolve(network, world)
    world.put(Heartbeat(metadata=Meta(name=network.status.nodes[0].name, uid="n"), alive=True))
    back = resolve(carried_out(world, network, silent), world)
    assert {notice.once for notice in back.notices} <= {notice.once for notice in told}


class Server:
    """Takes every write, and has the events of all who ever wrote to it."""

    def __init__(self) -> None:
        self.events: dict[str, Raw] = {}
        self.posts = 0

    async def patch(self, model: type[Any], namespace: str, name: str, body: Raw, **_: object) -> Raw:
        return body

    async def request(self, method: str, path: str, *, body: Raw, **_: object) -> Raw:
        if path.endswith("/events"):
            self.posts += 1
            if body["metadata"]["name"] in self.events:
                raise Conflict(409, "AlreadyExists", "it is there")
            self.events[body["metadata"]["name"]] = body
        return body


async def test_who_looks_again_or_comes_later_tells_nothing_again() -> None:
    """As long as the status is not written every look sees the same change."""
    world = world_of(load(_GOLDEN / "zmachine" / "placed.yaml")[0])
    machine: Any = world.peek(WEB)
    finalizers = {"finalizers": ("zos.grid.tf/controller",)}
    machine = machine.model_copy(update={"metadata": machine.metadata.model_copy(update=finalizers)})
    carried_out(world, machine, resolve(machine, world))
    world.put(machine)
    server: Any = Server()
    for posts in (1, 2):  # the second leader asks once, and remembers
        exchange = Exchange(server, world, lambda *_: None, lambda _: None, lambda *_: None)
        executor = Executor(exchange, KINDS, Ledger(exchange, lambda: 0.0), lambda _: (), lambda: 1000.0)
        for _ in range(3):
            await executor.carry_out(machine, resolve(machine, world))
            await asyncio.sleep(0.01)
        assert server.posts == posts
    assert sorted(event["reason"] for event in server.events.values()) == ["Placed"]


async def test_what_was_told_by_a_status_is_told_though_what_comes_after_it_has_to_be_tried_again() -> None:
    """A pool's status is written before its Secrets and what nodes are asked for, so the next look finds nothing new in it."""
    grid = await standing()
    tried: set[str] = set()

    def at_the_second_try(request: Request) -> tuple[int, str] | None:
        later = "/secrets" in request.path or ("/nodeworkloads/" in request.path and not request.path.endswith("/status"))
        what = repr((request.method, request.path, request.body if request.method != "POST" else ""))  # keys are drawn anew
        new = what not in tried
        tried.add(what)
        return (409, "it changed") if later and new and request.method != "GET" else None

    grid.server.refuses = at_the_second_try
    spec = {"ipRange": "10.30.0.0/16", "nodes": [{"name": "n2"}], "access": [{"name": "laptop"}]}
    grid.put(Network, {"metadata": {"name": "late"}, "spec": spec}, "default")
    await grid.settle()
    assert grid.ready(Network, "default", "late").startswith("True")
    await asyncio.sleep(0.01)
    events = {
        request.body["metadata"]["name"]: request.body["message"]
        for request in grid.server.requests
        if request.path.endswith("/events") and request.body and request.body["involvedObject"]["name"] == "late"
    }
    assert sorted(message.partition(" with ")[0] for message in events.values()) == ["laptop laptop", "node n2"]


async def test_what_a_pool_shows_is_told_though_a_share_of_another_pool_was_lost() -> None:
    world = world_of(load(_GOLDEN / "network" / "worked-example.yaml")[0])
    network: Any = next(iter(world.all(Network.KIND)))
    node: Any = next(iter(world.all(GridNode.KIND)))
    network = network.model_copy(
        update={"metadata": network.metadata.model_copy(update={"finalizers": ("zos.grid.tf/controller",)})}
    )
    world.put(network)

    class Split(Server):
        """Another has just written the node."""

        async def patch(self, model: type[Any], namespace: str, name: str, body: Raw, **_: object) -> Raw:
            if model is GridNode:
                raise Conflict(409, "Conflict", "it changed")
            return network.wire() | {"metadata": {**network.metadata.wire(), "resourceVersion": "2"}, "status": body["status"]}

        async def get(self, *_: object) -> None:
            return None

    server: Any = Split()
    exchange = Exchange(server, world, lambda *_: None, lambda _: None, lambda *_: None)
    executor = Executor(exchange, KINDS, Ledger(exchange, lambda: 0.0), lambda _: (), lambda: 1000.0)
    resolution = Resolution(
        waiting(Reason.PROGRESSING, "news"),
        status=network.status,
        holds=(Hold(node.key, NodeHold(uid=network.uid, owner="Network default/x")),),
        notices=(Notice(Reason.JOINED, "laptop x", once="x"),),
    )
    with pytest.raises(Lost):
        await executor.carry_out(network, resolution)
    await asyncio.sleep(0.01)
    assert [event["message"] for event in server.events.values()] == ["laptop x"]
