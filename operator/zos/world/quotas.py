"""How much a namespace holds, and whether it may hold more.

What counts is what pools record: holds of nodes, addresses of contracts. The World shows a share as soon as it is taken, and
resolutions come one after the other, so two that are asked for at once can't both be let in where only one fits.
"""

from __future__ import annotations

from functools import reduce

from zos.api.contract import Contract
from zos.api.core import Namespace
from zos.api.gridnode import GridNode
from zos.api.meta import Reason
from zos.api.quota import Amounts, Quota, QuotaSpec
from zos.api.zmachine import ZMachine
from zos.world.objects import Indexes
from zos.world.reader import Look, Reader
from zos.world.resolution import Verdict, waiting

#: What is held in a namespace, of one node or by one contract.
_HELD_IN = "held_in"
#: Kubernetes' own label: every namespace has it.
_NAME = "kubernetes.io/metadata.name"
#: As `NodeHold.owner` begins.
_MACHINE = f"{ZMachine.KIND} "

INDEXES = (
    Indexes(Quota),
    Indexes(Namespace),
    Indexes(GridNode, {_HELD_IN: lambda node: _of_node(node)}),
    Indexes(Contract, {_HELD_IN: lambda contract: _of_contract(contract)}),
)


def held(look: Look, namespace: str) -> Amounts:
    """What a namespace holds. What is in quarantine of it does not count: a node says that, and might say anything."""
    parts = (*look.parts(GridNode, held_in=namespace), *look.parts(Contract, held_in=namespace))
    return reduce(Amounts.__add__, parts, Amounts())


def labels_of(namespace: Namespace) -> dict[str, str]:
    return {_NAME: namespace.name, **namespace.metadata.labels}


def refused(world: Reader, namespace: str, asked: Amounts, otherwise: str = "") -> Verdict | None:
    """Why a namespace may not hold so much more; None: it may, which is to be held at once. ``otherwise`` says what goes on all
    the same. Who is refused is resolved again when something is given back or a Quota changes; who is let in stays in."""
    if not any(getattr(asked, name) > 0 for name in Amounts.model_fields):
        return None
    if unread := world.unreadable(Quota):
        message = f"{unread[0]} can't be read by this controller, so that it is not known what this namespace may have"
        return waiting(Reason.DEPENDENCY_NOT_READY, f"{message}: upgrade the controller, or mend the Quota")
    if not _beyond(world.untracked, namespace, asked) or not (beyond := _beyond(world, namespace, asked)):
        return None
    what = f"{beyond}; delete something, ask for less, or have an administrator raise it"
    return waiting(Reason.QUOTA_EXCEEDED, f"{what}; {otherwise}" if otherwise else what)


def _beyond(look: Look, namespace: str, asked: Amounts) -> str:
    """What would be too much, and by which Quota. Empty: nothing."""
    quotas = [spec for spec in look.views(Quota, _terms) if spec is not None]
    if not quotas:
        return ""
    labels = look.view(Namespace, "", namespace, labels_of) or {_NAME: namespace}
    used = held(look, namespace)
    found = []
    for name, spec in quotas:
        if spec.namespaces.matches(labels) and (words := "; ".join(spec.exceeded(used, asked))):
            found.append(f"{words} (Quota {name})")
    return "; ".join(found)


def _terms(quota: Quota) -> tuple[str, QuotaSpec] | None:
    """None: it does not hold any more."""
    return None if quota.deleting else (quota.name, quota.spec)


def _of_node(node: GridNode) -> dict[str, Amounts]:
    """Plain sums, as this is done at each change of a node that may have a thousand holds."""
    sums: dict[str, list[int]] = {}
    for hold in node.status.holds:
        machine = hold.owner.startswith(_MACHINE)
        if not (machine or hold.cpu or hold.memory or hold.storage):
            continue
        namespace = hold.owner.partition(" ")[2].partition("/")[0]
        found = sums.setdefault(namespace, [0, 0, 0, 0])
        found[0] += hold.cpu
        found[1] += hold.memory
        found[2] += hold.storage
        found[3] += machine
    return {
        namespace: Amounts.model_construct(cpu=cpu, memory=memory, storage=storage, public_ipv4=0, machines=machines)
        for namespace, (cpu, memory, storage, machines) in sums.items()
    }


def _of_contract(contract: Contract) -> dict[str, Amounts]:
    status = contract.status
    count = len({*status.reserved, *status.taking})
    return {contract.namespace: Amounts(public_ipv4=count)} if count else {}
