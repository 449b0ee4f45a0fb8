"""The short form of hack/torture on a minigrid: whatever dies, no byte is lost and no guest stopped that was not asked to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness import Grid
from torturelib import chaos, truth


@pytest.fixture
def tortured(grid: Grid) -> Iterator[Grid]:
    yield grid
    grid.clean("torture")


async def test_what_dies_or_is_deleted_by_hand(tortured: Grid) -> None:
    said: list[str] = []
    actions = chaos.choose(truth.SCENARIO.actions, (), short=True)
    world = truth.Truth(tortured, machines=("m1", "m2"), nodes={"m1": "n1", "m2": "n3"})
    report = await chaos.torture(world, truth.SCENARIO, actions, seed=8, seconds=20, say=said.append, least=4)
    assert not report.violations, "\n".join(said)
    assert report.looks > 3, "nobody has looked"
