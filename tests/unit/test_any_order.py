"""Whatever order a tool applies and prunes things in, it comes to the same: everything waits for what it needs, and says so.
And what it takes back of what people did by hand disturbs nothing."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml

from examples import EXAMPLES, plain
from kstatus import kstatus, served
from wholegrid import Grid, standing
from zos.api.core import Namespace
from zos.api.farm import Farm
from zos.api.gridnode import GridNode
from zos.api.meta import RESTARTED_AT
from zos.api.zmachine import ZMachine
from zos.kinds.registry import KINDS

CASE = Path(__file__).parent.parent / "golden" / "vanished.yaml"
KEPT = [kind.model for kind in KINDS.values() if kind.finalized]


def states(grid: Grid) -> dict[str, str]:
    return {f"{raw['kind']} {raw['metadata']['name']}": kstatus(served(raw)) for model in KEPT for raw in grid.server.of(model)}


@pytest.mark.parametrize("seed", range(8))
async def test_any_order_of_applying_and_of_pruning_will_do(seed: int, tmp_path: Path) -> None:
    chance = Random(seed)
    parts: list[list[dict[str, Any]]] = [[]]
    for raw in yaml.safe_load_all(CASE.read_text()):
        if raw["kind"] == Namespace.KIND:
            parts[0].append(raw)  # of these every tool knows that they come first
        elif raw["kind"] != "Heartbeat":
            parts.append([raw])
    first, *others = parts
    chance.shuffle(others)
    grid = Grid()
    for number, part in enumerate([first, *others]):
        path = tmp_path / f"{number}.yaml"
        path.write_text(yaml.safe_dump_all(part))
        grid.load(path)
        if chance.random() < 0.7:  # the controller and the nodes are at it meanwhile
            await grid.settle(chance.choice((0.0, 1.0, 10.0)))
    await grid.settle(60)
    assert len(states(grid)) == len(others) - 1, "all but the Secret"
    assert set(states(grid).values()) == {"Current"}, (seed, [part[0]["metadata"]["name"] for part in others])

    pruned = [obj for model in KEPT if model not in (GridNode, Farm) for obj in grid.of(model)]
    chance.shuffle(pruned)
    for obj in pruned:
        grid.delete(type(obj), obj.namespace, obj.name)
        if chance.random() < 0.5:
            await grid.settle(chance.choice((0.0, 1.0, 10.0)))
        left = states(grid)
        assert all(left.get(f"{one.KIND} {one.name}") in (None, "Terminating") for one in pruned[: pruned.index(obj) + 1])
    await grid.settle(60)
    assert states(grid) == {"Farm lab": "Current", "GridNode n1": "Current", "GridNode n2": "Current"}
    assert [key for agent in grid.agents.values() for key in agent.node.things] == []


@pytest.mark.parametrize("seed", range(3))
async def test_the_examples_need_neither_names_of_nodes_nor_an_order(seed: int, tmp_path: Path) -> None:
    grid = Grid()
    nodes = [raw for raw in yaml.safe_load_all(CASE.read_text()) if raw["kind"] in (Namespace.KIND, GridNode.KIND)]
    (tmp_path / "nodes.yaml").write_text(yaml.safe_dump_all(nodes))
    grid.load(tmp_path / "nodes.yaml")
    base = yaml.safe_load((EXAMPLES / "base/kustomization.yaml").read_text())["resources"]
    objects = [raw for name in base for raw in plain(f"base/{name}")]
    Random(seed).shuffle(objects)
    for raw in objects:
        model = KINDS[raw["kind"]].model
        grid.put(model, raw, "default")
        await grid.settle(1.0)
    await grid.settle(60)
    made = {f"{raw['kind']} {raw['metadata']['name']}" for raw in objects}
    assert {what: state for what, state in states(grid).items() if what in made} == dict.fromkeys(made, "Current")


async def test_a_word_to_restart_that_is_taken_back_restarts_nothing() -> None:
    """Flux takes annotations back that ``kubectl`` has put on what it applies."""
    grid = await standing()

    def started() -> int:
        (times,) = grid.agents["n1"].node.starts.values()
        return times

    for word, times in (("1", 2), ("", 2), ("2", 3)):
        if word:
            grid.annotate(ZMachine, "default", "web", **{RESTARTED_AT: word})
        else:
            path = "/apis/zos.grid.tf/v1alpha1/namespaces/default/zmachines/web"
            grid.ask("PATCH", path, {"metadata": {"annotations": {RESTARTED_AT: None}}}, "merge")
        await grid.settle(60)
        assert grid.ready(ZMachine, "default", "web").startswith("True")
        assert started() == times, word
