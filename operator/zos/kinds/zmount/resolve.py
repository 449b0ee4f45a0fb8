"""ZMount: which node a disk is on, and whether it fits there."""

from __future__ import annotations

from dataclasses import dataclass

from zos.api.gridnode import GridNode, NodeHold, Resources
from zos.api.meta import Reason
from zos.api.nodeworkload import MountOnNode, NodeWorkload
from zos.api.zmachine import ZMachine
from zos.api.zmount import ZMount, ZMountStatus
from zos.plan import names
from zos.world import placement, quarantine
from zos.world.heartbeat import Heartbeat
from zos.world.resolution import Hold, Resolution, Verdict, Workload, ready, waiting
from zos.world.store import Indexes, Reader

INDEXES = (
    *placement.INDEXES,
    *quarantine.INDEXES,
    Indexes(Heartbeat, {"alive": lambda heartbeat: ["yes" if heartbeat.alive else "no"]}),
    Indexes(ZMachine, {"disk": lambda machine: [f"{machine.namespace}/{disk.name}" for disk in machine.spec.disks]}),
    Indexes(NodeWorkload, {"owner": lambda workload: [workload.spec.owner.uid]}),
)


def resolve(mount: ZMount, world: Reader) -> Resolution:
    user = _user(mount, world)
    held = placement.held_on(world, mount.uid, mount.status.node_name)
    if mount.deleting:
        who = (f"ZMachine {user[0]}",) if user else ()
        return Resolution(
            verdict=waiting(Reason.DELETION_BLOCKED, f"ZMachine {user[0]} uses it: delete the machine or take the disk out")
            if user
            else waiting(Reason.DELETING, "being erased"),
            releases=(GridNode.key_of("", held),) if held else (),
            waits_for=who,
        )
    status = mount.status.model_copy(update={"used_by": user and user[0]})
    place = _place(mount, world, held, user)
    if place.node is None or place.problem is not None:
        assert place.problem is not None
        return Resolution(place.problem, status.model_copy(update={"node_name": place.node}))
    node = place.node
    lack = _lack(mount, node, world)
    if lack is not None:
        return Resolution(lack, status)
    verdict, size = _judge(mount, node, world)
    if mount.spec.node_name not in (None, node):
        verdict = waiting(
            Reason.CONFLICT,
            f"the disk is on node {node} and holds data: it does not move to {mount.spec.node_name}; set nodeName to {node}",
        )
    used = mount.status.used or place.holds_data or (user is not None and user[1] == node and verdict.ready)
    return Resolution(
        verdict=verdict,
        status=ZMountStatus(node_name=node, size=size, used_by=user and user[0], used=used),
        releases=(GridNode.key_of("", held),) if held and held != node else (),
        holds=(
            Hold(
                GridNode.key_of("", node),
                NodeHold(uid=mount.uid, owner=f"ZMount {mount.namespace}/{mount.name}", storage=mount.spec.size),
            ),
        ),
        workloads=(Workload(node, MountOnNode(size=mount.spec.size, holds_data=used, adopt=place.adopt)),),
        recorded=place.holds_data and not mount.status.used,
        disposable=not mount.status.used,
    )


def _user(mount: ZMount, world: Reader) -> tuple[str, str | None] | None:
    """The machine (name, its node) that has the disk: who has it already, else the oldest that asks."""
    if mount.status.used_by is not None:  # raises where it can't be read: then it is not known that it has let go
        world.view(ZMachine, mount.namespace, mount.status.used_by, lambda machine: machine.uid)
    asking = world.where_view(
        ZMachine,
        "disk",
        f"{mount.namespace}/{mount.name}",
        lambda machine: (machine.name, machine.status.node_name, machine.deleting),
    )
    current = next((machine for machine in asking if machine[0] == mount.status.used_by), None)
    chosen = current or next((machine for machine in asking if not machine[2]), None)
    return chosen and chosen[:2]


@dataclass(frozen=True)
class _Place:
    """``holds_data``: the data is there already; ``adopt``: uid of the disk in quarantine that becomes this one. ``problem``:
    it can't be made or changed there for now."""

    node: str | None
    problem: Verdict | None = None
    holds_data: bool = False
    adopt: str | None = None


def _place(mount: ZMount, world: Reader, held: str | None, user: tuple[str, str | None] | None) -> _Place:
    """Where its data is, or is about to be, whatever is asked; else where it is asked, or fits."""
    there = held
    if mount.status.used:
        there = mount.status.node_name or held
    if mount.status.used or (held is not None and user is not None and user[1] == held):
        if there is not None and placement.gone(world, there):
            return _Place(there, placement.removed(there))
        if there is not None:
            adopt = quarantine.inherited(mount, world)
            return _Place(there, adopt=adopt.adopt if adopt is not None and adopt.node == there else None)
    asked = mount.spec.node_name
    # What another node says of an object that is elsewhere, or is to be, is not asked for.
    places = {node for node in (held, asked) if node is not None}
    if (back := quarantine.own(mount, world)) is not None and places <= {back}:
        return _Place(back, holds_data=True)
    left = quarantine.inherited(mount, world)
    if left is not None and (left.adopt is not None or places <= {left.node}):
        return _Place(left.node if left.adopt else held, left.problem, holds_data=True, adopt=left.adopt)
    if asked is not None:
        if world.view(GridNode, "", asked, lambda node: True) is None:
            return _Place(None, waiting(Reason.DEPENDENCY_NOT_READY, f"node {asked} does not exist"))
        return _Place(asked)
    if held is not None and (user is None or user[1] is None):
        return _Place(held)
    if user is not None and user[1] is not None:
        return _Place(user[1])  # never used, so there is no data to keep: it goes where its first machine is
    node, why = placement.best(world, Resources(storage=mount.spec.size))
    if node is None:
        size = placement.amount(mount.spec.size)
        return _Place(None, waiting(Reason.INSUFFICIENT_CAPACITY, f"no node can take a disk of {size}: {why}"))
    return _Place(node)


def _lack(mount: ZMount, node: str, world: Reader) -> Verdict | None:
    """Whether the node has room for what the disk does not hold there yet."""

    hold = placement.holding(world, mount.uid, node)
    more = mount.spec.size - (hold.storage if hold else 0)
    if more <= 0:
        return None
    if (unsaid := placement.unsaid(world, node)) is not None:
        return waiting(Reason.DEPENDENCY_NOT_READY, unsaid)
    lack = placement.shortage(world, Resources(storage=more), node)
    return (lack and waiting(Reason.INSUFFICIENT_CAPACITY, f"node {node} lacks {lack}")) or None


def _judge(mount: ZMount, node: str, world: Reader) -> tuple[Verdict, int | None]:
    place = names.node_namespace(node)  # what another node says of it is not asked for
    told = world.where_view(NodeWorkload, "owner", mount.uid, lambda workload: (workload.namespace, _reported(workload)))
    seen = dict(told).get(place)
    if world.view(Heartbeat, "", node, lambda heartbeat: heartbeat.alive) is False:
        return waiting(Reason.NODE_UNREACHABLE, f"the agent of node {node} does not answer"), mount.status.size
    if seen is None:
        return waiting(Reason.PROGRESSING, f"node {node} is making it"), mount.status.size
    current, done, reason, message, size = seen
    if done and current:
        return ready(), size
    if reason is None or not current:
        return waiting(Reason.PROGRESSING, message or f"node {node} is making it"), mount.status.size
    return waiting(Reason.read(reason), f"node {node}: {message}"), mount.status.size


def _reported(workload: NodeWorkload) -> tuple[bool, bool, str | None, str, int | None]:
    condition = workload.status.condition("Ready")
    size = workload.status.mount.size if workload.status.mount else None
    if condition is None:
        return False, False, None, "", size
    current = condition.observed_generation == workload.metadata.generation
    return current, condition.status == "True", condition.reason, condition.message, size
