"""GridNode: its namespace and rights, what is allocated of it, and whether its agent is alive."""

from __future__ import annotations

from zos.api import names
from zos.api.core import Namespace, Node
from zos.api.gridnode import GridNode
from zos.api.meta import ABANDON, Condition, Reason
from zos.api.nodeworkload import NodeWorkload
from zos.api.quarantine import Quarantined
from zos.api.resources import NodeHold, Resources, Usage
from zos.api.zmachine import ZMachine
from zos.kinds.gridnode.rights import agent_objects
from zos.world import heartbeat, indexes, running
from zos.world.heartbeat import Heartbeat
from zos.world.objects import Indexes
from zos.world.reader import Reader
from zos.world.resolution import Resolution, Verdict, ready, waiting

INDEXES = (
    Indexes(Heartbeat),
    Indexes(GridNode, {"address": lambda node: _addresses(node)}),
    Indexes(Namespace),
    Indexes(Node),
    indexes.WORKLOADS,
)
#: So many are named of what runs on while it should not.
_NAMED = 20


def resolve(node: GridNode, world: Reader) -> Resolution:
    namespace = names.node_namespace(node.name)
    place = world.view(Namespace, "", namespace, lambda found: (found.uid, found.deleting))
    manifests = agent_objects(node.name, namespace)
    if node.deleting:
        return _deleting(node, world, namespace, manifests)
    holds = tuple(hold for hold in node.status.holds if not _gone(hold, world))
    allocated = node.allocated(holds)
    offered = node.offered
    alive = heartbeat.alive(world, node.name)
    verdict = _judge(node, alive, world)
    if place is not None and place[1]:
        message = (
            f"namespace {namespace} is being deleted; it is made anew when it is gone, and the agent then needs new credentials"
        )
        verdict = waiting(Reason.PROGRESSING, message)
        manifests = ()
    return Resolution(
        verdict=verdict,
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
                "usage": Usage.of(allocated, offered) if node.status.capacity.memory else None,
            }
        ),
        guarded=True,
        objects=manifests,
        basis=_basis(place[0] if place is not None else "", silent=alive is False),
        conditions=(*_outdated(node), *_nameless(node), *_called_alike(node, world)),
    )


def _basis(namespace: str, *, silent: bool) -> str:
    """Of an account or a binding that somebody has deleted nobody tells; an agent that had it is not heard any more."""
    return f"{namespace} silent".lstrip() if silent else namespace


def _deleting(node: GridNode, world: Reader, namespace: str, manifests: tuple[object, ...]) -> Resolution:
    """Waits for what holds data there, then for the rest to be taken down; the namespace and the agent's rights go last."""
    users = tuple(hold.owner for hold in node.status.holds if hold.storage and not _gone(hold, world))
    left = world.views(NodeWorkload, lambda w: (w.spec.owner.kind, w.spec.owner.name, w.deleting), namespace=namespace)
    unread = tuple(f"{key}, which can't be read by this controller" for key in world.unreadable(NodeWorkload, namespace))
    waits = users or tuple(f"{kind} {name}" for kind, name, _ in left) + unread
    if waits and not node.abandoned:
        shown = ", ".join(waits[:20]) + (f" and {len(waits) - 20} more" if len(waits) > 20 else "")
        waits = (shown + _way_out(node, heartbeat.alive(world, node.name) is True),)
    return Resolution(
        verdict=waiting(Reason.DELETING, "leaving the grid"),
        waits_for=() if node.abandoned else waits,
        dismantled=tuple(manifests),  # type: ignore[arg-type]
    )


def _way_out(node: GridNode, alive: bool) -> str:
    """What helps a deletion on."""
    gives_up = f"kubectl annotate gridnode {node.name} --overwrite {ABANDON}={node.uid} gives up what is there"
    if ABANDON in node.metadata.annotations:
        return f"; {ABANDON} has to be the uid of the GridNode itself: {gives_up}"
    if alive:
        return f": delete them, or let them be ({gives_up}, and leaves it as it is)"
    return f"; its agent does not answer: if it never will again, {gives_up}"


def _gone(hold: NodeHold, world: Reader) -> bool:
    """Whether the holder is known to be gone. One of a kind that is not known here, or that can't be read, is not."""
    kind, _, place = hold.owner.partition(" ")
    namespace, _, name = place.partition("/")
    if world.lives(kind, namespace, name, hold.uid) is not False:
        return False
    return not world.views(NodeWorkload, lambda workload: workload.key, owner=hold.uid)  # the node has it still


def _judge(node: GridNode, alive: bool | None, world: Reader) -> Verdict:
    if alive is None:
        return waiting(Reason.PROGRESSING, "its agent has not reported yet: start it with this node's name and its credentials")
    if not alive:
        return waiting(Reason.NODE_UNREACHABLE, _silent(node, world))
    if not node.status.capacity.memory:
        return waiting(Reason.PROGRESSING, "its agent has not said yet what the node has: does it run, with valid credentials?")
    if node.spec.maintenance:  # as asked
        return Verdict(True, Reason.NODE_MAINTENANCE, "; ".join([_under_maintenance(node, world), *_remarks(node)]))
    return ready("; ".join(_remarks(node)))


def _silent(node: GridNode, world: Reader) -> str:
    said = "its agent has stopped reporting: is the node up, the network between, and are its credentials valid?"
    joined = node.metadata.labels.get(names.MANAGED_BY) == names.CONTROLLER
    if joined and world.view(Node, "", node.name, lambda _: True) is None:
        return f"{said} No Node {node.name} with the label {names.MEMBER}=true is known: without the label no agent runs there"
    return said


def _under_maintenance(node: GridNode, world: Reader) -> str:
    """Whether its guests are stopped, so that somebody may go to it."""
    seen = world.views(NodeWorkload, _stands, namespace=names.node_namespace(node.name))
    on = [owner for owner, rests in seen if owner and rests is False]
    on += [f"{entry.kind} {entry.namespace}/{entry.name}, in quarantine" for entry in _orphans(node)]
    said = [f"these run on as yet: {_listed(on)}"] if on else []
    if unsaid := [owner for owner, rests in seen if owner and rests is None]:
        said.append(f"these have not said yet that they are stopped: {_listed(unsaid)}")
    if not said:
        return "under maintenance: takes nothing new, and its machines are stopped"
    return f"under maintenance: takes nothing new; {'; '.join(said)}"


def _listed(owners: list[str]) -> str:
    return ", ".join(owners[:_NAMED]) + (f" and {len(owners) - _NAMED} more" if len(owners) > _NAMED else "")


def _stands(workload: NodeWorkload) -> tuple[str, bool | None]:
    """A machine, and whether it does not run and won't: None where its node has not said so since it was asked for that."""
    owner, part = workload.spec.owner, workload.spec.part
    if owner.kind != ZMachine.KIND:
        return "", True
    found = running.of(workload)
    rests = True if found is None or (part is not None and part.rests and found.settled) else None
    return f"{owner.kind} {owner.namespace}/{owner.name}", False if found is not None and found.runs is not None else rests


def _orphans(node: GridNode) -> list[Quarantined]:
    """Guests that nobody asks for, and that only an administrator's word ends."""
    return [entry for entry in node.status.quarantine if entry.running and entry.kind == ZMachine.KIND]


def _remarks(node: GridNode) -> list[str]:
    said = ["unschedulable: takes nothing new"] if node.spec.unschedulable else []
    if (held := node.allocated(node.status.holds).cpu) > node.offered.cpu:
        said.append(f"cpu: {held} held of {node.offered.cpu} offered, what is new waits until less is held")
    if node.status.quarantine:
        said.append(f"in quarantine: {len(node.status.quarantine)}, see status.quarantine; spec.quarantine decides")
    return said


def _outdated(node: GridNode) -> tuple[Condition, ...]:
    if node.knows_words:
        return ()
    message = (
        f"its agent is of version {node.status.agent_version}, older than this controller: what has to leave the node and keep "
        "its data waits until the agent is upgraded"
    )
    return (Condition(type="AgentOutdated", status="True", reason=Reason.AGENT_OUTDATED, message=message),)


def _nameless(node: GridNode) -> tuple[Condition, ...]:
    """Private networks are IPv4's: name servers of the other family are none to machines."""
    if node.status.agent_version is None or any(":" not in server for server in node.status.nameservers):
        return ()
    message = (
        "machines on it can look up no names: its resolv.conf names no server that they can ask, which is one with an IPv4 "
        "address that is no loopback or link-local one; name one there"
    )
    return (Condition(type="NameServerMissing", status="True", reason=Reason.DEPENDENCY_NOT_READY, message=message),)


def _addresses(node: GridNode) -> tuple[str, ...]:
    return tuple(address.lower() for address in (node.endpoint.ipv4, node.endpoint.ipv6) if address)


def _called_alike(node: GridNode, world: Reader) -> tuple[Condition, ...]:
    """Whoever calls one of these nodes may get the other."""
    mine = node.spec.wireguard_ports
    said = []
    for address in _addresses(node):
        for name, theirs in world.views(GridNode, lambda other: (other.name, other.spec.wireguard_ports), address=address):
            low, high = max(mine.from_, theirs.from_), min(mine.to, theirs.to)
            if name != node.name and low <= high:
                said.append(f"its endpoint {address} is GridNode {name}'s as well, with ports {low} to {high}")
    if not said:
        return ()
    message = (
        f"{'; '.join(said)}: correct spec.endpoint of one, or, where a NAT forwards to each, give each ports of its own in "
        "spec.wireguardPorts"
    )
    return (Condition(type="EndpointConflict", status="True", reason=Reason.CONFLICT, message=message),)
