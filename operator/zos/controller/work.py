"""One worker of many: takes a key from the queue, resolves its object, and sees to it that what follows is carried out."""

from __future__ import annotations

import logging

from zos.api.meta import Key
from zos.controller import metrics
from zos.controller.executor import Executor, Refused
from zos.controller.health import Health
from zos.controller.ledger import Lost
from zos.controller.resolving import Resolver
from zos.controller.secretcache import SecretCache
from zos.kube.client import ApiError, Unavailable
from zos.kube.log import about
from zos.kube.queue import Queue
from zos.world.objects import Unfetched

log = logging.getLogger("zos.controller")


class Work:
    def __init__(self, queue: Queue, resolver: Resolver, executor: Executor, secrets: SecretCache, health: Health) -> None:
        self._queue = queue
        self._resolver = resolver
        self._executor = executor
        self._secrets = secrets
        self._health = health

    async def run(self) -> None:
        while True:
            key = await self._queue.get()
            self._health.worked()
            await self._work(key)

    async def _work(self, key: Key) -> None:
        obj = self._resolver.current(key)
        if obj is None:
            self._queue.done(key)
            return
        try:
            # Resolving and taking what it allocates happen in one go: the next resolution sees it.
            await self._executor.carry_out(obj, self._resolver.resolve(obj))
        except Unfetched as lacking:
            await self._fetch(key, lacking.key)
        except (Lost, Refused, ApiError, Unavailable) as error:
            for_good = isinstance(error, Refused) or (isinstance(error, ApiError) and error.permanent)
            pause = self._queue.failed(key, for_good)
            metrics.resolved(key.kind, "retried").inc()
            log.info("again in %.1f s: %s", pause, error, extra=about(key, obj))
        except Exception:
            pause = self._queue.failed(key)
            metrics.resolved(key.kind, "broken").inc()
            log.exception("a bug; again in %.1f s", pause, extra=about(key, obj))
        else:
            metrics.resolved(key.kind, "done").inc()
            self._queue.done(key)

    async def _fetch(self, key: Key, needed: Key) -> None:
        """Gets what a resolution needs; then it begins anew."""
        try:
            await self._secrets.fetch(needed)
        except (ApiError, Unavailable) as error:
            pause = self._queue.failed(key)
            log.info("again in %.1f s: %s", pause, error, extra=about(key))
        else:
            self._queue.add(key)
            self._queue.done(key)
