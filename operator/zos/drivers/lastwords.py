"""Guests that have said how they ended, and may not get away: QEMU stays as long as a virtiofsd of it waits for who is behind a
mount that it shares."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable


class LastWords:
    """Calls ``late(name, uuid)`` for a guest that is there ``seconds`` after it was first given here, and given ever since."""

    def __init__(self, seconds: float, late: Callable[[str, str], None]) -> None:
        self._seconds = seconds
        self._late = late
        self._waiting: dict[tuple[str, str], asyncio.TimerHandle] = {}

    def watch(self, over: Iterable[tuple[str, str]]) -> None:
        """Guests (name and uuid) that are over, and still there."""
        now = frozenset(over)
        for guest in self._waiting.keys() - now:
            self._waiting.pop(guest).cancel()
        for guest in now - self._waiting.keys():
            self._waiting[guest] = asyncio.get_running_loop().call_later(self._seconds, self._due, guest)

    def _due(self, guest: tuple[str, str]) -> None:
        del self._waiting[guest]  # if it is given again, it gets its time again
        self._late(*guest)
