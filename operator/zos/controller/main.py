"""The controller, composed: hear → World → queue → resolve → carry out."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from prometheus_client import REGISTRY
from pydantic import ValidationError

from zos.api import names
from zos.api.contract import Claim
from zos.api.core import HEARTBEAT, Lease, Namespace, Secret
from zos.api.gridnode import GridNode
from zos.api.meta import Key, Meta, Object, Reason
from zos.api.names import AGENT, CONTROLLER, CONTROLLER_NAMESPACE
from zos.api.nodeworkload import NodeWorkload
from zos.controller import metrics
from zos.controller.executor import Executor, Refused
from zos.controller.garbage import Garbage
from zos.controller.health import Health
from zos.controller.ledger import Ledger, Lost
from zos.controller.liveness import Liveness
from zos.controller.secretcache import SecretCache
from zos.controller.versions import Versions
from zos.controller.writing import MANAGER, Exchange
from zos.kinds.kind import Kind, Kinds
from zos.kinds.registry import KINDS
from zos.kube.client import Access, ApiError, Client, Raw, Unavailable
from zos.kube.election import Election, Times
from zos.kube.informer import Informer
from zos.kube.lease import now
from zos.kube.queue import Queue
from zos.kube.watches import Watched
from zos.world.heartbeat import Heartbeat
from zos.world.objects import Unfetched, Unreadable
from zos.world.reader import Reader
from zos.world.resolution import Resolution, waiting
from zos.world.store import World

log = logging.getLogger("zos.controller")

#: How many deleted objects are remembered: many more than go while one request is answered.
_GRAVES = 20_000
#: Seconds in which the Lease of who leads, renewed every few, is heard back. As long as it is not, no silence is judged.
_LEASE_ECHO = 5.0
#: Parts of a resync, which come one after the other.
_PARTS = 100


@dataclass(frozen=True)
class ControllerSettings:
    """``workers``: resolutions carried out at once; many, because most of the time they wait for writes that come together in
    one. ``resync`` in seconds."""

    kubeconfig: str | None
    identity: str
    workers: int = 1000
    resync: float = 300.0
    election: Times = field(default_factory=Times)


def watched(kinds: Kinds) -> tuple[Watched, ...]:
    """What the informer watches. Of a cluster's Secrets most are nobody's business here: that one changed is enough to be
    told."""
    return (
        *(Watched(kind.model) for kind in kinds.values()),
        Watched(Secret, metadata=True),
        Watched(Namespace, metadata=True),
        Watched(Lease, labels=HEARTBEAT),
    )


class Controller:
    def __init__(self, access: Access, settings: ControllerSettings, kinds: Kinds = KINDS) -> None:
        self._settings = settings
        self._kinds = kinds
        heard = watched(kinds)
        self._models = {each.model.KIND: each.model for each in heard}
        self._observers: list[Callable[[str, str, int], None]] = []
        self._client = Client(access, wrote=self._wrote, may_write=lambda: self._election.leads)
        self._own_client = self._client.beside()
        self.world = World(kinds.indexes(), on_demand=[Secret.KIND])
        self._secrets = SecretCache(self._client, self.world, self._changed, _problem)
        self._queue = Queue(
            time.monotonic, lambda: random.uniform(0.8, 1.2), lambda key: kinds[key.kind].rest, Garbage().collect
        )
        exchange = Exchange(self._client, self.world, self._absorb, self._changed, self._queue.add)
        self._ledger = Ledger(exchange, time.monotonic)
        self._executor = Executor(exchange, kinds, self._ledger, self._secrets.owned, time.monotonic)
        self._liveness = Liveness(time.monotonic)
        self._beat = asyncio.Event()
        self._nodes: dict[str, str] = {}  # namespace → node
        self._buried: dict[str, None] = {}  # uids of what was deleted, oldest first
        self._versions = Versions()
        self._informer = Informer(
            access, self._client, heard, self._heard,
            buried=self._bury, unreadable=self._unreadable, rewound=self._rewound,
        )  # fmt: skip
        self._election = Election(
            self._own_client, CONTROLLER_NAMESPACE, CONTROLLER, settings.identity, time.monotonic, self._reached,
            settings.election,
        )  # fmt: skip
        self.leading = False
        self._health = Health(time.monotonic)

    def unhealthy(self) -> str | None:
        """What is wrong that a restart may mend; None: nothing."""
        return self._informer.hearing.problem() or self._health.problem(
            listed=self._informer.listed.is_set(), waiting=len(self._queue)
        )

    @property
    def underway(self) -> int:
        """How many objects are being written."""
        return self._executor.underway

    @property
    def waiting(self) -> int:
        """How many objects wait for their time to be resolved again."""
        return self._queue.waiting

    def observe_writes(self, observer: Callable[[str, str, int], None]) -> None:
        """``observer`` is called with (kind, verb, HTTP status) after each write."""
        self._observers.append(observer)

    def _wrote(self, kind: str, verb: str, status: int) -> None:
        metrics.written(kind, verb, str(status)).inc()
        for observer in self._observers:
            observer(kind, verb, status)

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
        self._judge_agents()  # or every node would count as never heard of for a moment
        self._resync()
        await _first([self._watch_beats(), self._resyncs(), *(self._work() for _ in range(self._settings.workers))])

    # -- hearing

    def _reached(self, answered: bool) -> None:
        self._liveness.reached(answered)

    def _heard(self, key: Key, raw: Raw | None) -> None:
        """From the watch. The end that it tells of (its uid is buried by now) may be that of an earlier object of the name,
        while the next one is being written by us, or the answer has told of it already."""
        if key.kind == Secret.KIND:
            self._secrets.heard(key, raw)
            return
        if raw is None and key.kind != Lease.KIND:
            known = self.world.peek(key)
            if known is not None and known.uid not in self._buried:
                return
        self._absorb(key, raw)

    def _absorb(self, key: Key, raw: Raw | None, foreseen: Object | None = None) -> None:
        """Takes what the API server says of an object: from the watch, or as the answer to a write of ours. One that is as
        it was ``foreseen`` concerns all but itself."""
        if key.kind == Lease.KIND:
            self._heard_lease(key, raw)
            return
        if key.kind == Secret.KIND:
            self._secrets.answered(key, raw)
            return
        if raw is None:
            if (known := self.world.peek(key)) is not None and known.uid:
                self._bury(known.uid)
            self._ledger.forget(key)
            if key.kind == GridNode.KIND:
                self._forget_node(key)
            self._changed(self.world.remove(key))
            return
        if raw["metadata"]["uid"] in self._buried:
            return  # the answer to a write of ours, or the watch, is behind the object's end
        current = self.world.peek(key)
        if not self._versions.news(raw, current):
            return  # the watch tells what our own writes told already, or of an earlier object of that name
        try:
            obj = self._models[key.kind].model_validate(raw)
        except ValidationError as error:
            self._refuse(key, raw, error)
            return
        if isinstance(obj, GridNode):
            self._nodes[names.node_namespace(obj.name)] = obj.name
            self._beat.set()
        keys = self.world.put(self._ledger.rebase(key, obj))
        self._changed(keys - {key} if foreseen is not None and _same(obj, foreseen) else keys)

    def _bury(self, uid: str) -> None:
        """What is gone must not come back through an answer that was on its way: nobody would tell of its end again."""
        self._buried[uid] = None
        if len(self._buried) > _GRAVES:
            del self._buried[next(iter(self._buried))]

    def _rewound(self) -> None:
        """The API server shows an older state: what was deleted since may live again, older versions are news, and what is not
        written yet was about something else."""
        known = [obj.key for kind in self.world.counts() for obj in self.world.all(kind)]
        self._buried.clear()
        self._versions.rewound(known)
        for key in known:
            self._ledger.forget(key)
        self._secrets.rewound()

    def _unreadable(self, key: Key, raw: Raw, error: Exception) -> None:
        """News of an object that could not be taken in, for whatever reason."""
        if key.kind not in (Lease.KIND, Secret.KIND):
            self._refuse(key, raw, error)

    def _refuse(self, key: Key, raw: Raw, error: Exception) -> None:
        """An object that the models don't understand: it says so itself, who needs it waits, and the others go on."""
        log.error("%s is not valid: %s", key, error, extra=_fields(key))
        problem = _problem(error)
        self._ledger.forget(key)
        self._changed(self.world.put_unreadable(key, _meta(key, raw), problem))
        if key.kind not in self._kinds or key.kind == Claim.KIND:
            return  # it has no conditions
        condition = {
            "type": "Ready",
            "status": "False",
            "reason": str(Reason.INVALID_SPEC),
            "message": f"not understood: {problem}",
            "observedGeneration": raw["metadata"].get("generation", 0),
            "lastTransitionTime": now()[:19] + "Z",
        }
        if self.leading and condition["message"] not in str(raw.get("status")):
            body = {"status": {"conditions": [condition]}}
            task = asyncio.create_task(
                self._client.patch(self._models[key.kind], key.namespace, key.name, body, subresource="status", manager=MANAGER)
            )
            task.add_done_callback(lambda done: done.cancelled() or done.exception())

    def _changed(self, keys: frozenset[Key]) -> None:
        for key in keys:
            if key.kind in self._kinds:
                self._queue.add(key)

    # -- heartbeats

    def _heard_lease(self, key: Key, raw: Raw | None) -> None:
        if key.name != AGENT:
            return
        if raw is None:
            return  # as silent as one that is not renewed
        self._liveness.heard(Lease.model_validate(raw))
        if self._heartbeat(key.namespace) is not True:
            self._beat.set()

    def _heartbeat(self, namespace: str) -> bool | None:
        found = self.world.peek(Heartbeat.key_of("", self._nodes.get(namespace, "")))
        return found.alive if isinstance(found, Heartbeat) else None

    def _forget_node(self, key: Key) -> None:
        self._nodes.pop(names.node_namespace(key.name), None)
        self._liveness.gone(names.node_namespace(key.name))
        self._changed(self.world.remove(Heartbeat.key_of("", key.name)))

    async def _watch_beats(self) -> None:
        """Judges when a silent agent speaks, and once a second: what is looked for is that nothing comes."""
        while True:
            self._judge_agents()
            self._beat.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._beat.wait()

    def _judge_agents(self) -> None:
        self._liveness.hears(self._informer.hears(Lease, _LEASE_ECHO))
        for namespace, alive in self._liveness.judge().items():
            node = self._nodes.get(namespace)
            if node is not None and self._heartbeat(namespace) != alive:
                log.info("agent %s", "answers" if alive else "is silent", extra={"node": node})
                self._changed(self.world.put(Heartbeat(metadata=Meta(name=node, uid=node), alive=alive)))

    # -- working

    async def _resyncs(self) -> None:
        """Everything once in each period, little by little: all at once would hold up what somebody waits for."""
        while True:
            keys = self._keys()
            for part in range(_PARTS):
                await asyncio.sleep(self._settings.resync / _PARTS)
                for key in keys[part::_PARTS]:
                    self._queue.add(key)

    def _resync(self) -> None:
        for key in self._keys():
            self._queue.add(key)

    def _keys(self) -> list[Key]:
        return [obj.key for kind in self._kinds for obj in self.world.all(kind)]

    async def _work(self) -> None:
        while True:
            key = await self._queue.get()
            self._health.worked()
            obj = self.world.peek(key)
            if obj is None:
                self.world.forget(key)
                self.world.drop_unread()
                self._queue.done(key)
                continue
            try:
                # Resolving and taking what it allocates happen in one go: the next resolution sees it.
                await self._executor.carry_out(obj, self._resolve(obj))
            except Unfetched as lacking:
                await self._fetch(key, lacking.key)
            except (Lost, Refused, ApiError, Unavailable) as error:
                for_good = isinstance(error, Refused) or (isinstance(error, ApiError) and error.permanent)
                pause = self._queue.failed(key, for_good)
                metrics.resolved(key.kind, "retried").inc()
                log.info("again in %.1f s: %s", pause, error, extra=_fields(key, obj))
            except Exception:
                pause = self._queue.failed(key)
                metrics.resolved(key.kind, "broken").inc()
                log.exception("a bug; again in %.1f s", pause, extra=_fields(key, obj))
            else:
                metrics.resolved(key.kind, "done").inc()
                self._queue.done(key)

    async def _fetch(self, key: Key, needed: Key) -> None:
        """Gets what a resolution needs; then it begins anew."""
        try:
            await self._secrets.fetch(needed)
        except (ApiError, Unavailable) as error:
            pause = self._queue.failed(key)
            log.info("again in %.1f s: %s", pause, error, extra=_fields(key))
        else:
            self._queue.add(key)
            self._queue.done(key)

    def _resolve(self, obj: Object) -> Resolution:
        started = time.perf_counter()
        try:
            reader = self.world.reader(obj.key)
            if self._kinds[obj.KIND].finalized:  # the executor goes by these: their coming and going is everyone's business
                owned = reader.views(
                    NodeWorkload, lambda workload: (workload.key, workload.hindrance, workload.deleting), owner=obj.uid
                )
                for key, *_ in owned if obj.deleting else ():
                    node = self._nodes.get(key.namespace, "")
                    reader.view(GridNode, "", node, lambda found: found.knows_words)
                    reader.view(Heartbeat, "", node, lambda beat: beat.alive)
            found = resolved(self._kinds[obj.KIND], obj, reader)
            self.world.drop_unread()
            return found
        except Unfetched:
            raise
        except Exception as error:
            log.exception("resolving failed", extra=_fields(obj.key, obj))
            metrics.resolved(obj.KIND, "broken").inc()
            if obj.deleting or not self._kinds[obj.KIND].finalized:
                raise
            # What there is stays as it is: a bug must not stop what runs.
            message = f"the controller could not resolve it ({type(error).__name__}: {error}): please report this"
            self._queue.add(obj.key, 30.0)
            return Resolution(waiting(Reason.FAILED, message))
        finally:
            metrics.duration(obj.KIND).observe(time.perf_counter() - started)


def resolved(kind: Kind, obj: Object, reader: Reader) -> Resolution:
    """What follows for an object; where something that it needs can't be read, it waits and everything stays as it is. So does
    its deletion, where something can't be read that may use it."""
    try:
        found = kind.resolve(obj, reader)
    except Unreadable as error:
        found = Resolution(waiting(Reason.DEPENDENCY_NOT_READY, str(error)), waits_for=(str(error),))
    if not obj.deleting and found.status is not None:
        return replace(found, notices=(*found.notices, *kind.happened(obj, found, reader)))
    if not obj.deleting or found.waits_for:
        return found
    unread = [key for model in kind.users for key in reader.unreadable(model, obj.namespace)]
    if not unread:
        return found
    some = ", ".join(map(str, unread[:5])) + (f" and {len(unread) - 5} more" if len(unread) > 5 else "")
    why = f"{some}, which may use it and can't be read by this controller: upgrade the controller, or mend what can't be read"
    return replace(found, verdict=waiting(Reason.DELETION_BLOCKED, f"waits for {why}"), waits_for=(why,))


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


def _meta(key: Key, raw: Raw) -> Meta:
    """What is to be known of an object that can't be read."""
    try:
        return Meta.model_validate(raw["metadata"])
    except ValidationError:
        return Meta(name=key.name, namespace=key.namespace, uid=str(raw["metadata"]["uid"]))


def _same(one: Object, other: Object) -> bool:
    """Whether two versions of an object say the same."""
    meta = one.metadata.model_copy(update={"resource_version": other.metadata.resource_version})
    return one.model_copy(update={"metadata": meta}) == other


def _problem(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:3])
    return f"{type(error).__name__}: {error}"


def _fields(key: Key, obj: Object | None = None) -> dict[str, object]:
    found: dict[str, object] = {"kind": key.kind, "namespace": key.namespace, "object": key.name}
    return found | ({"generation": obj.metadata.generation} if obj is not None else {})


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
