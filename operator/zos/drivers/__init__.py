"""Drivers: one per family of primitives. Each knows its subsystem and no workload type.

A driver has ``ITEMS`` (the item classes it serves) and two coroutines, see `Driver`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Protocol, runtime_checkable

from zos.plan.diff import Observed, Op
from zos.plan.facts import Fact, Known
from zos.plan.items import Item


class DriverError(Exception):
    """An expected failure of one operation; the text is for the person who reads the condition."""


class Unavailable(DriverError):
    """It can't be had for now: nothing is wrong with what was asked for, and the next try may do better."""


class Driver(Protocol):
    """``apply`` is called for several items at once, never twice at once for one key.

    It may be cancelled (what it makes is no longer wanted, or the agent stops) and leaves only what ``observe`` sees and a
    removal can handle. Work that can't be interrupted, like a call in a thread, is shielded and waited for.
    A class attribute LAST_RETRY may say after how many seconds, at most, a failed operation is tried again (300).
    """

    ITEMS: ClassVar[tuple[type[Item], ...]]
    #: True: applying may take long (a pull, a boot); it runs beside the loop and its dependents wait.
    SLOW: ClassVar[bool]

    async def observe(self, wanted: Sequence[Item]) -> Mapping[str, Observed]:
        """Everything of ours that exists, by key, wanted or not. ``wanted`` helps where looking costs."""

    async def apply(self, op: Op) -> None:
        """Carries one operation out; idempotent. Raises DriverError."""

    def watch(self, dirty: Callable[[], None]) -> None:
        """Starts calling ``dirty`` (in the event loop's thread) when the subsystem changes by itself. Nothing to watch:
        does nothing."""

    async def close(self) -> None:
        """Stops watching. Touches nothing on the node."""


class SlowDriver(Driver, Protocol):
    def progress(self, key: str) -> str:
        """What is going on with the operation on ``key`` right now (``pulling, 34 %``), for the condition. Empty: nothing
        to say. A change that people should see calls ``dirty``, at most about once a second."""


@runtime_checkable
class Remembering(Protocol):
    """A driver that keeps what it saw, and looks only where it was told of a change."""

    def distrust(self) -> None:
        """It looks again although it was told of nothing: everywhere where there is little, else at another part each time."""


@runtime_checkable
class Knowing(Protocol):
    """A driver that facts come from. ``FACTS`` are their types."""

    FACTS: ClassVar[tuple[type[Fact], ...]]

    def facts(self) -> Known:
        """From memory, as of the last ``observe`` or ``apply``; ``dirty`` is called whenever they change."""
