"""Where something fits: to the last byte, on a node that takes new things."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import pytest

from cases import world_of
from zos.api.gridnode import GridNode
from zos.api.meta import Key, Meta, Object
from zos.api.quota import Quota
from zos.api.resources import NodeHold, Resources
from zos.kinds.registry import KINDS
from zos.world import placement
from zos.world.heartbeat import Heartbeat
from zos.world.placement import Candidate
from zos.world.resolution import Hold, Verdict
from zos.world.store import World

GIB = 2**30
FREE = Resources(cpu=4, memory=8 * GIB, storage=20 * GIB)
NODE = Candidate("n", FREE, FREE, open=True)


def node(name: str, *, deleting: bool = False, unschedulable: bool = False, memory: int = 8, **status: Any) -> GridNode:
    body = {
        "metadata": {"name": name, "uid": f"uid-{name}", **({"deletionTimestamp": "2026-01-01T00:00:00Z"} if deleting else {})},
        "spec": {"unschedulable": unschedulable},
        "status": {"capacity": {"cpu": 4, "memory": f"{memory}Gi", "storage": "20Gi"}} | status,
    }
    return GridNode.model_validate(body)


def grid(*nodes: GridNode, silent: tuple[str, ...] = ()) -> World:
    beats = [Heartbeat(metadata=Meta(name=one.name, uid=one.name), alive=one.name not in silent) for one in nodes]
    return world_of([*nodes, *beats])


def best(world: World, need: Resources, **more: object) -> tuple[str | None, str]:
    return placement.best(world.reader(Key("ZMount", "default", "asks")), need, **more)  # type: ignore[arg-type]


def test_what_fits_exactly_fits_and_one_more_does_not() -> None:
    assert placement.lacks(FREE, NODE) is None
    for name, words in (("cpu", "cpu: 5 asked, 4 free of 4"), ("memory", "memory: "), ("storage", "storage: ")):
        said = placement.lacks(FREE.model_copy(update={name: getattr(FREE, name) + 1}), NODE)
        assert said is not None
        assert said.startswith(words)
        assert ";" not in said


def test_who_asks_for_nothing_lacks_nothing_even_where_less_than_nothing_is_free() -> None:
    short = replace(NODE, free=Resources.model_construct(cpu=-1, memory=-GIB, storage=5))
    assert placement.lacks(Resources(storage=5), short) is None
    assert placement.lacks(Resources(cpu=1), short) == "cpu: 1 asked, 0 free of 4"


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (node("a", deleting=True, memory=16), "a takes nothing new"),
        (node("a", unschedulable=True, memory=16), "a takes nothing new"),
        (node("a", memory=1), "a lacks memory: 2Gi asked"),
    ],
)
def test_nothing_is_placed_where_it_must_not_be(bad: GridNode, why: str) -> None:
    need = Resources(cpu=1, memory=2 * GIB)
    assert best(grid(bad, node("b")), need) == ("b", "")
    found, said = best(grid(bad), need)
    assert found is None
    assert why in said


def test_nothing_is_placed_where_nobody_answers() -> None:
    need = Resources(cpu=1)
    assert best(grid(node("a", memory=16), node("b"), silent=("a",)), need) == ("b", "")
    assert best(grid(node("a"), silent=("a",)), need) == (None, "a does not answer")
    assert best(grid(), need) == (None, "the grid has no nodes")


def overcommitted(percent: int, **status: Any) -> GridNode:
    one = node("a", **status)
    return one.model_copy(update={"spec": one.spec.model_copy(update={"cpu_overcommit_percent": percent})})


def test_virtual_cpus_are_promised_as_often_as_the_administrator_says_and_nothing_else_is() -> None:
    assert overcommitted(100).offered == node("a").offered
    twice = overcommitted(250)
    assert twice.offered == node("a").offered.model_copy(update={"cpu": 10})
    assert best(grid(twice), Resources(cpu=10)) == ("a", "")
    assert best(grid(twice), Resources(cpu=11)) == (None, "a lacks cpu: 11 asked, 10 free of 10")
    assert best(grid(twice), Resources(cpu=1, memory=9 * GIB))[1] == "a lacks memory: 9Gi asked, 8Gi free of 8Gi"


def test_less_overcommitment_takes_nothing_away_and_gives_nothing_new() -> None:
    world = grid(overcommitted(100, holds=[MINE | {"cpu": 8, "memory": 0}]))
    held = placement.keep(world.reader(PING.key), PING, "a", Resources(cpu=8))
    assert isinstance(held, Hold)
    assert best(world, Resources(cpu=1)) == (None, "a lacks cpu: 1 asked, 0 free of 4")


def test_of_many_nodes_that_do_not_fit_some_are_named_and_all_are_counted() -> None:
    nodes = [node(f"n{number:02}", unschedulable=number < 2) for number in range(20)]
    found, why = best(grid(*nodes, silent=("n02",)), Resources(cpu=5))
    assert found is None
    told = why.split("; ")
    assert told[0] == "n03 lacks cpu: 5 asked, 4 free of 4"
    assert [words.split()[0] for words in told[:-1]] == [f"n{number:02}" for number in range(3, 19)]
    assert told[-1] == "and 4 more nodes: kubectl get gridnodes shows what each has"


def test_a_preferred_node_goes_first_then_the_freest_then_the_first_by_name() -> None:
    need, world = Resources(cpu=1), grid(node("c"), node("b"), node("a", memory=4))
    assert best(world, need) == ("b", "")
    assert best(world, need, preferred=["a"]) == ("a", "")


def test_amounts_are_for_people() -> None:
    assert [placement.amount(size) for size in (0, GIB, 3 * GIB // 2, GIB + 1, 2**20 + 1)] == [
        "0",
        "1Gi",
        "1536Mi",
        "1.0Gi",
        "1.0Mi",
    ]


# -- a kind that nobody knows


class Ping(Object):
    KIND: ClassVar[str] = "Ping"
    PLURAL: ClassVar[str] = "pings"


PING = Ping(metadata=Meta(name="p", namespace="default", uid="uid-p"))
MINE = {"uid": "uid-p", "owner": "Ping default/p", "memory": "6Gi"}


def place(world: World, memory: int = 1, **asked: Any) -> str | Verdict:
    return placement.place(world.reader(PING.key), Resources(memory=memory * GIB), **asked)


def keep(world: World, memory: int, node: str = "a", **more: Any) -> Hold | Verdict:
    return placement.keep(world.reader(PING.key), PING, node, Resources(memory=memory * GIB), **more)


def holds(memory: int) -> Hold:
    entry = NodeHold(uid="uid-p", owner="Ping default/p", memory=memory * GIB)
    return Hold(GridNode.key_of("", "a"), entry)


def said(found: object) -> str:
    assert isinstance(found, Verdict)
    return f"{found.reason}: {found.message}"


def test_what_is_somewhere_stays_then_its_users_word_counts_then_what_it_needs() -> None:
    world = grid(node("a"), node("b"), node("c"), node("d", memory=16))
    assert place(world, held="a", asked="b", pinned="c") == "a"
    assert place(world, asked="b", pinned="c") == "b"
    assert place(world, pinned="c") == "c"
    assert place(world) == "d"
    assert place(world, preferred=["b"]) == "b"


def test_a_place_that_there_is_not_is_said() -> None:
    world = grid(node("a"))
    assert said(place(world, held="gone")).startswith("NodeRemoved: node gone is not in the grid any more")
    assert said(place(world, asked="gone")).startswith("DependencyNotReady: node gone does not exist: kubectl get gridnodes")
    assert said(place(world, 9)) == "InsufficientCapacity: no node fits: a lacks memory: 9Gi asked, 8Gi free of 8Gi"
    assert "no node can take a tank: a lacks" in said(place(world, 9, what="a tank"))


def test_it_holds_what_fits_beside_others() -> None:
    other = {"uid": "uid-q", "owner": "Ping default/q", "memory": "6Gi"}
    world = grid(node("a", holds=[other]))
    assert keep(world, 2) == holds(2)
    assert said(keep(world, 3)) == "InsufficientCapacity: node a lacks memory: 3Gi asked, 2Gi free of 8Gi"
    assert said(keep(world, 1, "gone")) == "DependencyNotReady: node gone does not exist any more"
    assert "has not said yet what it has" in said(keep(grid(node("a", capacity={})), 1))


def test_what_it_has_stays_and_only_more_needs_room() -> None:
    other = {"uid": "uid-q", "owner": "Ping default/q", "memory": "1Gi"}
    world = grid(node("a", holds=[MINE, other]))
    assert keep(world, 7) == holds(7)
    lack = "memory: 2Gi asked, 1Gi free of 8Gi"
    assert said(keep(world, 8)) == f"InsufficientCapacity: node a can't give it more: {lack}; it runs as it was"
    assert said(keep(world, 8, grown="lacks {lack}; ask for less")).endswith(f"node a lacks {lack}; ask for less")
    shrunk = grid(node("a", memory=2, holds=[MINE]))
    assert keep(shrunk, 6) == holds(6), "the node has become smaller"
    assert keep(grid(node("a", holds=[MINE])), 1) == holds(1)


def test_what_is_there_is_held_again_on_a_node_that_was_made_anew() -> None:
    owner = {"kind": "Ping", "namespace": "default", "name": "p", "uid": "uid-p"}
    runs = KINDS.workload.model_validate(
        {"metadata": {"name": "w", "namespace": "zos-node-a", "uid": "w"}, "spec": {"owner": owner}}
    )
    full = node("a", holds=[{"uid": "uid-q", "owner": "Ping default/q", "memory": "7Gi"}])
    world = grid(full, node("b", holds=full.status.wire()["holds"]))
    assert isinstance(keep(world, 6), Verdict)
    world.put(runs)
    assert keep(world, 6) == holds(6)
    assert isinstance(keep(world, 6, "b"), Verdict), "another node says nothing of this one"


def test_what_is_taken_over_of_quarantine_has_its_room_already() -> None:
    left = {"uid": "uid-old", "kind": "Ping", "namespace": "default", "name": "old", "running": True, "memory": "6016Mi"}
    world = grid(node("a", quarantine=[left]))
    assert keep(world, 6, adopt="uid-old") == holds(6)
    assert isinstance(keep(world, 6), Verdict)
    # Its namespace did not hold that, and may hold no more than its Quota says.
    about = {"name": "small", "uid": "uid-quota"}
    world.put(Quota.model_validate({"metadata": about, "spec": {"memory": "4Gi", "namespaces": {}}}))
    assert said(keep(world, 5, adopt="uid-old")).startswith("QuotaExceeded: memory: 0 of 4Gi used, 5Gi asked (Quota small)")
    assert keep(grid(node("a", holds=[MINE])), 6) == holds(6)


def test_a_port_and_a_key_are_held_in_the_same_way() -> None:
    entry = placement.hold(PING, "a", listen_port=52000, public_key="k").entry
    assert entry == NodeHold(uid="uid-p", owner="Ping default/p", listen_port=52000, public_key="k")
