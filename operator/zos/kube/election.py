"""Leader election through a Lease, as Kubernetes' own components do it (client-go ``tools/leaderelection``).

Times are judged on this process's own clock: a foreign Lease counts as expired when it was not renewed for its duration
since this process saw it change last; this process's own `leads` ends some time before others can count it as expired, whatever
became of the renewal that is on its way. What a write does that was sent just before and arrives late is guarded elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from zos.api.core import HEARTBEAT, Lease
from zos.kube.client import ApiError, Client, Conflict, Unavailable
from zos.kube.lease import now

log = logging.getLogger("zos.election")


@dataclass(frozen=True)
class Times:
    """Seconds. A dead leader is replaced after at most ``duration`` + ``retry``. ``give_up``: for how long one that can't renew
    leads, from when it asked for its last renewal. ``attempt``: within which the API server has to answer to one."""

    duration: int = 10
    renew: float = 2.5
    give_up: float = 7.5
    retry: float = 1.5
    attempt: float = 2.5


class Election:
    """``reached`` is called with True after each answer of the API server and False after each failure. ``client`` had better
    be used for nothing else: who has to wait for others' requests renews too late."""

    def __init__(
        self,
        client: Client,
        namespace: str,
        name: str,
        identity: str,
        clock: Callable[[], float],
        reached: Callable[[bool], None],
        times: Times | None = None,
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._clock = clock
        self._reached = reached
        self._times = times or Times()
        self._seen = ""
        self._seen_at = 0.0
        self._until = clock()

    @property
    def leads(self) -> bool:
        """Whether this process may write: nobody else does yet."""
        return self._clock() < self._until

    async def win(self) -> None:
        """Returns when this process leads. `keep` must be called at once."""
        while True:
            try:
                if await self._try(self._times.attempt):
                    log.info("leading", extra={"identity": self._identity})
                    return
            except Conflict:
                pass
            except (ApiError, Unavailable) as error:
                log.warning("can't ask for leadership: %s", error)
            await asyncio.sleep(self._times.retry)

    async def keep(self) -> None:
        """Renews until leadership is lost, then returns."""
        pause = self._times.renew
        while True:
            await asyncio.sleep(max(0.0, min(pause, self._left())))
            if not self.leads:
                log.error("could not renew within %.1f s", self._times.give_up)
                return
            try:
                if not await self._try(min(self._times.attempt, self._left())):
                    log.error("another leads")
                    return
                pause = self._times.renew
            except (ApiError, Unavailable) as error:
                pause = self._times.retry
                log.warning("not renewed yet: %s", error)

    def _left(self) -> float:
        return self._until - self._clock()

    async def release(self) -> None:
        """Lets another lead at once, where this process still does."""
        left, self._until = self._left(), self._clock()
        if left <= 0:
            return
        try:
            async with asyncio.timeout(min(self._times.attempt, left)):
                lease = await self._client.get(Lease, self._namespace, self._name)
                if lease and lease["spec"].get("holderIdentity") == self._identity:
                    lease["spec"]["holderIdentity"] = ""
                    await self._client.replace(Lease, self._namespace, self._name, lease)
        except (ApiError, Unavailable, TimeoutError) as error:
            log.warning("could not release leadership: %s", str(error) or type(error).__name__)

    async def _try(self, seconds: float) -> bool:
        """Whether this process leads. Raises ApiError and Unavailable."""
        asked = self._clock()
        try:
            async with asyncio.timeout(seconds):
                leads = await self._take()
        except TimeoutError:
            self._reached(False)
            raise Unavailable(f"no answer within {seconds:.1f} s") from None
        except Conflict:
            raise
        except (ApiError, Unavailable):
            self._reached(False)
            raise
        self._reached(True)
        if leads:
            self._until = asked + self._times.give_up
        return leads

    async def _take(self) -> bool:
        lease = await self._client.get(Lease, self._namespace, self._name)
        if lease is None:
            spec = self._spec(0)
            meta = {"name": self._name, "labels": {HEARTBEAT: "true"}}
            body = {"apiVersion": Lease.API_VERSION, "kind": Lease.KIND, "metadata": meta, "spec": spec}
            await self._client.create(Lease, self._namespace, body)
            return True
        spec = lease["spec"]
        holder = spec.get("holderIdentity")
        if holder and holder != self._identity:
            version = lease["metadata"]["resourceVersion"]
            if version != self._seen:
                self._seen, self._seen_at = version, self._clock()
            if self._clock() - self._seen_at <= spec.get("leaseDurationSeconds", self._times.duration):
                return False
        transitions = spec.get("leaseTransitions") or 0
        lease["metadata"]["labels"] = {**(lease["metadata"].get("labels") or {}), HEARTBEAT: "true"}
        lease["spec"] = {**spec, **self._spec(transitions + (holder != self._identity))}
        await self._client.replace(Lease, self._namespace, self._name, lease)
        return True

    def _spec(self, transitions: int) -> dict[str, Any]:
        return {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": self._times.duration,
            "renewTime": now(),
            "leaseTransitions": transitions,
        }
