"""What a driver saw in each of many places, looked at again only where something may have changed, and in few at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Generic, TypeVar

T = TypeVar("T")

#: Places looked at at once: hundreds of networks must not mean hundreds of programs and sockets.
AT_ONCE = 8
#: So many places are few, and else the parts that they are doubted in.
FEW = 32
_PARTS = 10


class Turns:
    """Of many places a part at a time."""

    def __init__(self) -> None:
        self._last = ""

    def take(self, places: Iterable[str]) -> list[str]:
        """All where they are few, else the tenth of them that comes after those of the turn before."""
        known = sorted(places)
        after = [place for place in known if place > self._last]
        due = list(dict.fromkeys((after + known)[: max(FEW, -(-len(known) // _PARTS))]))
        self._last = due[-1] if due else ""
        return due


class Looks(Generic[T]):
    """``look`` gives what is in a place. Nothing is kept before ``keep``, when somebody begins to tell of changes by `stir`."""

    def __init__(self, look: Callable[[str], Awaitable[T]]) -> None:
        self._look = look
        self._keeps = False
        self._seen: dict[str, T] = {}
        self._going: set[str] = set()
        self._stirred: set[str] = set()
        self._turns = Turns()

    def keep(self) -> None:
        self._keeps = True

    def stir(self, place: str | None) -> None:
        """Something may be different there; None: anywhere."""
        if place is None:
            self._seen.clear()
            self._stirred |= self._going
        else:
            self._seen.pop(place, None)
            self._stirred |= self._going & {place}

    def doubt(self) -> None:
        """Nobody told of a change, and there may be one. Few places are looked at all, of many a tenth each time, by turns:
        what is told is known anyway, and a full look at hundreds of networks takes seconds."""
        for place in dict.fromkeys(("", *self._turns.take(self._seen))):
            self.stir(place)

    async def see(self, places: Iterable[str]) -> dict[str, T]:
        """What is in each of these places now. Raises what a look raised, once the others are over."""
        wanted = list(dict.fromkeys(places))
        self._seen = {place: self._seen[place] for place in wanted if place in self._seen}
        found = dict(self._seen)
        slots = asyncio.Semaphore(AT_ONCE)

        async def go(place: str) -> None:
            async with slots:
                self._stirred.discard(place)
                self._going.add(place)
                try:
                    found[place] = await self._look(place)
                finally:
                    self._going.discard(place)
            if self._keeps and place not in self._stirred:
                self._seen[place] = found[place]

        results = await asyncio.gather(*(go(place) for place in wanted if place not in found), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return {place: found[place] for place in wanted}
