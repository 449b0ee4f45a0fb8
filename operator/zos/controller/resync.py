"""Everything is looked at again now and then, whatever was missed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from zos.api.meta import Key

#: Parts of a resync, which come one after the other.
_PARTS = 100


async def resyncs(keys: Callable[[], list[Key]], add: Callable[[Key], None], period: float) -> None:
    """Everything once in each period, little by little: all at once would hold up what somebody waits for."""
    while True:
        known = keys()
        for part in range(_PARTS):
            await asyncio.sleep(period / _PARTS)
            for key in known[part::_PARTS]:
                add(key)
