"""Claim: lives as long as its holder; an orphan is collected.

A contract that its user deletes releases its claims itself, before it goes. Where one went in any other way and its PublicIPs
or their guests are there, its addresses wait for the next contract of its name.
"""

from __future__ import annotations

from zos.api.contract import Claim, Contract
from zos.api.publicip import PublicIP
from zos.world import indexes, publicuse
from zos.world.objects import Indexes
from zos.world.reader import Reader
from zos.world.resolution import Resolution, ready

INDEXES = (
    *publicuse.INDEXES,
    indexes.CLAIMS,
    Indexes(Contract),
    indexes.CONTRACTED,
)


def resolve(claim: Claim, world: Reader) -> Resolution:
    holder = claim.spec.holder
    if world.lives(holder.kind, holder.namespace, holder.name, holder.uid) is not False:
        return Resolution(verdict=ready())
    return Resolution(verdict=ready(), obsolete=holder.kind != Contract.KIND or not _waits(claim, world))


def _waits(claim: Claim, world: Reader) -> bool:
    """Whether an address waits for the next contract of the name of the one that had it."""
    holder, address = claim.spec.holder, claim.spec.thing

    def look(contract: Contract) -> bool:
        """Whether it may still come to this address."""
        status = contract.status
        wants = status.observed_generation < 0 or len(status.reserved) < contract.spec.public_ipv4
        return not contract.deleting and (wants or address in status.reserved)

    comes_to_it = world.view(Contract, holder.namespace, holder.name, look)
    if comes_to_it is not None:
        return comes_to_it
    named = world.views(PublicIP, lambda ip: ip.uid, contract=f"{holder.namespace}/{holder.name}")
    return (
        bool(named)
        or bool(publicuse.on_nodes([address], world))
        or publicuse.left(claim.spec.farm, [address], world) is not None
    )
