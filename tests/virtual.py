"""Time that goes on only when nobody has anything left to do: a test that waits for five minutes takes none, and the order in
which things happen is always the same. For what has no connections and no threads."""

from __future__ import annotations

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec

#: Seconds, of these, after which a test has gone wrong.
_LONG = 86_400.0
P = ParamSpec("P")


class _Selector(selectors.SelectSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise AssertionError("everybody waits for something that nobody will do")
        if not ready and timeout is not None and timeout > 0:
            self.now += timeout
        return ready


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now

    def took(self, seconds: float) -> None:
        self._virtual.now += seconds


def clock() -> float:
    """What a test passes on as the clock."""
    return asyncio.get_running_loop().time()


def busy(seconds: float) -> None:
    """What a computation takes, in which nobody else has a turn."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, _Loop)
    loop.took(seconds)


def virtual(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """A test whose time is such."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(_LONG):
                await test(*args, **kwargs)

        with asyncio.Runner(loop_factory=_Loop) as runner:
            runner.run(bounded())

    return run
