"""Work with others that watch over it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

_T = TypeVar("_T")


async def beside(work: Callable[[], Awaitable[_T]], *guards: Callable[[], Awaitable[None]]) -> _T:
    """What ``work`` gives. A guard goes on until it is cancelled when the work is done; one that raises ends the work, and
    its exception is what comes of it."""
    task = asyncio.ensure_future(work())
    watching = [asyncio.ensure_future(guard()) for guard in guards]
    try:
        await asyncio.wait([task, *watching], return_when=asyncio.FIRST_COMPLETED)
        for guard in watching:
            if guard.done():
                guard.result()
        return await task
    finally:
        for each in (task, *watching):
            each.cancel()
        await asyncio.gather(task, *watching, return_exceptions=True)
