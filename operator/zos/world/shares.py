"""What objects give to machines of their node: file systems, found by kind and name of whose they are."""

from __future__ import annotations

from dataclasses import dataclass, replace

from zos.api.gridnode import GridNode
from zos.api.meta import Object
from zos.api.nodeworkload import NodeWorkload, Offer
from zos.world import placement
from zos.world.objects import Indexes
from zos.world.reader import Reader

#: What objects are found by that ask for a file system: ``<kind> <namespace>/<name>`` of whose it is.
BY_SHARE = "share"
#: What the kinds declare whose objects give file systems.
GIVER = "giver"


def _offering(workload: NodeWorkload) -> list[str]:
    owner, part = workload.spec.owner, workload.spec.part
    return [key(owner.kind, owner.namespace, owner.name)] if part is not None and part.offer(owner) is not None else []


INDEXES = (*placement.INDEXES, Indexes(NodeWorkload, {"offer": _offering}))


def givers(model: type[Object]) -> Indexes:
    """To be among the ``INDEXES`` of a kind whose part has an ``offer``: whether they give something already or not."""
    return Indexes(model, {GIVER: lambda obj: [key(obj.KIND, obj.namespace, obj.name)]})


@dataclass(frozen=True)
class Share:
    """``node`` is where it is, None where that is no node of the grid; ``why``: why it is not ready, empty where it is;
    ``leaving``: its owner is going."""

    uid: str
    node: str | None
    offer: Offer
    why: str
    leaving: bool


def key(kind: str, namespace: str, name: str) -> str:
    return f"{kind} {namespace}/{name}"


def find(world: Reader, kind: str, namespace: str, name: str) -> Share | None:
    """What an object gives. None: it is on no node, or gives nothing."""
    found = world.views(NodeWorkload, _share, offer=key(kind, namespace, name))
    if not found:
        return None
    # One that was given up may linger on a node that does not answer, while another of its name is there.
    place, share = min(found, key=lambda one: one[1].leaving)
    return replace(share, node=next(iter(world.views(GridNode, _name, namespace=place)), None))


def why_none(world: Reader, kind: str, namespace: str, name: str) -> str:
    """What to say to who asks for the file system of an object that gives none, or whose node is not in the grid. Raises
    Unreadable."""
    known = {model.KIND: model for model in world.indexed_by(GIVER)}
    if kind not in known:
        others = f"of kind {', '.join(known)}" if known else "that this release does not have yet"
        return f"{kind} {name} can give no file system: only objects {others} do"
    if world.view(known[kind], namespace, name, _name) is None:
        return f"{kind} {name} does not exist in this namespace: apply it"
    return f"{kind} {name} gives no file system yet: its own conditions say why"


def users(world: Reader, obj: Object) -> tuple[str, ...]:
    """Who asks for what an object gives: its deletion waits for them."""
    wanted = key(obj.KIND, obj.namespace, obj.name)
    models = world.indexed_by(BY_SHARE)
    return tuple(f"{model.KIND} {name}" for model in models for name in world.views(model, _name, share=wanted))


def _name(obj: Object) -> str:
    return obj.name


def _share(workload: NodeWorkload) -> tuple[str, Share]:
    spec, condition = workload.spec, workload.status.condition("Ready")
    offer = spec.part.offer(spec.owner) if spec.part is not None else None
    assert offer is not None  # it is in the index
    ready = condition is not None and condition.status == "True"
    why = "" if ready else condition.message or condition.reason if condition is not None else "it is being made"
    return workload.namespace, Share(spec.owner.uid, None, offer, why, workload.deleting)
