"""How many images are pulled at once: few, as more only make each slower; but none waits for long for a server that is slow."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

#: Pulls that have a place, and pulls in all.
_PLACES, _MOST = 2, 12
#: Seconds after which one gives its place to the next, and goes on beside it.
_LONG = 60.0


class PullPlaces:
    def __init__(self, places: int = _PLACES, most: int = _MOST, long: float = _LONG) -> None:
        self._places, self._all = asyncio.Semaphore(places), asyncio.Semaphore(most)
        self._long = long

    @contextlib.asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """Waits for its turn; first come, first served."""
        async with self._all:
            await self._places.acquire()
            has_place = True

            def leave() -> None:
                nonlocal has_place
                if has_place:
                    has_place = False
                    self._places.release()

            later = asyncio.get_running_loop().call_later(self._long, leave)
            try:
                yield
            finally:
                later.cancel()
                leave()
