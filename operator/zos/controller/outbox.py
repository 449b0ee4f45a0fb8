"""Events on their way to the API server: each once, no more than it takes easily, and nobody waits for them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass

from zos.kube.client import ApiError, Client, Raw, Unavailable

log = logging.getLogger("zos.events")

#: Seconds for which it is remembered what was told (the API server keeps events as long), and of how many.
_REMEMBERED, _MOST_TOLD = 3600.0, 20_000
#: Events that wait; more are not told.
_MOST_WAITING = 2000
#: Events at once, and a second after that: of everybody together, and of one object, as one that crashes on and on has a new
#: one every time.
_BURST, _RATE = 100.0, 20.0
_BURST_OF_ONE, _RATE_OF_ONE = 25.0, 1 / 60
_CONFLICT = 409


@dataclass
class _Allowance:
    """What may be spent: ``left`` at ``at`` (seconds), and more as time goes by."""

    left: float
    at: float

    def grow(self, most: float, rate: float, now: float) -> None:
        self.left, self.at = min(most, self.left + rate * (now - self.at)), now


class Outbox:
    """``clock`` gives seconds."""

    def __init__(self, client: Client, clock: Callable[[], float]) -> None:
        self._client = client
        self._clock = clock
        self._waiting: deque[Raw] = deque()
        self._told: OrderedDict[str, float] = OrderedDict()  # by name: when
        self._of_one: OrderedDict[str, _Allowance] = OrderedDict()  # by uid of the object
        self._of_all = _Allowance(_BURST, clock())
        self._task: asyncio.Task[None] | None = None

    def put(self, event: Raw) -> None:
        """Tells it, unless that was done already or it is too much."""
        now, name = self._clock(), _called(event)
        told = self._told.get(name)
        if told is not None and now - told < _REMEMBERED:
            return
        if len(self._waiting) >= _MOST_WAITING or not self._may(event["involvedObject"]["uid"], now):
            log.debug("not told, too many events: %s", name)
            return
        self._told[name] = now
        self._told.move_to_end(name)
        if len(self._told) > _MOST_TOLD:
            self._told.popitem(last=False)
        self._waiting.append(event)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._empty())

    async def close(self) -> None:
        """What was not told yet is not told any more."""
        self._waiting.clear()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def _may(self, uid: str, now: float) -> bool:
        own = self._of_one.setdefault(uid, _Allowance(_BURST_OF_ONE, now))
        self._of_one.move_to_end(uid)
        if len(self._of_one) > _MOST_TOLD:
            self._of_one.popitem(last=False)
        own.grow(_BURST_OF_ONE, _RATE_OF_ONE, now)
        if own.left < 1:
            return False
        own.left -= 1
        return True

    async def _empty(self) -> None:
        while self._waiting:
            self._of_all.grow(_BURST, _RATE, self._clock())
            if self._of_all.left < 1:
                await asyncio.sleep(1 / _RATE)
                continue
            self._of_all.left -= 1
            await self._post(self._waiting.popleft())

    async def _post(self, event: Raw) -> None:
        try:
            await self._client.request("POST", f"/api/v1/namespaces/{event['metadata']['namespace']}/events", body=event)
        except (ApiError, Unavailable) as error:
            if isinstance(error, ApiError) and error.status == _CONFLICT:
                return  # told before this controller came
            self._told.pop(_called(event), None)
            log.info("event not taken: %s", error)


def _called(event: Raw) -> str:
    return f"{event['metadata']['namespace']}/{event['metadata']['name']}"
