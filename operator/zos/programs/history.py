"""What was done of a service, in the ``history.json`` of its directory: when its program was started, how it ended, and how
long another try waits for that."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

#: A program that ran for less than this many seconds has not worked; the longest wait before another try.
_SHORT = 60.0
_LONGEST = 60.0
#: Ends that are remembered.
_ENDS = 16


def pause(ends: list[Any], now: float) -> float:
    """Seconds to wait before another try: none for a program that has worked for a while, then one, two, four, up to a minute
    since it ended. (s6 itself waits until a second has passed since the last start.)"""
    row = 0
    for end in reversed(ends):
        if end["asked"] or end["ran"] >= _SHORT:
            break
        row += 1
    if row < 2 or ends[-1]["at"] > now:  # the clock was set back: nobody knows how long ago that was
        return 0.0
    return max(0.0, float(ends[-1]["at"] + min(_LONGEST, 2.0 ** (row - 2)) - now))


def so_far(told: dict[str, Any]) -> dict[str, Any]:
    """So far. It begins anew with what the service is told to be; a run of which no end is written lost its supervisor."""
    fresh = {"settings": told["settings"], "files": told["files"], "starts": 0, "started": None, "next_start": None, "ends": []}
    history = _read()
    if history is None or history["settings"] != told["settings"]:
        return fresh
    if told["files"] not in (history["files"], _reloaded()):
        return fresh
    history["files"] = told["files"]
    if history["started"] is not None:
        _add_end(history, None, signal.SIGKILL)
    return history


def _read() -> dict[str, Any] | None:
    """None: there is none, or it is not what was written here."""
    try:
        history: dict[str, Any] = json.loads(Path("history.json").read_text())
        ends = [(end["at"] + end["ran"], end["asked"]) for end in history["ends"]]
        started = history["started"] is None or history["started"]["at"] + 0.0
        whole = (history["settings"], history["files"], history["starts"] + 0, started, ends)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return history if whole else None


def _reloaded() -> int | None:
    try:
        return int(Path("reloaded").read_text())
    except (FileNotFoundError, ValueError):
        return None


def write(history: dict[str, Any]) -> None:
    """Whole or not at all, as `zos.files` would: what runs on nodes by itself knows nothing of the rest."""
    new = Path(".history.json.new")
    new.write_text(json.dumps(history))
    new.rename("history.json")


def _add_end(history: dict[str, Any], code: int | None, number: int) -> None:
    now, started, asked = time.time(), history["started"], Path("asked").exists()
    history["started"] = None
    if started is None and asked:
        return  # it was not the program yet that was ended
    ran = max(0.0, now - started["at"]) if started is not None else 0.0
    name = signal.Signals(number).name if number in list(signal.Signals) else f"signal {number}"
    end = {"at": now, "ran": ran, "code": code, "signal": "" if code is not None else name, "asked": asked}
    history["ends"] = [*history["ends"], end][-_ENDS:]


def write_down_end(code: int, number: int) -> None:
    history = _read()
    if history is not None:
        history["next_start"] = None
        _add_end(history, code if code < 256 else None, number)  # finish of s6: 256 for a signal
        write(history)
