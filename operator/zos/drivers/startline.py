"""The line in which guests wait for their start: so many boot at once that the node's processors are busy, and no more, so that
each is up soon. Above all after a reboot of the node, when all of them come at once."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping

from zos.plan.facts import DomainFact

#: Seconds after which a guest counts as one that has booted, as none may hold up others for ever: one that tells it, and
#: one of which perhaps nothing is ever heard.
_TELLING = 120.0
_SILENT = 20.0


class StartLine:
    """``limit`` is how many may boot at once. First come, first served; only starts wait here, and nothing else for them."""

    def __init__(self, limit: int, telling: float = _TELLING, silent: float = _SILENT) -> None:
        self._limit = limit
        self._telling, self._silent = telling, silent
        self._line: deque[tuple[str, asyncio.Future[None]]] = deque()
        self._booting: dict[str, float | None] = {}  # by name: when it was started, once it was
        self._timers: dict[str, asyncio.TimerHandle] = {}

    @property
    def full(self) -> bool:
        """Whether who comes now has to wait."""
        return len(self._booting) >= self._limit

    async def enter(self, name: str) -> None:
        """Returns when it is this guest's turn. `leave` or `begun` must follow."""
        self.leave(name)  # an earlier start of it
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.append((name, turn))
        self._next()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it had its turn in this moment
                self.leave(name)
            raise

    def begun(self, name: str, started_at: float, tells: bool) -> None:
        """It was started: it has its place until `seen` or time tells that it boots no more. ``tells``: whether it surely says
        when it has."""
        self._booting[name] = started_at
        longest = self._telling if tells else self._silent
        self._timers[name] = asyncio.get_running_loop().call_later(longest, self.leave, name)

    def leave(self, name: str) -> None:
        """It boots no more, if it did."""
        if name not in self._booting:
            return
        del self._booting[name]
        if (timer := self._timers.pop(name, None)) is not None:
            timer.cancel()
        self._next()

    def seen(self, facts: Mapping[str, DomainFact]) -> None:
        """What is known of guests. A look from before a start says nothing about it."""
        for name, started_at in list(self._booting.items()):
            fact = facts.get(name)
            if started_at is not None and fact is not None and fact.started_at == started_at and not _boots(fact):
                self.leave(name)

    def close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _next(self) -> None:
        while self._line and not self.full:
            name, turn = self._line.popleft()
            if not turn.done():
                self._booting[name] = None
                turn.set_result(None)


def _boots(fact: DomainFact) -> bool:
    """Of a virtual machine nothing is heard before its cloud-init is at work."""
    if not fact.running:
        return False
    silent = fact.runs is not None and not fact.runs.boot.TELLS and fact.told == ""
    return silent or not fact.booted
