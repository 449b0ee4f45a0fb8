"""The short form of hack/torture power: the power is cut while images are unpacked, disks written, grown and copied."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from torturelib import chaos, power


@pytest.fixture
def world() -> Iterator[power.Power]:
    made = power.Power(Path(tempfile.mkdtemp(prefix="zos-power-", dir="/var/tmp")))
    yield made
    made.close()


async def test_nothing_half_is_taken_for_whole_and_nothing_safe_is_lost(world: power.Power) -> None:
    said: list[str] = []
    scenario = power.SCENARIO
    report = await chaos.torture(world, scenario, scenario.actions, seed=15, seconds=15, say=said.append)
    assert not report.violations, "\n".join(said)
    assert world.cuts > 2, "nothing was cut"
