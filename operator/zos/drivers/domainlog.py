"""How a guest ended that says nothing itself, by libvirt's own log of it (``/var/log/libvirt/qemu/NAME.log``)."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime
from pathlib import Path

#: Bytes at the end of the log that are looked at.
_TAIL = 64 << 10
_END = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)\.\d+\+0000: shutting down, reason=(\w+)$", re.MULTILINE)
#: Seconds by which the log's clock, which has no parts of a second, may be behind.
_ROUNDED = 1.0


def powered_off(log: Path, since: float) -> bool:
    """Whether the last end that was seen after ``since`` (seconds since the epoch) was that the guest switched itself off.
    False also where nobody knows."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return False
    ends = _END.findall(text)
    return bool(ends) and ends[-1][1] == "shutdown" and _seconds(ends[-1][0]) >= since - _ROUNDED


def _seconds(at: str) -> float:
    try:
        return datetime.fromisoformat(at).replace(tzinfo=UTC).timestamp()
    except ValueError:  # what QEMU says is in the log as well
        return 0.0
