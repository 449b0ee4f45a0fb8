"""Calls that block, in a thread, without leaving one behind that nobody waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")


async def in_thread(call: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Like ``asyncio.to_thread``; a cancellation is raised only once the call is over, since it can't be interrupted."""
    return await _to_its_end(asyncio.ensure_future(asyncio.to_thread(call, *args, **kwargs)))


async def in_pool(pool: Executor, call: Callable[[], _T]) -> _T:
    """The same in one of the threads of ``pool``."""
    return await _to_its_end(asyncio.get_running_loop().run_in_executor(pool, call))


async def _to_its_end(work: asyncio.Future[_T]) -> _T:
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        if not work.cancelled():
            work.exception()  # seen: whoever cancelled does not care
        raise
