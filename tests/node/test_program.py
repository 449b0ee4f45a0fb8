"""The agent as a program, before it does anything on the node."""

from __future__ import annotations

from pathlib import Path

from zos.agent.lock import alone
from zos.agent.main import main


def test_the_second_agent_ends_with_an_error(tmp_path: Path) -> None:
    with alone(tmp_path, "first"):
        assert main(["--node", "second", "--state", str(tmp_path), "--run", str(tmp_path / "run")]) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lock"]
