"""Plain blocks, wherever they come from: memory, the node's cache, or where the flist says they are stored.

However many want one at once, it is got once. Who waits for it waits no longer than `PATIENCE`, whatever servers and name
servers do. What is not what its id and key say is not handed on, and dropped from the cache.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor

from zos.programs.flist.cache import Cache
from zos.programs.flist.health import Health
from zos.programs.flist.sealing import Block, Damaged, check, unseal
from zos.programs.flist.sources import Source, Unavailable

#: Seconds until a block that did not come counts as one that can't be had; between two rounds of tries.
PATIENCE = 9.0
_PAUSE = 0.5
#: Seconds for which one that could not be had is not asked for again: a kernel whose read ahead failed asks at once for less.
_AGAIN = 1.0
#: Seconds after which one that could not be had is tried again by ourselves, so that it is known when it can be; at last.
_MEND, _MEND_LAST = 2.0, 15.0
#: Fetches at once, looks into the cache at once; plain blocks that are kept in memory.
_FLIGHTS, _LOOKS, _KEPT = 8, 2, 16


class Blocks:
    def __init__(self, sources: tuple[Source, ...], cache: Cache, health: Health) -> None:
        self._sources, self._cache, self._health = sources, cache, health
        self._fetching = ThreadPoolExecutor(_FLIGHTS, "fetch")
        self._looking = ThreadPoolExecutor(_LOOKS, "look")  # what is here does not wait for what does not come
        self._flights: dict[Block, asyncio.Task[bytes]] = {}
        self._kept: OrderedDict[Block, bytes] = OrderedDict()
        self._missed: OrderedDict[Block, tuple[float, str]] = OrderedDict()
        self._mending: asyncio.Task[None] | None = None

    async def get(self, block: Block) -> bytes:
        """Its plain bytes. Raises Unavailable."""
        if block in self._kept:
            self._kept.move_to_end(block)
            return self._kept[block]
        at, problem = self._missed.get(block, (0.0, ""))
        if problem and time.monotonic() - at < _AGAIN:
            raise Unavailable(problem)
        return await asyncio.shield(self._flights.get(block) or self._start(block))  # who is called off leaves it to the others

    def ahead(self, block: Block) -> None:
        """Somebody is going to want it soon. Nothing is got ahead of what is wanted now, nor where nothing can be had."""
        busy = len(self._flights) >= _FLIGHTS // 2 or self._health.problem
        if not busy and block not in self._kept and block not in self._flights:
            self._start(block)

    def close(self) -> None:
        if self._mending is not None:
            self._mending.cancel()
        for threads in (self._fetching, self._looking):
            threads.shutdown(wait=False, cancel_futures=True)

    def _start(self, block: Block) -> asyncio.Task[bytes]:
        flight = self._flights[block] = asyncio.create_task(self._fly(block))
        flight.add_done_callback(lambda done: self._landed(block, done))
        return flight

    def _landed(self, block: Block, flight: asyncio.Task[bytes]) -> None:
        self._flights.pop(block, None)
        if flight.cancelled() or flight.exception() is not None:
            return
        self._kept[block] = flight.result()
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)

    async def _fly(self, block: Block) -> bytes:
        try:
            return await self._once(block)
        except Unavailable as error:
            self._health.missed(str(error))
            self._missed[block] = (time.monotonic(), str(error))
            while len(self._missed) > _KEPT:
                self._missed.popitem(last=False)
            if self._mending is None or self._mending.done():
                self._mending = asyncio.create_task(self._mend(block))
            raise

    async def _once(self, block: Block) -> bytes:
        deadline = time.monotonic() + PATIENCE
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(PATIENCE):
                found = await loop.run_in_executor(self._looking, self._look, block)
                if found is not None:
                    return found
                plain, fetched = await loop.run_in_executor(self._fetching, self._fetch, block, deadline)
                self._health.had(fetched)
                return plain
        except TimeoutError:
            raise Unavailable(f"the block {block.id.hex()} did not come in {PATIENCE:.0f} s") from None

    async def _mend(self, block: Block) -> None:
        """Until it can be had, or another one could."""
        wait = _MEND
        while self._health.problem:
            await asyncio.sleep(wait)
            wait = min(_MEND_LAST, wait * 1.5)
            with contextlib.suppress(Unavailable):
                await self._once(block)
                self._health.mended()

    def _look(self, block: Block) -> bytes | None:
        """In the cache. In a thread of its own."""
        stored = self._cache.get(block.id)
        if stored is not None:
            with contextlib.suppress(Damaged):
                return unseal(block, stored)
            self._cache.drop(block.id)
        return None

    def _fetch(self, block: Block, deadline: float) -> tuple[bytes, int]:
        """Plain bytes, and how many were fetched for them. In a thread of its own."""
        stored = self._stored(block, deadline)
        try:
            plain = unseal(block, stored)
        except Damaged as error:
            raise Unavailable(f"the block {block.id.hex()} is damaged in the flist itself: {error}") from None
        self._cache.put(block.id, stored)
        return plain, len(stored)

    def _stored(self, block: Block, deadline: float) -> bytes:
        """From each source twice: what was damaged on its way, or met a server that restarts, comes whole the second time."""
        sources = [source for source in self._sources if source.has(block.id)]
        if not sources:
            raise Unavailable(f"no route of the flist has the block {block.id.hex()}")
        problem = ""
        for turn in range(2):
            for source in sources:
                if time.monotonic() > deadline - _PAUSE:
                    break
                try:
                    stored = source.get(block.id, deadline)
                    check(block, stored)
                except Unavailable as error:
                    problem = str(error)
                except Damaged as error:
                    problem = f"{source.name}: the block {block.id.hex()}: {error}"
                else:
                    return stored
            if turn == 0:
                time.sleep(_PAUSE)
        raise Unavailable(problem or f"the block {block.id.hex()} did not come in time")
