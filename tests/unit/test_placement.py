"""Where something fits: to the last byte, on a node that takes new things."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cases import world_of
from zos.api.gridnode import GridNode, Resources
from zos.api.meta import Key, Meta
from zos.world import placement
from zos.world.heartbeat import Heartbeat
from zos.world.placement import Candidate
from zos.world.store import World

GIB = 2**30
FREE = Resources(cpu=4, memory=8 * GIB, storage=20 * GIB)
NODE = Candidate("n", FREE, FREE, open=True)


def node(name: str, *, deleting: bool = False, unschedulable: bool = False, memory: int = 8) -> GridNode:
    body = {
        "metadata": {"name": name, "uid": f"uid-{name}", **({"deletionTimestamp": "2026-01-01T00:00:00Z"} if deleting else {})},
        "spec": {"unschedulable": unschedulable},
        "status": {"capacity": {"cpu": 4, "memory": f"{memory}Gi", "storage": "20Gi"}},
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
