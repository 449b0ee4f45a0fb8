"""Claims of objects: put into the World at once, so that nobody else's resolution takes the same, then made and released."""

from __future__ import annotations

from typing import Any

from zos.api.contract import Claim, ClaimHolder, ClaimSpec
from zos.api.meta import API_VERSION, Meta, Object
from zos.api.names import OWNER_UID
from zos.controller.ledger import Lost
from zos.controller.writing import Exchange
from zos.kube.client import Conflict
from zos.world.resolution import ClaimWanted


class Claims:
    def __init__(self, exchange: Exchange) -> None:
        self._client = exchange.client
        self._world = exchange.world
        self._absorb = exchange.absorb
        self._changed = exchange.changed
        self._before: dict[str, Claim] = {}  # what is being taken over, as it was

    def of(self, obj: Object) -> list[Claim]:
        return [*self._world.find(Claim, holder=obj.uid)]

    def surplus(self, obj: Object, wanted: tuple[ClaimWanted, ...] | None) -> list[Claim]:
        """Claims that it has and is to have no more."""
        if wanted is None:
            return []
        names = {wish.name for wish in wanted}
        return [claim for claim in self.of(obj) if claim.uid and claim.name not in names]

    def take(self, obj: Object, wanted: tuple[ClaimWanted, ...]) -> list[Claim]:
        """Puts wanted claims that are missing into the World, and takes over those of an earlier object of the name; they are
        still to be written. One that is taken over names the version that it was seen in."""
        made: list[Claim] = []
        holder = ClaimHolder(kind=obj.KIND, namespace=obj.namespace, name=obj.name, uid=obj.uid)
        for wish in wanted:
            found = self._world.peek(Claim.key_of("", wish.name))
            if found is None or (isinstance(found, Claim) and found.uid and _earlier(found.spec.holder, holder)):
                spec = ClaimSpec(holder=holder, thing=wish.thing, farm=wish.farm)
                if isinstance(found, Claim):
                    self._before[found.name] = found
                claim = Claim(metadata=found.metadata if found is not None else Meta(name=wish.name), spec=spec)
                self._changed(self._world.put(claim))
                made.append(claim)
        return made

    def untake(self, claim: Claim) -> None:
        """A claim that was not written."""
        before = self._before.pop(claim.name, None)
        if self._world.peek(claim.key) is not claim:
            return
        if before is not None:
            self._changed(self._world.put(before))
        else:
            self._absorb(claim.key, None)

    async def write(self, claim: Claim) -> None:
        """Creates it, or takes it over."""
        if claim.uid:
            await self._take_over(claim)
        else:
            await self._create(claim)

    async def _take_over(self, claim: Claim) -> None:
        body = {
            "metadata": {
                "uid": claim.uid,
                "resourceVersion": claim.metadata.resource_version,
                "labels": {OWNER_UID: claim.spec.holder.uid},
            },
            "spec": claim.spec.wire(),
        }
        try:
            raw = await self._client.patch(Claim, "", claim.name, body)
        except BaseException:
            self.untake(claim)
            raise
        self._before.pop(claim.name, None)
        self._absorb(claim.key, raw)

    async def _create(self, claim: Claim) -> None:
        body: dict[str, Any] = {
            "apiVersion": API_VERSION,
            "kind": Claim.KIND,
            "metadata": {"name": claim.name, "labels": {OWNER_UID: claim.spec.holder.uid}},
            "spec": claim.spec.wire(),
        }
        try:
            raw = await self._client.create(Claim, "", body)
        except BaseException as error:
            # Another leader was first, or it is not known: the cache must not claim what the API server may not have.
            self.untake(claim)
            if isinstance(error, Conflict):
                self._absorb(claim.key, await self._client.get(Claim, "", claim.name))
            raise
        self._absorb(claim.key, raw)

    async def release(self, obj: Object, surplus: list[Claim]) -> None:
        """Only as decided on the object as it is now: another leader may have decided since."""
        raw = await self._client.get(type(obj), obj.namespace, obj.name)
        known = self._world.peek(obj.key)
        if raw is None or known is None or raw["metadata"]["resourceVersion"] != known.metadata.resource_version:
            if raw is not None:
                self._absorb(obj.key, raw)
            raise Lost(f"{obj.key} changed meanwhile")
        await self.drop(surplus)

    async def drop(self, claims: list[Claim]) -> None:
        for claim in claims:
            await self._client.delete(Claim, "", claim.name, uid=claim.uid)
            current = self._world.peek(claim.key)
            if current is not None and current.uid == claim.uid:  # the thing may be somebody else's by now
                self._absorb(claim.key, None)


def _earlier(before: ClaimHolder, holder: ClaimHolder) -> bool:
    """Whether a claim's holder was an object of the same name, that is gone as there is another now."""
    return before.uid != holder.uid and (before.kind, before.namespace, before.name) == (
        holder.kind,
        holder.namespace,
        holder.name,
    )
