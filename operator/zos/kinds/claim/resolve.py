"""Claim: lives as long as its holder; an orphan is collected."""

from __future__ import annotations

from zos.api.contract import Claim, Contract, NameContract
from zos.world.resolution import Resolution, ready
from zos.world.store import Indexes, Reader

INDEXES = (Indexes(Claim), Indexes(Contract), Indexes(NameContract))

_HOLDERS: dict[str, type[Contract] | type[NameContract]] = {
    Contract.KIND: Contract,
    NameContract.KIND: NameContract,
}


def resolve(claim: Claim, world: Reader) -> Resolution:
    holder = claim.spec.holder
    model = _HOLDERS.get(holder.kind)
    if model is None:
        return Resolution(verdict=ready())  # held by a kind that is newer than this controller
    uid = world.view(model, holder.namespace, holder.name, lambda obj: obj.uid)
    return Resolution(verdict=ready(), obsolete=uid != holder.uid)
