"""GridNode: its namespace and rights, what is allocated of it, and whether its agent is alive."""

from __future__ import annotations

from zos.api.gridnode import GridNode, NodeHold, Resources
from zos.api.meta import Object, Reason
from zos.api.network import Network
from zos.api.rbac import agent_objects
from zos.api.zmachine import ZMachine
from zos.api.zmount import ZMount
from zos.plan import names
from zos.world.heartbeat import Heartbeat
from zos.world.resolution import Resolution, Verdict, ready, waiting
from zos.world.store import Indexes, Reader

INDEXES = (Indexes(Heartbeat), Indexes(Network), Indexes(ZMachine), Indexes(ZMount))

_HOLDERS: dict[str, type[Object]] = {model.KIND: model for model in (Network, ZMachine, ZMount)}


def resolve(node: GridNode, world: Reader) -> Resolution:
    namespace = names.node_namespace(node.name)
    if node.deleting:
        return Resolution(verdict=waiting(Reason.DELETING, "leaving the grid"))
    holds = tuple(hold for hold in node.status.holds if _exists(hold, world))
    allocated = Resources(
        cpu=sum(hold.cpu for hold in holds),
        memory=sum(hold.memory for hold in holds),
        storage=sum(hold.storage for hold in holds),
    )
    offered = node.offered
    return Resolution(
        verdict=_judge(node, world.view(Heartbeat, "", node.name, lambda heartbeat: heartbeat.alive)),
        status=node.status.model_copy(
            update={
                "node_namespace": namespace,
                "holds": holds,
                "allocated": allocated,
                # A node that lost memory, or whose agent has not said yet what it has, has no less than nothing to give.
                "free": Resources(
                    cpu=max(0, offered.cpu - allocated.cpu),
                    memory=max(0, offered.memory - allocated.memory),
                    storage=max(0, offered.storage - allocated.storage),
                ),
            }
        ),
        guarded=True,
        objects=agent_objects(node.name, namespace),
    )


def _exists(hold: NodeHold, world: Reader) -> bool:
    kind, _, place = hold.owner.partition(" ")
    namespace, _, name = place.partition("/")
    return world.view(_HOLDERS[kind], namespace, name, lambda obj: obj.uid) == hold.uid


def _judge(node: GridNode, alive: bool | None) -> Verdict:
    if alive is None:
        return waiting(Reason.PROGRESSING, "its agent has not reported yet: start it with this node's name")
    if not alive:
        return waiting(Reason.NODE_UNREACHABLE, "its agent has stopped reporting: is the node up and the network between?")
    if not node.status.capacity.memory:
        return waiting(Reason.PROGRESSING, "its agent has not said yet what the node has")
    return ready("unschedulable: takes nothing new" if node.spec.unschedulable else "")
