"""What a guest says on its serial console, heard by who waits for it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from pathlib import Path


def said(console: Path, word: bytes, patience: float = 120.0) -> float:
    """When the word appeared, by the monotonic clock."""
    return all_said([console], word, patience)


def all_said(consoles: Iterable[Path], word: bytes, patience: float) -> float:
    """When the last of them had the word. Raises TimeoutError."""
    waiting = list(consoles)
    deadline = time.monotonic() + patience
    while waiting:
        if time.monotonic() > deadline:
            raise TimeoutError(f"nothing in {waiting[0]}, and {len(waiting) - 1} others")
        with contextlib.suppress(FileNotFoundError):
            while waiting and word in waiting[0].read_bytes():
                waiting.pop(0)  # the others are looked at when this one has spoken: the last counts
        time.sleep(0.005 if len(waiting) < 2 else 0.05)
    return time.monotonic()
