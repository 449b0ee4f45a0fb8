"""Calls that block, in a thread, without leaving one behind that nobody waits for."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")

_FAREWELL = 3.0


async def in_thread(call: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Like ``asyncio.to_thread``; a cancellation is raised only once the call is over, since it can't be interrupted."""
    return await _to_its_end(asyncio.ensure_future(asyncio.to_thread(call, *args, **kwargs)))


async def in_pool(pool: Executor, call: Callable[[], _T]) -> _T:
    """The same in one of the threads of ``pool``."""
    return await _to_its_end(asyncio.get_running_loop().run_in_executor(pool, call))


async def _to_its_end(work: asyncio.Future[_T], seconds: float | None = None) -> _T:
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work], timeout=seconds)
        if work.done() and not work.cancelled():
            work.exception()  # seen: whoever cancelled does not care
        raise


async def in_own_thread(call: Callable[[], _T], name: str) -> _T:
    """The same in a thread of its own, for calls that may hang: they hold up no others. One that does not end within seconds of
    a cancellation is left behind, and does not keep the process from ending."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[_T] = loop.create_future()

    def settle(give: Callable[[], None]) -> None:
        if not done.done():
            give()

    def work() -> None:
        try:
            result = call()
        except Exception as error:
            give = functools.partial(done.set_exception, error)
        else:
            give = functools.partial(done.set_result, result)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, give)

    threading.Thread(target=work, name=name, daemon=True).start()
    return await _to_its_end(done, _FAREWELL)
