"""NodeWorkload: goes when its owner is gone; let go when it goes without the word to take things away."""

from __future__ import annotations

from zos.api.core import Namespace
from zos.api.gridnode import GridNode
from zos.api.nodeworkload import NodeWorkload
from zos.world import indexes, placement
from zos.world.objects import Indexes
from zos.world.reader import Reader
from zos.world.resolution import Resolution, ready

INDEXES = (
    *placement.INDEXES,
    Indexes(Namespace),
    indexes.WORKLOADS,
)


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
    gone = world.lives(owner.kind, owner.namespace, owner.name, owner.uid) is False
    if gone:  # whether it may go depends on what the node's agent would do
        world.views(GridNode, lambda node: node.knows_words, namespace=workload.namespace)
    return Resolution(verdict=ready(), obsolete=gone)
