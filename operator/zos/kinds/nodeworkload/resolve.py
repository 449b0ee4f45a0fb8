"""NodeWorkload: goes when its owner is gone; let go when it goes without the word to take things away."""

from __future__ import annotations

from zos.api.core import Namespace
from zos.api.gridnode import GridNode
from zos.api.meta import Object
from zos.api.network import Network
from zos.api.nodeworkload import NodeWorkload
from zos.api.zmachine import ZMachine
from zos.api.zmount import ZMount
from zos.world import placement
from zos.world.resolution import Resolution, ready
from zos.world.store import Indexes, Reader

INDEXES = (
    *placement.INDEXES,
    Indexes(Namespace),
    Indexes(Network),
    Indexes(ZMachine),
    Indexes(ZMount),
    Indexes(NodeWorkload, {"owner": lambda workload: [workload.spec.owner.uid]}),
)
_OWNERS: dict[str, type[Object]] = {model.KIND: model for model in (Network, ZMachine, ZMount)}


def _attended(workload: NodeWorkload, world: Reader) -> bool:
    """Whether the node's agent is to let go itself: it first says what it keeps. Where the node was given up or its namespace
    goes, and the agent's rights with it, nobody else is left to do it."""
    if world.view(Namespace, "", workload.namespace, lambda namespace: namespace.deleting) is not False:
        return False
    return not placement.given_up(world, workload.namespace)


def resolve(workload: NodeWorkload, world: Reader) -> Resolution:
    owner = workload.spec.owner
    if workload.deleting:
        return Resolution(verdict=ready(), let_go=not workload.spec.unwanted and not _attended(workload, world))
    model = _OWNERS.get(owner.kind)
    if model is None:
        return Resolution(verdict=ready())  # of a kind that is newer than this controller
    uid = world.view(model, owner.namespace, owner.name, lambda obj: obj.uid)
    if uid != owner.uid:  # whether it may go depends on what the node's agent would do
        world.where_view(GridNode, "namespace", workload.namespace, lambda node: node.knows_words)
    return Resolution(verdict=ready(), obsolete=uid != owner.uid)
