"""Leader election through a Lease, as Kubernetes' own components do it (client-go ``tools/leaderelection``).

Times are judged on this process's own clock: a foreign Lease counts as expired when it was not renewed for its duration
since this process saw it change last. Two may believe they lead for a moment; what they allocate is guarded elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from zos.api.core import Lease
from zos.kube.client import ApiError, Client, Conflict, Unavailable
from zos.kube.lease import now

log = logging.getLogger("zos.election")


@dataclass(frozen=True)
class Times:
    """Seconds. A dead leader is replaced after at most ``duration`` + ``retry``."""

    duration: int = 10
    renew: float = 2.5
    give_up: float = 7.5
    retry: float = 1.5


class Election:
    """``reached`` is called with True after each answer of the API server and False after each failure."""

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

    async def win(self) -> None:
        """Returns when this process leads."""
        while True:
            try:
                if await self._try():
                    log.info("leading", extra={"identity": self._identity})
                    return
                self._reached(True)
            except Conflict:
                pass
            except (ApiError, Unavailable) as error:
                self._reached(False)
                log.warning("can't ask for leadership: %s", error)
            await asyncio.sleep(self._times.retry)

    async def keep(self) -> None:
        """Renews until leadership is lost, then returns."""
        renewed = self._clock()
        while True:
            await asyncio.sleep(self._times.renew)
            try:
                if not await self._try():
                    log.error("another leads")
                    return
                renewed = self._clock()
                self._reached(True)
            except Conflict:
                continue
            except (ApiError, Unavailable) as error:
                self._reached(False)
                if self._clock() - renewed > self._times.give_up:
                    log.error("could not renew: %s", error)
                    return

    async def release(self) -> None:
        """Lets another lead at once."""
        try:
            lease = await self._client.get(Lease, self._namespace, self._name)
            if lease and lease["spec"].get("holderIdentity") == self._identity:
                lease["spec"]["holderIdentity"] = ""
                await self._client.replace(Lease, self._namespace, self._name, lease)
        except (ApiError, Unavailable) as error:
            log.warning("could not release leadership: %s", error)

    async def _try(self) -> bool:
        lease = await self._client.get(Lease, self._namespace, self._name)
        if lease is None:
            spec = self._spec(0)
            body = {"apiVersion": Lease.API_VERSION, "kind": Lease.KIND, "metadata": {"name": self._name}, "spec": spec}
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
