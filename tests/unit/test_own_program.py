"""Programs of ours, for users who may not go where the agent's environment is."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from zos.drivers import DriverError, ownprogram


def test_it_finds_in_its_room_what_the_agent_has() -> None:
    own = ownprogram.of("zos.programs.flist")
    assert own.argv == (os.path.realpath(sys.executable), "-B", "-P", "-s", "-m", "zos.programs.flist")
    assert dict(own.environment)["PYTHONPATH"].split(":") == [f"{{run}}/{one.name}" for one in own.shown]
    assert any((Path(one.path) / "zos/programs/flist/__main__.py").exists() for one in own.shown)
    assert any((Path(one.path) / "cramjam").exists() for one in own.shown)
    assert not any(one.writable for one in own.shown)


def test_an_interpreter_behind_a_closed_door_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o700)
    (tmp_path / "python3").touch(0o755)
    monkeypatch.setattr(ownprogram, "PYTHON", str(tmp_path / "python3"))
    with pytest.raises(DriverError, match=f"{tmp_path} is closed to them.*one that everybody may run, as /usr/bin/python3"):
        ownprogram.check()
