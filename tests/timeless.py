"""An event loop whose time goes on only when nothing else is left to do: what takes hours takes milliseconds, and comes out the
same on every machine. What it does in threads is done at once; nothing in it waits for a process or a peer."""

from __future__ import annotations

import asyncio
import concurrent.futures
import selectors
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

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


class _Skipping(selectors.BaseSelector):
    """Where one would wait for a time, ``skip`` is told how long."""

    def __init__(self, skip: Callable[[float], None]) -> None:
        self._real = selectors.DefaultSelector()
        self._skip = skip

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = self._real.select(0)
        if not found and timeout is None:
            raise AssertionError("everybody waits, and for nothing")
        if not found and timeout is not None and timeout > 0:
            self._skip(timeout)
        return found

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._real.get_map()

    def close(self) -> None:
        self._real.close()


class Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.now = 1000.0
        super().__init__(_Skipping(self._skip))
        self.set_default_executor(_AtOnce(1))

    def time(self) -> float:
        return self.now

    def _skip(self, seconds: float) -> None:
        self.now += seconds


def run(story: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(story)


def now() -> float:
    """Seconds, in what `run` runs."""
    return asyncio.get_running_loop().time()
