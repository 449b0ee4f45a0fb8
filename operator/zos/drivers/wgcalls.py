"""Sessions that WireGuard is told to begin at once, instead of when somebody has something to send."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping

from zos.drivers.process import ProcessError, run
from zos.drivers.wgtext import Live, call, hang_up
from zos.plan.items import WireGuard, WireGuardPeer

#: Seconds after which one that was called and has not answered counts as silent, and until it is called again.
_PATIENCE = 20.0
_AGAIN = 50.0
#: How often a new peer is called, and the pause after each call, in seconds. Later WireGuard's own repetitions do.
_CALLS = 16
_BETWEEN_CALLS = 0.25


class Silent:
    """Who was called and has never answered, by interface. Heard of when interfaces are looked at, so at each resync."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since: dict[str, dict[str, float]] = {}  # by interface and public key
        self._called: dict[str, float] = {}

    def hear(self, item: WireGuard, live: Live, called: frozenset[str]) -> None:
        """``called``: who is being called at this moment, and may answer yet."""
        before, now = self._since.get(item.name, {}), self._clock()
        self._since[item.name] = {
            peer.public_key: before.get(peer.public_key, now)
            for peer in item.peers
            if peer.endpoint is not None
            and peer.public_key not in live.met
            and (peer.public_key in before or peer.public_key not in called)
        }

    def to_call(self, item: WireGuard) -> list[WireGuardPeer]:
        """The silent ones, where it is time to call them again: what was in between may be gone, and nobody else would."""
        silent, now = self._told(item.name), self._clock()
        if not silent or now - self._called.get(item.name, -_AGAIN) < _AGAIN:
            return []
        self._called[item.name] = now
        return [peer for peer in item.peers if peer.public_key in silent]

    def told(self) -> Mapping[str, frozenset[str]]:
        return {name: silent for name in self._since if (silent := self._told(name))}

    def forget(self, name: str) -> None:
        self._since.pop(name, None)
        self._called.pop(name, None)

    def _told(self, name: str) -> frozenset[str]:
        now = self._clock()
        return frozenset(key for key, since in self._since.get(name, {}).items() if now - since >= _PATIENCE)


class Calls:
    """Those of one driver, beside everything else: whoever comes up last finds the others waiting. ``look`` gives a running
    interface, by namespace and name; ``over`` is told the name of one whose calls are over."""

    def __init__(self, look: Callable[[str, str], Awaitable[Live | None]], over: Callable[[str], None]) -> None:
        self._look = look
        self._over = over
        self._going: dict[str, tuple[asyncio.Task[None], frozenset[str]]] = {}  # by interface: to whom

    def begin(self, item: WireGuard, peers: list[WireGuardPeer]) -> None:
        if peers:
            task = asyncio.create_task(self._make(item, peers), name=f"calls of {item.name}")
            self._going[item.name] = task, frozenset(peer.public_key for peer in peers)

    def to(self, name: str) -> frozenset[str]:
        """The public keys of those that are being called."""
        task, peers = self._going.get(name, (None, frozenset()))
        return frozenset() if task is None or task.done() else peers

    async def end(self, name: str) -> frozenset[str]:
        """Ends calls that are still being made: a call makes a peer that is not there any more. Gives to whom they were."""
        peers = self.to(name)
        task, _ = self._going.pop(name, (None, None))
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        return peers

    async def close(self) -> None:
        for name in list(self._going):
            await self.end(name)

    async def _make(self, item: WireGuard, peers: list[WireGuardPeer]) -> None:
        with contextlib.suppress(ProcessError):
            for attempt in range(_CALLS):
                live = await self._look(item.netns, item.name)
                if live is None:
                    return
                if all(peer.public_key in live.met for peer in peers):
                    break
                # Not one that has called itself meanwhile, or answered: it holds for made what would be forgotten, and it is
                # where it was heard from.
                unheard = [peer for peer in peers if peer.public_key not in live.met | live.heard]
                if words := [word for peer in unheard for word in call(peer, again=attempt > 0)]:
                    await run("wg", "set", item.name, *words, netns=item.netns)
                await asyncio.sleep(_BETWEEN_CALLS)
            words = [word for peer in peers for word in hang_up(peer)]
            await run("wg", "set", item.name, *words, netns=item.netns)
        self._over(item.name)
