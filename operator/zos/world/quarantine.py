"""What nodes have of objects that are gone without their user's word, and what an administrator says of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from zos.api.gridnode import GridNode
from zos.api.meta import Object, Reason
from zos.api.nodeworkload import NodeWorkload, Owner
from zos.api.quarantine import Quarantined, QuarantineOrder, Recipient
from zos.world import indexes
from zos.world.heartbeat import Heartbeat, alive
from zos.world.objects import Indexes
from zos.world.reader import Reader
from zos.world.resolution import Verdict, waiting

INDEXES = (
    Indexes(GridNode, {"quarantine": lambda node: _names(node)}),
    Indexes(Heartbeat),
    indexes.WORKLOADS,
)
#: What the kinds declare whose objects can be given something.
_HEIR = "heir"


@dataclass(frozen=True)
class Inheritance:
    """What is in quarantine and concerns an object: ``node`` has it. ``adopt`` is the uid of what becomes the object's;
    ``problem`` says why the object can't have anything there for now. ``owner`` is whose it was, as the node knows it."""

    node: str
    adopt: str | None = None
    problem: Verdict | None = None
    owner: Owner | None = None


def heirs(model: type[Object]) -> Indexes:
    """To be among the ``INDEXES`` of a kind whose objects can be given what another of them left. They have ``node_name`` in
    their status."""
    return Indexes(model, {_HEIR: lambda obj: [obj.uid]})


def own(obj: Object, world: Reader) -> str | None:
    """The node that has things of this very object, from before its NodeWorkload was lost: it takes them up again."""
    return next(iter(world.views(GridNode, lambda node: node.name, quarantine=obj.uid)), None)


def lingers(uid: str, node: str, world: Reader) -> bool:
    """Whether an object that is gone may still have things on its node: they are being taken down, or run on without its user's
    word. What other nodes say of it does not count; a node that does not answer can't say that they are gone. What has ended
    because it was given away is the next one's, who may wait for an address of it."""
    if world.views(NodeWorkload, lambda workload: workload.key, owner=uid):
        return True
    if alive(world, node) is False:
        return True
    return (node, False) in world.views(GridNode, lambda found: (found.name, _given_up(found, uid)), quarantine=uid)


def _given_up(node: GridNode, uid: str) -> bool:
    runs = any(entry.running for entry in node.status.quarantine if entry.uid == uid)
    return not runs and any(order.uid == uid and order.give_to is not None for order in node.spec.quarantine)


def private_addresses(node: str, network: str, uid: str, world: Reader) -> frozenset[str]:
    """Addresses of a private network that residents in a node's quarantine run with, but for those of ``uid`` itself. To be
    asked about the node's own sub-range only."""

    def look(found: GridNode) -> frozenset[str]:
        nics = (nic for entry in found.status.quarantine if entry.uid != uid for nic in entry.nics)
        return frozenset(nic.ipv4 for nic in nics if nic.network_uid == network and nic.ipv4 is not None)

    return world.view(GridNode, "", node, look) or frozenset()


def inherited(obj: Object, world: Reader) -> Inheritance | None:
    """What an object of the same kind, namespace and name left behind, or what an administrator gives to this one. A name alone
    gives nobody another's data."""
    name = f"{obj.KIND} {obj.namespace}/{obj.name}"
    found = world.views(GridNode, lambda node: _of(node, name, obj.uid), quarantine=name)
    entries = [entry for entries in found for entry in entries if not (entry.adopt is not None and _lives(entry, world))]
    given = next((entry for entry in entries if entry.adopt is not None), None)
    return given or next(iter(entries), None)


def remains(obj: Object, world: Reader, node: str | None, asked: str | None) -> Inheritance | Verdict | None:
    """What an object goes on with: what a node has of it from before its NodeWorkload was lost, or what an earlier object left
    and is given to it. Or why it waits for an administrator. ``node`` is where it has been already, ``asked`` where its user
    wants it."""
    # What another node says of an object that is to be elsewhere is not asked for.
    if (back := own(obj, world)) is not None and node is None and asked in (None, back):
        return Inheritance(back)
    left = inherited(obj, world)
    if left is None:
        return None
    if left.problem is not None and node is None and asked in (None, left.node):
        return left.problem
    return left if left.adopt and node in (None, left.node) else None


def _lives(left: Inheritance, world: Reader) -> bool:
    """Whether its owner takes it up again by itself, so that nobody can give it away. Of an owner that the node itself doesn't
    know the administrator's word is all there is. Raises Unreadable."""
    owner = left.owner
    if owner is None or not owner.kind:
        return False
    model: Any = next((model for model in world.indexed_by(_HEIR) if owner.kind == model.KIND), None)
    if model is None:
        return True  # for all that can be told
    found = world.view(model, owner.namespace, owner.name, _place)
    return found in ((owner.uid, None), (owner.uid, left.node))


def _place(obj: Any) -> tuple[str, str | None]:
    return obj.uid, obj.status.node_name


def _of(node: GridNode, name: str, uid: str) -> tuple[Inheritance, ...]:
    orders = {order.uid: order for order in node.spec.quarantine}
    return tuple(
        _judged(node.name, name, entry, orders.get(entry.uid))
        for entry in node.status.quarantine
        if entry.uid != uid and name in (_name(entry), _recipient(orders.get(entry.uid)))
    )


def _judged(node: str, name: str, entry: Quarantined, order: QuarantineOrder | None) -> Inheritance:
    if order is not None and order.give_to is not None and _recipient(order) == name:
        if entry.kind not in ("", order.give_to.kind):
            what = f"what node {node} has of {_name(entry)} (uid {entry.uid}) can't become a {order.give_to.kind}"
            message = f"{what}: take giveTo back in spec.quarantine of GridNode {node}"
            return Inheritance(node, problem=waiting(Reason.QUARANTINED, message))
        return Inheritance(
            node, entry.uid, owner=Owner(kind=entry.kind, namespace=entry.namespace, name=entry.name, uid=entry.uid)
        )
    what = f"node {node} has what an earlier {name} left (uid {entry.uid})"
    if order is not None:
        word = "it is being discarded" if order.discard else f"it goes to {_recipient(order)}"
        return Inheritance(node, problem=waiting(Reason.PROGRESSING, f"{what}: {word}"))
    return Inheritance(
        node,
        problem=waiting(
            Reason.QUARANTINED,
            f"{what}: an administrator gives it to this object or discards it, in spec.quarantine of GridNode {node}",
        ),
    )


def _names(node: GridNode) -> set[str]:
    """Uids and names of whatever is in quarantine there, and who is to get something of it."""
    found = {entry.uid for entry in node.status.quarantine}
    found |= {_name(entry) for entry in node.status.quarantine}
    return found | {_recipient(order) for order in node.spec.quarantine if order.uid in found}


def _name(entry: Quarantined) -> str:
    return f"{entry.kind} {entry.namespace}/{entry.name}" if entry.name else ""


def _recipient(order: QuarantineOrder | None) -> str:
    to: Recipient | None = order.give_to if order is not None else None
    return f"{to.kind} {to.namespace}/{to.name}" if to is not None else ""
