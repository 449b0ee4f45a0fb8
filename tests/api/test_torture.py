"""The short form of hack/torture on simulated nodes."""

from __future__ import annotations

from pathlib import Path

from apiserver import ApiServer
from torturelib import chaos, grid


async def test_a_grid_under_edits_restarts_and_drift(controlled: ApiServer, tmp_path: Path) -> None:
    said: list[str] = []
    actions = chaos.choose(grid.SCENARIO.actions, (), short=True)
    report = await grid.over(controlled.kubeconfig, tmp_path, actions, seed=8, seconds=12, say=said.append, least=4)
    assert not report.violations, "\n".join(said)
    assert report.looks > 3, "nobody has looked"
