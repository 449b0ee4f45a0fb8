"""Time that goes on only when nobody has anything left to do: a test that waits for five minutes takes none, and the order in
which things happen is always the same. What is done in threads is done at once; nothing may wait for a process or a peer."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

#: Seconds, of these, after which a test has gone wrong.
_LONG = 86_400.0
P = ParamSpec("P")
T = TypeVar("T")


class _AtOnce(concurrent.futures.ThreadPoolExecutor):
    """Whose calls are over before it answers."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[T]:
        done: concurrent.futures.Future[T] = concurrent.futures.Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except Exception as error:
            done.set_exception(error)
        return done


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
        self.set_default_executor(_AtOnce(1))

    def time(self) -> float:
        return self._virtual.now

    def took(self, seconds: float) -> None:
        self._virtual.now += seconds

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Nothing runs in it; asyncio would wait for a real thread that ends it."""


def clock() -> float:
    """What a test passes on as the clock."""
    return asyncio.get_running_loop().time()


def busy(seconds: float) -> None:
    """What a computation takes, in which nobody else has a turn."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, _Loop)
    loop.took(seconds)


def run(story: Coroutine[Any, Any, T]) -> T:
    """What a story gives that is told in such time."""

    async def bounded() -> T:
        async with asyncio.timeout(_LONG):
            return await story

    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(bounded())


def virtual(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """A test whose time is such."""

    @functools.wraps(test)
    def told(*args: P.args, **kwargs: P.kwargs) -> None:
        run(test(*args, **kwargs))

    return told
