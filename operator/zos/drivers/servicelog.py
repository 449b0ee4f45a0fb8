"""The last lines of a service's log, as s6-log(8) writes it."""

from __future__ import annotations

import contextlib
from datetime import datetime
from pathlib import Path

#: Lines, characters of each, and bytes that are read for them.
_LINES = 10
_WIDTH = 300
_READ = 16 << 10
#: Seconds that a line may take from the program to the log.
_LATE = 0.2


def last_lines(directory: Path, before: float) -> tuple[str, ...]:
    """The last ones before a time (seconds since the epoch), without theirs. What can't be printed is told from what can: a
    program, and whoever it talked to, writes what it likes."""
    found: list[str] = []
    archived = sorted(directory.glob("@*"))[-1:]
    for file in (*archived, directory / "current"):
        with contextlib.suppress(FileNotFoundError):
            found += _lines(file, before)
    return tuple(found[-_LINES:])


def _lines(file: Path, before: float) -> list[str]:
    with open(file, "rb") as opened:
        size = opened.seek(0, 2)
        opened.seek(max(0, size - _READ))
        text = opened.read(_READ).decode(errors="replace")
    lines = text.split("\n")[1 if size > _READ else 0 :]
    return [_plain(said) for line in lines if line for said in (_said(line, before),) if said is not None]


def _said(line: str, before: float) -> str | None:
    """``2026-01-31 12:00:00.123456789  text``, in local time; None: later."""
    date, _, rest = line.partition(" ")
    clock, _, text = rest.partition(" ")
    try:
        at = datetime.fromisoformat(f"{date} {clock[:15]}").timestamp()
    except ValueError:
        return line
    return text.removeprefix(" ") if at <= before + _LATE else None


def _plain(text: str) -> str:
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text[:_WIDTH])
