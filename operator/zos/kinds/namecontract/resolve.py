"""NameContract: a name has one holder in the whole grid, first come, first served."""

from __future__ import annotations

from zos.api.contract import Claim, NameContract, NameContractStatus
from zos.api.meta import Reason
from zos.world import indexes
from zos.world.objects import Indexes
from zos.world.reader import Reader
from zos.world.resolution import ClaimWanted, Resolution, ready, waiting

INDEXES = (
    indexes.CLAIMS,
    Indexes(NameContract, {"name": lambda contract: [contract.spec.name.lower()]}),
)


def resolve(contract: NameContract, world: Reader) -> Resolution:
    if contract.deleting:
        return Resolution(verdict=waiting(Reason.DELETING, "releasing the name"))
    name = contract.spec.name.lower()
    claim = claim_name(name)
    holder = world.view(Claim, "", claim, lambda claim: claim.spec.holder)
    if holder is not None and holder.uid != contract.uid:
        whom = f"NameContract {holder.name}" if holder.namespace == contract.namespace else "another namespace"
        return _waiting(f"name {name} is held by {whom}; choose another name or wait until it is released")
    if holder is None:
        first = next(
            (
                (uid, namespace, other)
                for uid, namespace, other, leaving in world.views(
                    NameContract, lambda other: (other.uid, other.namespace, other.name, other.deleting), name=name
                )
                if not leaving
            ),
            None,
        )
        if first is not None and first[0] != contract.uid:
            return _waiting(f"name {name} goes to an older contract first; choose another name or wait")
    return Resolution(
        verdict=ready(f"holds {name}"),
        status=NameContractStatus(claim=claim),
        claims=(ClaimWanted(claim, name),),
    )


def claim_name(name: str) -> str:
    """The Claim's name for a name. Letters and digits stand for themselves, any other character is ``-`` and its two hex
    digits; a label must not begin with a dash, so such a name moves to ``name.x.`` behind a digit. Distinct names (case
    aside) give distinct claims."""
    escaped = "".join(c if c.isascii() and c.isalnum() else f"-{ord(c):02x}" for c in name.lower())
    return f"name.x.0{escaped}" if escaped.startswith("-") else f"name.{escaped}"


def _waiting(message: str) -> Resolution:
    return Resolution(verdict=waiting(Reason.CONFLICT, message), status=NameContractStatus())
