"""How a guest ended that says nothing itself."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from zos.drivers.domainlog import powered_off

START = datetime(2026, 11, 28, 5, 0, 0, tzinfo=UTC).timestamp()
BEGIN = "2026-11-28 05:00:00.120+0000: starting up libvirt version: 9.0.0\n-machine q35\nchar device redirected\n"


def end(reason: str, minute: int = 1) -> str:
    return f"2026-11-28 05:{minute:02}:02.345+0000: shutting down, reason={reason}\n"


@pytest.mark.parametrize(
    ("log", "off"),
    [
        (BEGIN + end("shutdown"), True),
        (BEGIN + end("crashed"), False),
        (BEGIN + end("destroyed"), False),
        (BEGIN, False),
        (end("shutdown"), True),
        ("2026-11-28 04:59:58.000+0000: shutting down, reason=shutdown\n" + BEGIN, False),
        (end("shutdown") + BEGIN + end("crashed", 2), False),
        (BEGIN + "x" * 100_000 + "\n" + end("shutdown"), True),
        (BEGIN + "said: 2026-11-28 05:01:02.345+0000: shutting down, reason=shutdown\n", False),
        (BEGIN + "2026-99-99 05:01:02.345+0000: shutting down, reason=shutdown\n", False),
        ("", False),
    ],
)
def test_the_last_end_after_its_start_counts(tmp_path: Path, log: str, off: bool) -> None:
    path = tmp_path / "zos-abc.log"
    path.write_text(log)
    assert powered_off(path, START + 0.9) is off


def test_no_log_says_nothing(tmp_path: Path) -> None:
    assert not powered_off(tmp_path / "none.log", START)
