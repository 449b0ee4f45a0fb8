"""The controller, composed: hear → World → queue → resolve → carry out."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import REGISTRY

from zos.api.core import HEARTBEAT, Lease, Namespace, Node, Secret
from zos.api.gridnode import GridNode
from zos.api.meta import Key, Object
from zos.api.names import CONTROLLER, CONTROLLER_NAMESPACE, MEMBER
from zos.controller import metrics
from zos.controller.executor import Executor
from zos.controller.garbage import Garbage
from zos.controller.health import Health
from zos.controller.heartbeats import Heartbeats
from zos.controller.intake import Intake
from zos.controller.joining import Joining
from zos.controller.ledger import Ledger
from zos.controller.models import Models, problem
from zos.controller.resolving import Resolver
from zos.controller.resync import resyncs
from zos.controller.secretcache import SecretCache
from zos.controller.work import Work
from zos.controller.writing import Exchange
from zos.kinds.gridnode.joining import Membership
from zos.kinds.kind import Kinds
from zos.kinds.registry import KINDS
from zos.kube.client import Access, Client, Raw
from zos.kube.election import Election, Times
from zos.kube.informer import Informer
from zos.kube.queue import Queue
from zos.kube.watches import Watched
from zos.world.objects import Indexes
from zos.world.store import World

log = logging.getLogger("zos.controller")

#: Seconds in which the Lease of who leads, renewed every few, is heard back. As long as it is not, no silence is judged.
_LEASE_ECHO = 5.0


@dataclass(frozen=True)
class ControllerSettings:
    """``workers``: resolutions carried out at once; many, because most of the time they wait for writes that come together in
    one. ``resync`` in seconds. ``lease``: by which those that share it decide who leads. ``membership``: what Kubernetes Nodes
    that join by themselves are given."""

    kubeconfig: str | None
    identity: str
    workers: int = 1000
    resync: float = 300.0
    lease: str = CONTROLLER
    election: Times = field(default_factory=Times)
    membership: Membership = field(default_factory=Membership)


def watched(kinds: Kinds) -> tuple[Watched, ...]:
    """What the informer watches. Of a cluster's Secrets most are nobody's business here: that one changed is enough to be
    told."""
    return (
        *(Watched(kind.model) for kind in kinds.values()),
        Watched(Secret, metadata=True),
        Watched(Namespace, metadata=True),
        Watched(Lease, labels=HEARTBEAT),
        Watched(Node, labels=f"{MEMBER}=true", metadata=True, probe=True),  # nothing else waits for it
    )


class Controller:
    def __init__(self, access: Access, settings: ControllerSettings, kinds: Kinds = KINDS) -> None:
        self._settings = settings
        self._kinds = kinds
        self._observers: list[Callable[[str, str, int], None]] = []
        self._client = Client(access, wrote=self._wrote, may_write=lambda: self._election.leads)
        self._own_client = self._client.beside()
        self.world = World([*kinds.indexes(), Indexes(Node)], on_demand=[Secret.KIND])
        self._queue = Queue(time.monotonic, _jitter, lambda key: kinds[key.kind].rest, Garbage().collect)
        exchange = Exchange(self._client, self.world, self._absorb, self._changed, self._queue.add)
        self._joining = Joining(exchange, settings.membership, time.monotonic, _jitter)
        secrets = SecretCache(self._client, self.world, self._changed, problem)
        ledger = Ledger(exchange, time.monotonic)
        self._executor = Executor(exchange, kinds, ledger, secrets.owned, time.monotonic)
        self._heartbeats = Heartbeats(exchange, time.monotonic, lambda: self._informer.hears(Lease, _LEASE_ECHO))
        heard = watched(kinds)
        models = Models(exchange, [each.model for each in heard], kinds, lambda: self.leading)
        self._intake = Intake(exchange, models, ledger, secrets, self._heartbeats)
        self._informer = Informer(
            access, self._client, heard, self._intake.heard,
            buried=self._intake.bury, unreadable=self._intake.unreadable, rewound=self._intake.rewound,
        )  # fmt: skip
        self._election = Election(
            self._own_client, CONTROLLER_NAMESPACE, settings.lease, settings.identity, time.monotonic,
            self._heartbeats.reached, settings.election,
        )  # fmt: skip
        self.leading = False
        self._health = Health(time.monotonic)
        resolver = Resolver(self.world, kinds, self._heartbeats.node, self._queue.add)
        self._work = Work(self._queue, resolver, self._executor, secrets, self._health)

    # -- how it stands

    def unhealthy(self) -> str | None:
        """What is wrong that a restart may mend; None: nothing."""
        return self._informer.hearing.problem() or self._health.problem(listed=self.listed, waiting=len(self._queue))

    @property
    def listed(self) -> bool:
        """Whether everything was heard of once."""
        return self._informer.listed.is_set()

    @property
    def underway(self) -> int:
        """How many objects are being written."""
        return self._executor.underway

    @property
    def waiting(self) -> int:
        """How many objects wait for their time to be resolved again."""
        return self._queue.waiting

    def heard(self, model: type[Object]) -> frozenset[Key]:
        """Of which objects of a kind it was heard that they are there."""
        return self._informer.known(model)

    def observe_writes(self, observer: Callable[[str, str, int], None]) -> None:
        """``observer`` is called with (kind, verb, HTTP status) after each write."""
        self._observers.append(observer)

    # -- going on

    async def run(self, stop: asyncio.Event) -> None:
        """Until ``stop``, or until leadership is lost: then the process had better begin anew."""
        metrics.DEPTH.set_function(lambda: len(self._queue))
        census = metrics.Census(self.world, self._kinds, lambda: self.leading)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self._client.close)
            stack.push_async_callback(self._executor.close)
            stack.push_async_callback(self._own_client.close)
            REGISTRY.register(census)
            stack.callback(REGISTRY.unregister, census)
            REGISTRY.register(self._informer.hearing)
            stack.callback(REGISTRY.unregister, self._informer.hearing)
            tasks = [asyncio.create_task(self._informer.run()), asyncio.create_task(self._lead())]
            stopping = asyncio.create_task(stop.wait())
            try:
                await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (*tasks, stopping):
                    task.cancel()
                results = await asyncio.gather(*tasks, stopping, return_exceptions=True)
                if self.leading:
                    await self._election.release()
                self.leading = False
                self._health.leads(False)
                metrics.LEADING.set(0)
            for result in results:
                if isinstance(result, Exception):
                    raise result

    def resync(self) -> None:
        """Everything is resolved once more."""
        for key in self._keys():
            self._look_at(key)

    async def _lead(self) -> None:
        await self._election.win()
        self.leading = True
        self._health.leads(True)
        metrics.LEADING.set(1)
        await _first([self._election.keep(), self._decide()])
        log.error("leadership ended")

    async def _decide(self) -> None:
        # Nothing is allocated before everything that holds something was seen.
        await self._informer.listed.wait()
        log.info("everything listed", extra={"objects": self.world.counts()})
        self._heartbeats.judge()  # or every node would count as never heard of for a moment
        self.resync()
        resyncing = resyncs(self._keys, self._look_at, self._settings.resync)
        workers = (self._work.run() for _ in range(self._settings.workers))
        await _first([self._heartbeats.watch(), resyncing, self._joining.run(), *workers])

    def _keys(self) -> list[Key]:
        return [obj.key for kind in (*self._kinds, Node.KIND) for obj in self.world.all(kind)]

    def _look_at(self, key: Key) -> None:
        if key.kind in self._kinds:
            self._queue.add(key)
        if key.kind in (Node.KIND, GridNode.KIND):
            self._joining.look_at(key)

    # -- the ways back

    def _absorb(self, key: Key, raw: Raw | None, foreseen: Object | None = None) -> None:
        self._intake.absorb(key, raw, foreseen)

    def _changed(self, keys: frozenset[Key]) -> None:
        for key in keys:
            self._look_at(key)

    def _wrote(self, kind: str, verb: str, status: int) -> None:
        metrics.written(kind, verb, str(status)).inc()
        for observer in self._observers:
            observer(kind, verb, status)


def _jitter() -> float:
    return random.uniform(0.8, 1.2)


async def _first(works: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Until one of them ends; the others end with it."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                log.error("ended by itself", exc_info=result)


async def run(
    settings: ControllerSettings,
    stop: asyncio.Event,
    started: Callable[[Controller], None] = lambda _: None,
    kinds: Kinds = KINDS,
) -> None:
    access = await Access.load(settings.kubeconfig)
    controller = Controller(access, settings, kinds)
    started(controller)
    await controller.run(stop)
