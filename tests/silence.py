"""For watchers: one that tells all the while, or of everything, is none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def silent(dirty: asyncio.Event, stir: Callable[[], object]) -> None:
    """``stir`` does something that is not the watcher's affair; ``dirty`` is not set, and stays so. (A link tells some things
    a second late, and others on the machine may do something of the same kind.)"""
    for _ in range(5):
        await asyncio.sleep(0.3)
        dirty.clear()
        await asyncio.to_thread(stir)
        await asyncio.sleep(0.3)
        if not dirty.is_set():
            return
    raise AssertionError("told all the while, and nothing happens")
