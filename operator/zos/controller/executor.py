"""Carries resolutions out: compares with what the World holds, and writes only what differs, in an order that loses nothing.

First the finalizer, then shares of pools and claims, then Secrets and other objects, then NodeWorkloads, last the status.
Whatever is written comes back into the World at once.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Protocol

from zos.api.contract import Claim, ClaimHolder, ClaimSpec
from zos.api.core import Secret
from zos.api.gridnode import GridNode
from zos.api.meta import AGENT_FINALIZER, API_VERSION, CONTROLLER_FINALIZER, GROUP, Condition, Key, Meta, Object, Reason, Status
from zos.api.nodeworkload import MachineOnNode, NodeWorkload, NodeWorkloadSpec, Owner
from zos.controller.events import Reporter
from zos.controller.ledger import Ledger, Lost, status_patch
from zos.controller.registry import KINDS, Kind
from zos.controller.secrets import contents, seal
from zos.kube.client import Client, Conflict, NotFound, Raw
from zos.kube.lease import now
from zos.plan import names
from zos.world.conditions import conditions
from zos.world.resolution import Resolution, SecretWanted, Verdict, Workload
from zos.world.store import World

log = logging.getLogger("zos.executor")

MANAGER = "zos-controller"
OWNER_UID = f"{GROUP}/owner-uid"
#: Seconds that plain progress may take before it is worth a write of its own. When more than so many objects are being written,
#: which progress would only slow down: until when not at all, and how often it is looked whether that is over.
_PATIENCE = 1.0
_BUSY, _PATIENCE_WHEN_BUSY, _LOOK_WHEN_BUSY = 32, 30.0, 3.0


class Absorb(Protocol):
    def __call__(self, key: Key, raw: Raw | None, foreseen: Object | None = None) -> None: ...


class Executor:
    """``absorb`` puts what the API server answered into the World, given with it the object that was foreseen, if one was;
    ``changed`` hands on keys to resolve again.

    What an object's own resolution brought about does not resolve it again: looking twice must give the same
    (tests/golden sees to it).
    """

    def __init__(
        self,
        client: Client,
        world: World,
        ledger: Ledger,
        absorb: Absorb,
        changed: Callable[[frozenset[Key]], None],
        again: Callable[[Key, float], None],
        clock: Callable[[], float],
    ) -> None:
        self._client = client
        self._world = world
        self._ledger = ledger
        self._absorb = absorb
        self._changed = changed
        self._again = again
        self._clock = clock
        self._reporter = Reporter(MANAGER)
        self._underway = 0  # objects being written
        self._since: dict[Key, float] = {}  # when an object was first seen to make progress
        self._applied: dict[Key, str] = {}  # digest of the other objects last applied for an object

    def carry_out(self, obj: Object, resolution: Resolution) -> Awaitable[None]:
        """The part that the next resolution must see is done before this returns; the rest is in the awaitable.

        Raises (from the awaitable) `Lost`, Conflict, ApiError and Unavailable: resolve again.
        """
        kind = KINDS[obj.KIND]
        if resolution.obsolete or (resolution.abandoned and obj.deleting):
            return self._dismiss(obj, resolution)
        if kind.internal:
            return _nothing()
        if obj.deleting:
            return self._delete(obj, kind, resolution)
        fresh = kind.finalized and CONTROLLER_FINALIZER not in obj.metadata.finalizers
        if fresh and kind.pool is not None:  # its status is guarded by the version that this changes: the rest follows it
            return self._finalizers(obj, (*obj.metadata.finalizers, CONTROLLER_FINALIZER))
        waiters = [self._ledger.hold(hold.pool, hold.entry, obj.key) for hold in resolution.holds]
        waiters += [self._ledger.release(pool, obj.uid) for pool in resolution.releases]
        # Only what this resolution saw: what comes while it is carried out may be another leader's, who saw more.
        wanted = {wish.name for wish in resolution.claims}
        surplus = [claim for claim in self._claims_of(obj) if claim.uid and claim.name not in wanted]
        claims = self._claim(obj, resolution)
        status = self._status(obj, resolution)
        if kind.pool is not None:
            waiters.append(self._ledger.status(obj.key, status))
        pending = [waiter for waiter in waiters if waiter is not None]
        return self._write(obj, kind, resolution, status, pending, claims, surplus)

    async def _write(
        self,
        obj: Object,
        kind: Kind,
        resolution: Resolution,
        status: Status,
        waiters: list[asyncio.Future[None]],
        claims: list[Claim],
        surplus: list[Claim],
    ) -> None:
        self._underway += 1
        try:
            await self._write_all(obj, kind, resolution, status, waiters, claims, surplus)
        finally:
            self._underway -= 1

    async def _write_all(
        self,
        obj: Object,
        kind: Kind,
        resolution: Resolution,
        status: Status,
        waiters: list[asyncio.Future[None]],
        claims: list[Claim],
        surplus: list[Claim],
    ) -> None:
        try:
            if kind.finalized and CONTROLLER_FINALIZER not in obj.metadata.finalizers:
                await self._finalizers(obj, (*obj.metadata.finalizers, CONTROLLER_FINALIZER))
            if waiters:
                await _all(waiters)
        except BaseException:
            for claim in claims:
                self._unclaim(claim)
            raise
        await _all([self._create_claim(claim) for claim in claims])
        if surplus:
            await self._release(obj, surplus)
        await self._objects(obj, resolution)
        for secret in resolution.secrets:
            await self._secret(obj, secret)
        await self._stray_secrets(obj, resolution)
        await self._workloads(obj, resolution.workloads)
        await self._tell(obj, resolution.verdict)
        if kind.pool is None:
            pause = self._patience(obj, resolution.verdict)
            if pause > 0:
                self._again(obj.key, pause)
            else:
                await self._write_status(obj, status)

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

    async def _dismiss(self, obj: Object, resolution: Resolution) -> None:
        """An internal object that serves nothing any more. Its holder's absence is confirmed, not only remembered."""
        if not obj.deleting:
            owner = obj.spec.owner if isinstance(obj, NodeWorkload) else obj.spec.holder if isinstance(obj, Claim) else None
            if owner is not None and await self._owner_lives(owner):
                return
            await self._client.delete(type(obj), obj.namespace, obj.name, uid=obj.uid)
            current = self._world.peek(obj.key)
            if not obj.metadata.finalizers and current is not None and current.uid == obj.uid:
                self._absorb(obj.key, None)
        if resolution.abandoned and AGENT_FINALIZER in obj.metadata.finalizers:
            log.warning("node is gone: letting %s go", obj.key)
            await self._finalizers(obj, [name for name in obj.metadata.finalizers if name != AGENT_FINALIZER])

    async def _owner_lives(self, owner: Owner | ClaimHolder) -> bool:
        if owner.kind not in KINDS:
            return False
        raw = await self._client.get(KINDS[owner.kind].model, owner.namespace, owner.name)
        return raw is not None and raw["metadata"]["uid"] == owner.uid

    async def _delete(self, obj: Object, kind: Kind, resolution: Resolution) -> None:
        if CONTROLLER_FINALIZER not in obj.metadata.finalizers:
            return
        workloads = self._owned(obj)
        if not resolution.waits_for:
            for workload in workloads:
                if not workload.deleting:
                    await self._client.delete(NodeWorkload, workload.namespace, workload.name, uid=workload.uid)
        if resolution.waits_for or workloads:
            verdict = resolution.verdict
            if workloads and not resolution.waits_for:
                where = ", ".join(sorted(_hindered(workload) for workload in workloads))
                reason = Reason.DELETION_BLOCKED if any(workload.hindrance for workload in workloads) else Reason.DELETING
                verdict = Verdict(False, reason, f"waiting for its nodes to be clean: {where}")
            elif resolution.waits_for:
                verdict = Verdict(False, Reason.DELETION_BLOCKED, f"waits for {', '.join(resolution.waits_for)}")
            await self._tell(obj, verdict)
            await self._write_status(obj, self._judged(obj, obj.status, verdict, ()))  # type: ignore[attr-defined]
            return
        await _all([w for pool in resolution.releases if (w := self._ledger.release(pool, obj.uid)) is not None])
        for claim in self._claims_of(obj):
            await self._client.delete(Claim, "", claim.name, uid=claim.uid)
            self._drop_claim(claim)
        self._applied.pop(obj.key, None)
        self._since.pop(obj.key, None)
        self._reporter.forget(obj)
        left = [name for name in obj.metadata.finalizers if name != CONTROLLER_FINALIZER]
        await self._finalizers(obj, left)

    async def _finalizers(self, obj: Object, finalizers: Iterable[str]) -> None:
        body = {"metadata": {"resourceVersion": obj.metadata.resource_version, "finalizers": list(finalizers)}}
        try:
            raw = await self._client.patch(type(obj), obj.namespace, obj.name, body, manager=MANAGER)
        except NotFound:
            return
        gone = "deletionTimestamp" in raw["metadata"] and not raw["metadata"].get("finalizers")
        self._absorb(obj.key, None if gone else raw)

    # -- claims

    def _claims_of(self, obj: Object) -> list[Claim]:
        return [claim for claim in self._world.find(Claim, "holder", obj.uid) if isinstance(claim, Claim)]

    def _claim(self, obj: Object, resolution: Resolution) -> list[Claim]:
        """Puts wanted claims that are missing into the World, so that nobody else's resolution takes the same."""
        made: list[Claim] = []
        holder = ClaimHolder(kind=obj.KIND, namespace=obj.namespace, name=obj.name, uid=obj.uid)
        for wish in resolution.claims:
            if self._world.peek(Claim.key_of("", wish.name)) is None:
                spec = ClaimSpec(holder=holder, thing=wish.thing, farm=wish.farm)
                claim = Claim(metadata=Meta(name=wish.name), spec=spec)
                self._changed(self._world.put(claim))
                made.append(claim)
        return made

    async def _release(self, obj: Object, surplus: list[Claim]) -> None:
        """Only as decided on the object as it is now: another leader may have decided since."""
        raw = await self._client.get(type(obj), obj.namespace, obj.name)
        known = self._world.peek(obj.key)
        if raw is None or known is None or raw["metadata"]["resourceVersion"] != known.metadata.resource_version:
            if raw is not None:
                self._absorb(obj.key, raw)
            raise Lost(f"{obj.key} changed meanwhile")
        for claim in surplus:
            await self._client.delete(Claim, "", claim.name, uid=claim.uid)
            self._drop_claim(claim)

    def _drop_claim(self, claim: Claim) -> None:
        current = self._world.peek(claim.key)
        if current is not None and current.uid == claim.uid:  # the thing may be somebody else's by now
            self._absorb(claim.key, None)

    def _unclaim(self, claim: Claim) -> None:
        """A claim that was not written."""
        if self._world.peek(claim.key) is claim:
            self._absorb(claim.key, None)

    async def _create_claim(self, claim: Claim) -> None:
        body = {
            "apiVersion": API_VERSION,
            "kind": Claim.KIND,
            "metadata": {"name": claim.name, "labels": {OWNER_UID: claim.spec.holder.uid}},
            "spec": claim.spec.wire(),
        }
        try:
            raw = await self._client.create(Claim, "", body)
        except BaseException as error:
            # Another leader was first, or it is not known: the cache must not claim what the API server may not have.
            self._unclaim(claim)
            if isinstance(error, Conflict):
                self._absorb(claim.key, await self._client.get(Claim, "", claim.name))
            raise
        self._absorb(claim.key, raw)

    # -- other objects

    async def _objects(self, obj: Object, resolution: Resolution) -> None:
        if not resolution.objects:
            return
        digest = hashlib.sha256(json.dumps(resolution.objects, sort_keys=True).encode()).hexdigest()
        if self._applied.get(obj.key) == digest:
            return
        for manifest in resolution.objects:
            await self._apply(manifest)
        self._applied[obj.key] = digest

    async def _apply(self, manifest: Mapping[str, Any]) -> None:
        """Server-side apply of an object of any kind."""
        version, meta = manifest["apiVersion"], manifest["metadata"]
        group = ["apis" if "/" in version else "api", version]
        place = ["namespaces", meta["namespace"]] if "namespace" in meta else []
        plural = manifest["kind"].lower() + "s"
        await self._client.request(
            "PATCH",
            "/" + "/".join([*group, *place, plural, meta["name"]]),
            params={"fieldManager": MANAGER, "force": "true"},
            body=manifest,
            headers={"Content-Type": "application/apply-patch+yaml"},
        )

    async def _secret(self, obj: Object, wanted: SecretWanted) -> None:
        present = self._world.peek(Secret.key_of(obj.namespace, wanted.name))
        assert present is None or isinstance(present, Secret)
        had = {name: present.text(name) or "" for name in present.data} if present is not None else {}
        needed = contents(wanted, had)
        if had == needed:
            return
        body = {
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
            "data": {name: base64.b64encode(value.encode()).decode() for name, value in needed.items()},
        }
        if present is None:
            raw = await self._client.create(Secret, obj.namespace, body)
        else:
            body["metadata"]["resourceVersion"] = present.metadata.resource_version  # type: ignore[index]
            raw = await self._client.replace(Secret, obj.namespace, wanted.name, body)
        self._absorb(Secret.key_of(obj.namespace, wanted.name), raw)

    async def _stray_secrets(self, obj: Object, resolution: Resolution) -> None:
        wanted = {secret.name for secret in resolution.secrets}
        for secret in self._world.find(Secret, "owner", obj.uid):
            if secret.metadata.labels.get(OWNER_UID) == obj.uid and secret.name not in wanted:
                await self._client.delete(Secret, secret.namespace, secret.name, uid=secret.uid)
                self._absorb(secret.key, None)

    # -- workloads

    def _owned(self, obj: Object) -> list[NodeWorkload]:
        return [found for found in self._world.find(NodeWorkload, "owner", obj.uid) if isinstance(found, NodeWorkload)]

    async def _workloads(self, obj: Object, wanted: tuple[Workload, ...]) -> None:
        present = {workload.namespace: workload for workload in self._owned(obj)}
        places = {names.node_namespace(workload.node): workload for workload in wanted}
        writes = [self._workload(obj, place, workload, present.get(place)) for place, workload in places.items()]
        await _all(writes)
        for place, workload in present.items():
            if place not in places and not workload.deleting:
                await self._client.delete(NodeWorkload, place, workload.name, uid=workload.uid)

    async def _workload(self, obj: Object, namespace: str, wanted: Workload, present: NodeWorkload | None) -> None:
        if present is not None and present.deleting:
            return  # its end wakes us
        spec = self._spec(obj, wanted, present)
        if present is not None and present.spec == spec:
            return
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

    def _spec(self, obj: Object, wanted: Workload, present: NodeWorkload | None) -> NodeWorkloadSpec:
        # The generation is not part of it: a change that means nothing to the node must not be written to it.
        owner = Owner(kind=obj.KIND, namespace=obj.namespace, name=obj.name, uid=obj.uid)
        part = wanted.spec
        if wanted.secrets:
            assert isinstance(part, MachineOnNode)
            node = self._world.peek(GridNode.key_of("", wanted.node))
            if not isinstance(node, GridNode) or not node.status.sealing_key:
                raise Lost(f"node {wanted.node} has published no sealing key yet")
            before = present.spec.machine.sealed_env if present is not None and present.spec.machine else ()
            part = part.model_copy(update={"sealed_env": seal(wanted.secrets, node.status.sealing_key, before)})
        return NodeWorkloadSpec.of(owner, part)

    # -- status

    def _status(self, obj: Object, resolution: Resolution) -> Status:
        status = resolution.status
        if status is None:
            found: Status = obj.status  # type: ignore[attr-defined]
            status = found
        return self._judged(obj, status, resolution.verdict, resolution.conditions)

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

    async def _tell(self, obj: Object, verdict: Verdict) -> None:
        if not hasattr(obj, "status"):
            return
        told = self._reporter.event(obj, obj.status.condition("Ready"), verdict)
        if told is not None:
            namespace = told["metadata"]["namespace"]
            try:
                await self._client.request("POST", f"/api/v1/namespaces/{namespace}/events", body=told)
            except (Conflict, NotFound) as error:
                log.info("event not taken: %s", error)


async def _nothing() -> None:
    return


async def _all(waiters: Iterable[Awaitable[None]]) -> None:
    """Waits for all of them, also when one fails."""
    results = await asyncio.gather(*waiters, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result


def _hindered(workload: NodeWorkload) -> str:
    return f"{workload.namespace} ({workload.hindrance})" if workload.hindrance else workload.namespace
