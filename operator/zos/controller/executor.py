"""Carries resolutions out: compares with what the World holds, and writes only what differs, in an order that loses nothing.

First the finalizer, then shares of pools and claims, then Secrets and other objects, then NodeWorkloads, last the status.
Whatever is written comes back into the World at once. A write that the API server refuses for good stops nothing that does not
depend on it, and is told by the object's own condition.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from zos.api import names
from zos.api.contract import Claim
from zos.api.core import Secret
from zos.api.gridnode import GridNode
from zos.api.meta import ABANDON, AGENT_FINALIZER, API_VERSION, CONTROLLER_FINALIZER, Condition, Key, Object, Reason, Status
from zos.api.nodeworkload import NodeWorkload, NodeWorkloadSpec, Owner, Part
from zos.api.text import is_key
from zos.controller.claims import OWNER_UID, Claims
from zos.controller.events import Reporter
from zos.controller.farewell import Farewell, HeldBack, Word, path_of_manifest
from zos.controller.ledger import Denied, Ledger, Lost, status_patch
from zos.controller.outbox import Outbox
from zos.controller.secrets import contents, seal, sealed_as
from zos.controller.writing import MANAGER, Absorb, Changed, every, finalizers
from zos.kinds.kind import Kind, Kinds, Writer
from zos.kube.client import ApiError, Client, NotFound
from zos.kube.lease import now
from zos.world.conditions import conditions
from zos.world.resolution import Resolution, SecretWanted, Verdict, Workload, waiting
from zos.world.store import World

log = logging.getLogger("zos.executor")

#: Seconds that plain progress may take before it is worth a write of its own. When more than so many objects are being written,
#: which progress would only slow down: until when not at all, and how often it is looked whether that is over.
_PATIENCE = 1.0
_BUSY, _PATIENCE_WHEN_BUSY, _LOOK_WHEN_BUSY = 32, 30.0, 3.0


class Refused(Exception):
    """The API server refuses some of an object's writes for good: nothing changes until somebody changes something."""


@dataclass(frozen=True)
class _Task:
    """One resolution on its way to the API server. ``waiters`` are the shares of pools without which nothing else may be
    written. ``claims`` are to be created; ``surplus``, ``strays`` and ``leavers`` (claims, Secrets, NodeWorkloads) are to go:
    only what the resolution saw, as what comes while it is carried out may be from another leader, who saw more."""

    obj: Object
    kind: Kind
    resolution: Resolution
    waiters: tuple[asyncio.Future[None], ...] = ()
    claims: tuple[Claim, ...] = ()
    surplus: tuple[Claim, ...] = ()
    strays: tuple[Secret, ...] = ()
    leavers: tuple[NodeWorkload, ...] = ()
    refused: list[str] = field(default_factory=list)

    async def attempt(self, what: str, write: Awaitable[None]) -> None:
        """A write that others don't depend on: what refuses it for good is noted, and they go on."""
        try:
            await write
        except ApiError as error:
            if not error.permanent:
                raise
            self.refused.append(f"{what}: the API server refuses it: {error}")


class Executor:
    """``absorb`` puts what the API server answered into the World, given with it the object that was foreseen, if one was;
    ``changed`` hands on keys to resolve again; ``secrets_of`` gives the Secrets that were made for the object with a uid.

    What an object's own resolution brought about does not resolve it again: looking twice must give the same
    (tests/golden sees to it).
    """

    def __init__(
        self,
        client: Client,
        kinds: Kinds,
        world: World,
        ledger: Ledger,
        absorb: Absorb,
        changed: Changed,
        again: Callable[[Key, float], None],
        clock: Callable[[], float],
        secrets_of: Callable[[str], tuple[Secret, ...]],
    ) -> None:
        self._client = client
        self._kinds = kinds
        self._secrets_of = secrets_of
        self._world = world
        self._ledger = ledger
        self._absorb = absorb
        self._changed = changed
        self._again = again
        self._clock = clock
        self._claims = Claims(client, world, absorb, changed)
        self._farewell = Farewell(client, kinds, world, absorb)
        self._reporter = Reporter(MANAGER)
        self._outbox = Outbox(client, clock)
        self._underway = 0  # objects being written
        self._since: dict[Key, float] = {}  # when an object was first seen to make progress
        self._applied: dict[Key, str] = {}  # digest of the other objects last applied for an object
        self._refusals: dict[Key, tuple[str, ...]] = {}  # what the API server refused of an object last time

    def carry_out(self, obj: Object, resolution: Resolution) -> Awaitable[None]:
        """The part that the next resolution must see is done before this returns; the rest is in the awaitable.

        Raises (from the awaitable) `Lost`, `Refused`, Conflict, ApiError and Unavailable: resolve again.
        """
        asked = self._as_asked(obj, resolution)
        return self._telling(obj, asked, self._begin(obj, asked))

    def _as_asked(self, obj: Object, resolution: Resolution) -> Resolution:
        """Ready is what nodes say of what they are asked for now, so nothing is before it is asked. The resolution judged what
        they were asked for before."""
        if not resolution.verdict.ready or obj.deleting:
            return resolution
        present = {workload.namespace: workload for workload in self._owned(obj)} if resolution.workloads else {}
        untold = [
            wish.node
            for wish in resolution.workloads or ()
            if wish.part is not None and not _is_asked(obj, wish, wish.part, present.get(names.node_namespace(wish.node)))
        ]
        if not untold:
            return resolution
        words = f"node {untold[0]} is" if len(untold) == 1 else f"{len(untold)} nodes are"
        return replace(resolution, verdict=waiting(Reason.PROGRESSING, f"{words} being told what changed"))

    async def close(self) -> None:
        await self._outbox.close()

    def _begin(self, obj: Object, resolution: Resolution) -> Awaitable[None]:
        kind = self._kinds[obj.KIND]
        if resolution.obsolete or resolution.let_go:
            return self._farewell.dismiss(obj, resolution)
        if kind.writer is Writer.CONTROLLER:  # nobody reads how it stands: it is only kept or dismissed
            return _nothing()
        if obj.deleting:
            return self._delete(obj, kind, resolution)
        fresh = kind.finalized and CONTROLLER_FINALIZER not in obj.metadata.finalizers
        if fresh and obj.POOL is not None:  # its status is guarded by the version that this changes: the rest follows it
            return self._finalizers(obj, (*obj.metadata.finalizers, CONTROLLER_FINALIZER))
        waiters = [self._ledger.hold(hold.pool, hold.entry, obj.key) for hold in resolution.holds]
        waiters += [self._ledger.release(pool, obj.uid) for pool in resolution.releases]
        claims: list[Claim] = []
        surplus: list[Claim] = []
        if resolution.claims is not None:
            surplus = self._surplus(obj, resolution)
            claims = self._claims.take(obj, resolution.claims)
        if obj.POOL is not None:
            waiters.append(self._ledger.status(obj.key, self._status(obj, resolution)))
        pending = tuple(waiter for waiter in waiters if waiter is not None)
        strays, leavers = self._strays(obj, resolution), self._leavers(obj, resolution)
        return self._write(_Task(obj, kind, resolution, pending, tuple(claims), tuple(surplus), strays, leavers))

    async def _write(self, task: _Task) -> None:
        self._underway += 1
        try:
            await self._write_all(task)
        finally:
            self._underway -= 1

    async def _write_all(self, task: _Task) -> None:
        obj, resolution = task.obj, task.resolution
        try:
            if task.kind.finalized and CONTROLLER_FINALIZER not in obj.metadata.finalizers:
                await self._finalizers(obj, (*obj.metadata.finalizers, CONTROLLER_FINALIZER))
            if task.waiters:
                await every(task.waiters)
        except BaseException:
            for claim in task.claims:
                self._claims.untake(claim)
            raise
        await every([self._claims.write(claim) for claim in task.claims])
        if task.surplus:
            await self._claims.release(obj, list(task.surplus))
        if resolution.objects:
            await task.attempt("its namespace and rights", self._objects(obj, resolution))
        for secret in resolution.secrets or ():
            await task.attempt(f"Secret {secret.name}", self._secret(obj, secret))
        for stray in task.strays:
            await self._client.delete(Secret, stray.namespace, stray.name, uid=stray.uid)
            self._absorb(stray.key, None)
        if resolution.recorded:
            await self._write_status(obj, self._status(obj, resolution))
        if resolution.workloads is not None:
            await self._workloads(task, resolution.workloads)
        told = self._settle_refusals(task)
        self._tell(obj, self._verdict(obj, resolution.verdict))
        for notice in resolution.notices:
            self._outbox.put(self._reporter.notice(obj, notice))
        if obj.POOL is None:
            pause = self._patience(obj, resolution.verdict)
            if pause > 0 and not task.refused:
                self._again(obj.key, pause)
            else:
                await self._write_status(obj, self._status(obj, resolution))
        elif told:
            self._again(obj.key, 0.0)  # its status was written before it was known
        if task.refused:
            raise Refused("; ".join(task.refused))

    async def _telling(self, obj: Object, resolution: Resolution, work: Awaitable[None]) -> None:
        """What is refused for good, and stopped everything else, is said by the conditions, which are written on their own."""
        try:
            await work
        except ApiError as error:
            current = self._world.peek(obj.key)
            if not error.permanent or current is None or current.uid != obj.uid or not hasattr(current, "status"):
                raise
            self._refusals[obj.key] = (str(error) if isinstance(error, Denied) else f"the API server refuses it: {error}",)
            verdict = self._verdict(obj, resolution.verdict)
            self._tell(obj, verdict)
            await self._write_status(current, self._judged(current, current.status, verdict, resolution.conditions))
            raise Refused(str(error)) from error

    def _settle_refusals(self, task: _Task) -> bool:
        """Remembers what was refused, for the condition. Whether that is news."""
        before, found = self._refusals.get(task.obj.key, ()), tuple(task.refused)
        if found:
            self._refusals[task.obj.key] = found
        else:
            self._refusals.pop(task.obj.key, None)
        return before != found

    def _verdict(self, obj: Object, verdict: Verdict) -> Verdict:
        """The resolution's, and what the API server refused."""
        refused = self._refusals.get(obj.key)
        if not refused:
            return verdict
        besides = not verdict.ready and verdict.reason is not Reason.PROGRESSING  # which it does not
        said = [verdict.message] if besides and verdict.message else []
        return Verdict(False, Reason.REFUSED, "; ".join([*refused, *said]))

    def _patience(self, obj: Object, verdict: Verdict) -> float:
        """Seconds that plain progress is kept quiet: most is over by then, which saves a write for each object."""
        if verdict.reason is not Reason.PROGRESSING:
            self._since.pop(obj.key, None)
            return 0.0
        waited = self._clock() - self._since.setdefault(obj.key, self._clock())
        if self._underway > _BUSY and waited < _PATIENCE_WHEN_BUSY:
            return _LOOK_WHEN_BUSY
        return _PATIENCE - waited

    # -- deletion

    async def _delete(self, obj: Object, kind: Kind, resolution: Resolution) -> None:
        if CONTROLLER_FINALIZER not in obj.metadata.finalizers:
            return
        workloads = self._owned(obj)
        unsaid = [workload for workload in workloads if not (workload.deleting and workload.spec.unwanted)]
        gives_up = obj.metadata.annotations.get(ABANDON) == obj.uid
        word = Word.ERASE
        if unsaid or self._claims.of(obj) or resolution.waits_for or resolution.dismantled or resolution.releases:
            word = await self._farewell.word(obj)
        if resolution.waits_for and word is not Word.NONE:
            if surplus := self._surplus(obj, resolution):  # what was still being taken: nobody will use it
                await self._claims.release(obj, surplus)
            message = f"waits for {', '.join(resolution.waits_for)}"
            await self._waits(obj, resolution, Verdict(False, Reason.DELETION_BLOCKED, message))
            return
        try:
            await every([self._farewell.part(workload, word) for workload in unsaid])
            if isinstance(obj, GridNode) and word is not Word.NONE:
                workloads += await self._farewell.leave_grid(obj, resolution.dismantled)
        except HeldBack as why:
            await self._waits(obj, resolution, Verdict(False, Reason.DELETION_BLOCKED, f"waits: {why}"))
            return
        opaque = [str(key) for key, _ in self._world.opaque(NodeWorkload.KIND, obj.uid)]
        if opaque:
            message = f"{', '.join(opaque)} can't be read by this controller: upgrade it"
            await self._waits(obj, resolution, Verdict(False, Reason.DELETION_BLOCKED, message))
            return
        if workloads and not (gives_up and not isinstance(obj, GridNode)):
            await self._waits(obj, resolution, self._farewell.waiting(obj, workloads))
            return
        if word is not Word.NONE:  # else its shares stay until it is known that nothing of it is left on its node
            await every([w for pool in resolution.releases if (w := self._ledger.release(pool, obj.uid)) is not None])
            await self._claims.drop(self._claims.of(obj))
        for memory in (self._applied, self._since, self._refusals):
            memory.pop(obj.key, None)
        self._reporter.forget(obj)
        await self._finalizers(obj, [name for name in obj.metadata.finalizers if name != CONTROLLER_FINALIZER])

    async def _waits(self, obj: Object, resolution: Resolution, verdict: Verdict) -> None:
        """Says so, over what others have written by now of a status that is not this object's alone."""
        self._tell(obj, verdict)
        current: Any = self._world.peek(obj.key)
        if current is None or current.uid != obj.uid:
            return
        status = current.status
        if resolution.status is not None:
            others = {*status.AGENTS, *((obj.POOL,) if obj.POOL is not None else ())}
            status = resolution.status.model_copy(update={name: getattr(status, name) for name in others})
        await self._write_status(obj, self._judged(obj, status, verdict, ()))

    async def _finalizers(self, obj: Object, wanted: tuple[str, ...] | list[str]) -> None:
        await finalizers(self._client, self._absorb, obj, wanted)

    def _surplus(self, obj: Object, resolution: Resolution) -> list[Claim]:
        """Claims that it has and is to have no more."""
        if resolution.claims is None:
            return []
        wanted = {wish.name for wish in resolution.claims}
        return [claim for claim in self._claims.of(obj) if claim.uid and claim.name not in wanted]

    # -- other objects

    async def _objects(self, obj: Object, resolution: Resolution) -> None:
        digest = hashlib.sha256(json.dumps([resolution.objects, resolution.basis], sort_keys=True).encode()).hexdigest()
        if self._applied.get(obj.key) == digest:
            return
        for manifest in resolution.objects:
            await self._apply(manifest)
        self._applied[obj.key] = digest

    async def _apply(self, manifest: Mapping[str, Any]) -> None:
        """Server-side apply of an object of any kind."""
        await self._client.request(
            "PATCH",
            path_of_manifest(manifest),
            params={"fieldManager": MANAGER, "force": "true"},
            body=manifest,
            headers={"Content-Type": "application/apply-patch+yaml"},
        )

    async def _secret(self, obj: Object, wanted: SecretWanted) -> None:
        if wanted.values is None:
            return
        key = Secret.key_of(obj.namespace, wanted.name)
        if self._world.unfetched(key):
            raise Lost(f"Secret {wanted.name} changed meanwhile")
        present = self._world.peek(key)
        assert present is None or isinstance(present, Secret)
        private = present.text("privateKey") if present is not None else None
        if wanted.key_pair and present is not None and "privateKey" in present.data and not is_key(private):
            raise Lost(f"Secret {wanted.name} was changed meanwhile")  # its network says so and leaves it alone
        needed = {name: base64.b64encode(value.encode()).decode() for name, value in contents(wanted, private).items()}
        if present is not None and present.data == needed:
            return
        body: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": wanted.name,
                "namespace": obj.namespace,
                "labels": {OWNER_UID: obj.uid},
                "ownerReferences": [
                    {"apiVersion": obj.API_VERSION, "kind": obj.KIND, "name": obj.name, "uid": obj.uid, "controller": True}
                ],
            },
            "data": needed,
        }
        if present is None:
            raw = await self._client.create(Secret, obj.namespace, body)
        else:
            body["metadata"]["resourceVersion"] = present.metadata.resource_version
            raw = await self._client.replace(Secret, obj.namespace, wanted.name, body)
        self._absorb(key, raw)

    def _strays(self, obj: Object, resolution: Resolution) -> tuple[Secret, ...]:
        if resolution.secrets is None:
            return ()
        wanted = {secret.name for secret in resolution.secrets}
        return tuple(secret for secret in self._secrets_of(obj.uid) if secret.name not in wanted)

    # -- workloads

    def _owned(self, obj: Object) -> list[NodeWorkload]:
        return [*self._world.find(NodeWorkload, owner=obj.uid)]

    def _leavers(self, obj: Object, resolution: Resolution) -> tuple[NodeWorkload, ...]:
        if resolution.workloads is None:
            return ()
        places = {names.node_namespace(workload.node) for workload in resolution.workloads}
        return tuple(workload for workload in self._owned(obj) if workload.namespace not in places)

    async def _workloads(self, task: _Task, wanted: tuple[Workload, ...]) -> None:
        obj = task.obj
        present = {workload.namespace: workload for workload in self._owned(obj)}
        places = {names.node_namespace(workload.node): workload for workload in wanted}
        opaque = {key.namespace for key, _ in self._world.opaque(NodeWorkload.KIND, obj.uid)}
        for place in opaque & places.keys():
            task.refused.append(f"its NodeWorkload in {place} can't be read by this controller and stays as it is: upgrade it")
        await every(
            [
                task.attempt(f"node {wish.node}", self._workload(obj, place, wish.part, wish, present.get(place)))
                for place, wish in places.items()
                if wish.part is not None and place not in opaque
            ]
        )
        for leaver in task.leavers:
            workload = present.get(leaver.namespace)
            if workload is None or workload.uid != leaver.uid or workload.metadata.generation != leaver.metadata.generation:
                continue  # gone, or somebody has asked something of it since
            if not (workload.deleting and workload.spec.unwanted):
                await self._farewell.part(workload, Word.RETAIN)  # what was never used goes; the node knows

    async def _workload(self, obj: Object, namespace: str, part: Part, wanted: Workload, present: NodeWorkload | None) -> None:
        if present is not None and present.deleting:
            return  # its end wakes us
        if present is not None and _is_asked(obj, wanted, part, present):
            return
        spec = self._spec(obj, part, wanted, present)
        name = names.readable(f"{obj.KIND}-{obj.namespace}-{obj.name}", obj.uid)
        body = {
            "apiVersion": API_VERSION,
            "kind": NodeWorkload.KIND,
            "metadata": {
                "name": name,
                "namespace": namespace,
                "labels": {OWNER_UID: obj.uid},
                "finalizers": [AGENT_FINALIZER],
            },
            "spec": spec.wire(),
        }
        raw = await self._client.patch(NodeWorkload, namespace, name, body, type="apply", manager=MANAGER)
        self._absorb(NodeWorkload.key_of(namespace, name), raw)

    def _spec(self, obj: Object, part: Part, wanted: Workload, present: NodeWorkload | None) -> NodeWorkloadSpec:
        # The generation is not part of it: a change that means nothing to the node must not be written to it.
        owner = Owner(kind=obj.KIND, namespace=obj.namespace, name=obj.name, uid=obj.uid)
        before = present.spec.secrets if present is not None else ()
        secrets = before if wanted.secrets is None else seal(wanted.secrets, wanted.sealing_key, before)
        return self._kinds.workload.asking(owner, part, secrets, older=wanted.older)

    # -- status

    def _status(self, obj: Object, resolution: Resolution) -> Status:
        status = resolution.status
        if status is None:
            found: Status = obj.status  # type: ignore[attr-defined]
            status = found
        return self._judged(obj, status, self._verdict(obj, resolution.verdict), resolution.conditions)

    def _judged(self, obj: Object, status: Status, verdict: Verdict, further: tuple[Condition, ...]) -> Status:
        before: Status = obj.status  # type: ignore[attr-defined]
        generation = obj.metadata.generation
        made = conditions(verdict, further, before.conditions, generation, now()[:19] + "Z")
        return status.model_copy(update={"conditions": made, "observed_generation": generation})

    async def _write_status(self, obj: Object, status: Status) -> None:
        current = self._world.peek(obj.key)
        if current is None or current.uid != obj.uid or not hasattr(current, "status") or current.status == status:
            return
        patch = status_patch(current.status, status)
        if not patch:
            return
        try:
            raw = await self._client.patch(
                type(obj), obj.namespace, obj.name, {"status": patch}, subresource="status", manager=MANAGER
            )
        except NotFound:
            return
        self._absorb(obj.key, raw, current.model_copy(update={"status": status}))

    def _tell(self, obj: Object, verdict: Verdict) -> None:
        if not hasattr(obj, "status"):
            return
        event = self._reporter.event(obj, obj.status.condition("Ready"), verdict, self._clock())
        if event is not None:
            self._outbox.put(event)
        elif pause := self._reporter.due(obj, self._clock()):
            self._again(obj.key, pause)


def _is_asked(obj: Object, wish: Workload, part: Part, present: NodeWorkload | None) -> bool:
    """Whether a node is asked for exactly this, and for nobody else. Sealing is randomised: what counts is what was sealed."""
    if present is None or present.deleting or present.spec.erase is not None or present.spec.retain:
        return False
    owner, spec = present.spec.owner, present.spec
    if (owner.kind, owner.namespace, owner.name, owner.uid) != (obj.KIND, obj.namespace, obj.name, obj.uid):
        return False
    if wish.secrets is not None and not sealed_as(wish.secrets, wish.sealing_key, spec.secrets):
        return False
    return spec.part == part and spec.older == wish.older


async def _nothing() -> None:
    return
