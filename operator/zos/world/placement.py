"""Where an object goes, and what it holds there: the same for every kind that takes anything of a node.

A kind asks `place` for the node, then `keep` for the hold on it; a kind that takes no capacity but a port or a key says so by
`hold`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from zos.api import names
from zos.api.gridnode import GridNode
from zos.api.meta import Object, Reason, format_quantity
from zos.api.nodeworkload import NodeWorkload
from zos.api.quota import Amounts
from zos.api.resources import NodeHold, Resources
from zos.api.zmachine import ZMachine
from zos.world import indexes, quotas
from zos.world.heartbeat import Heartbeat
from zos.world.objects import Indexes
from zos.world.reader import Reader
from zos.world.resolution import Hold, Verdict, waiting

INDEXES = (
    Indexes(
        GridNode,
        {
            "holder": lambda node: node.status.by_holder,
            "left": lambda node: {left.uid: left.held for left in node.left},
            "namespace": lambda node: {names.node_namespace(node.name): (node.abandoned, node.knows_words)},
        },
    ),
    Indexes(Heartbeat),
    indexes.WORKLOADS,
    *quotas.INDEXES,
)
_NOTHING = Resources()
#: So many nodes are named to who fits on none; of the others it is said how many they are.
_NAMED = 16


@dataclass(frozen=True)
class Candidate:
    name: str
    free: Resources
    capacity: Resources
    open: bool  # takes new objects
    farm: str | None = None
    public: bool = False  # has an interface on its farm's public segment


def place(
    world: Reader,
    need: Resources,
    *,
    held: str | None = None,
    asked: str | None = None,
    pinned: str | None = None,
    preferred: Iterable[str] = (),
    farm: str | None = None,
    what: str = "",
) -> str | Verdict:
    """The node of an object, or why it has none.

    It is where it has something already (``held``), else where its user wants it (``asked``), else where something is that it
    needs and that does not move (``pinned``), else on the node that fits best (`best`, for ``preferred`` and ``farm``), to be
    held at once. ``what`` it is, for people.
    """
    if held is not None and gone(world, held):
        return removed(held)
    if asked is not None and world.view(GridNode, "", asked, _name) is None:
        message = f"node {asked} does not exist: kubectl get gridnodes shows those that do"
        return waiting(Reason.DEPENDENCY_NOT_READY, message)
    if (chosen := held or asked or pinned) is not None:
        return chosen
    found, why = best(world, need, preferred, farm)
    if found is None:
        return waiting(Reason.INSUFFICIENT_CAPACITY, f"no node {f'can take {what}' if what else 'fits'}: {why}")
    return found


def keep(
    world: Reader, obj: Object, node: str, need: Resources, *, adopt: str | None = None, grown: str = ""
) -> Hold | Verdict:
    """What an object holds on its node from now on, or why that can't give it: it needs room only for what it does not have
    there yet. Then it holds what it held.

    ``adopt`` is the uid of what it takes over of the node's quarantine, which has its room already. ``grown`` is what to say
    where the node can't give more to one that has something there, with ``{lack}`` for what it lacks.
    """
    had = holding(world, obj.uid, node)
    wanted = more(world, need, node, obj.uid, adopt)
    # With a workload and no hold it is there: the GridNode was made anew, and has to learn of it.
    known = had is None and names.node_namespace(node) in world.views(NodeWorkload, _namespace, owner=obj.uid)
    asks = not known and bool(wanted.cpu or wanted.memory or wanted.storage)
    if asks:
        if world.view(GridNode, "", node, _name) is None:
            return waiting(Reason.DEPENDENCY_NOT_READY, f"node {node} does not exist any more")
        if (why := unsaid(world, node)) is not None:
            return waiting(Reason.DEPENDENCY_NOT_READY, why)
        if had is None and in_maintenance(world, node):
            message = f"node {node} is under maintenance and takes nothing new: this comes when that ends"
            message += ", or is deleted and made on another node"
            return waiting(Reason.NODE_MAINTENANCE, message)
    if asks or (adopt is not None and not known):  # what it takes over is nothing new to its node, but to its namespace
        otherwise = "what there is of it stays as it is" if had is not None else ""
        if (over := quotas.refused(world, obj.namespace, _beyond(world, need, obj, node), otherwise)) is not None:
            return over
    if asks and (lack := shortage(world, wanted, node)) is not None:
        words = (grown or "can't give it more: {lack}; it runs as it was") if had is not None else "lacks {lack}"
        return waiting(Reason.INSUFFICIENT_CAPACITY, f"node {node} {words.format(lack=lack)}")
    return hold(obj, node, need)


def hold(
    obj: Object, node: str, need: Resources = _NOTHING, *, listen_port: int | None = None, public_key: str | None = None
) -> Hold:
    """A share of a node, whether there is room for it or not."""
    entry = NodeHold(
        uid=obj.uid,
        owner=f"{obj.KIND} {obj.namespace}/{obj.name}",
        cpu=need.cpu,
        memory=need.memory,
        storage=need.storage,
        listen_port=listen_port,
        public_key=public_key,
    )
    return Hold(GridNode.key_of("", node), entry)


def held_on(world: Reader, uid: str, chosen: str | None = None) -> str | None:
    """Name of the node on which an object holds something already. ``chosen``, which it was told of, goes before others."""
    nodes = world.views(GridNode, _name, holder=uid)
    return chosen if chosen in nodes else next(iter(nodes), None)


def gone(world: Reader, node: str) -> bool:
    """Whether a node is not in the grid any more, or was given up by an administrator."""
    return world.view(GridNode, "", node, _stays) is not True


def in_maintenance(world: Reader, node: str) -> bool:
    """Whether an administrator wants the node's machines stopped for a while."""
    return world.view(GridNode, "", node, _maintenance) is True


def given_up(world: Reader, namespace: str) -> bool:
    """Whether the node with that namespace is known not to be in the grid any more, or to be given up."""
    if any(names.node_namespace(key.name) == namespace for key in world.unreadable(GridNode)):
        return False
    return all(world.views(GridNode, lambda node: node.abandoned, namespace=namespace))


def removed(node: str) -> Verdict:
    """What an object says whose node is not in the grid any more. What it has is there: it comes up nowhere else by itself."""
    return waiting(
        Reason.NODE_REMOVED,
        f"node {node} is not in the grid any more and has its data: apply its GridNode again, or delete this object",
    )


def holding(world: Reader, uid: str, node: str) -> NodeHold | None:
    """What an object holds on that node."""
    holds = world.views(GridNode, lambda found: (found.name, found.status.by_holder[uid]), holder=uid)
    return dict(holds).get(node)


def more(world: Reader, need: Resources, node: str, uid: str, adopt: str | None = None) -> Resources:
    """What an object asks of a node beyond what that has of it already: what it holds there, or what is in quarantine of it or
    of what it takes over (``adopt``). Not below nothing."""

    held = holding(world, uid, node)
    had: list[NodeHold | Resources] = [held] if held is not None else []
    # What it holds includes what is in quarantine of its own: `GridNode.allocated` counts that once, too.
    for one in {adopt} if held is not None else {adopt, uid}:
        had += _left(world, one, node) if one is not None else ()
    return Resources(
        cpu=max(0, need.cpu - sum(one.cpu for one in had)),
        memory=max(0, need.memory - sum(one.memory for one in had)),
        storage=max(0, need.storage - sum(one.storage for one in had)),
    )


def _beyond(world: Reader, need: Resources, obj: Object, node: str) -> Amounts:
    """What an object asks for beyond what its namespace holds for it already: there, or where it is moving from. What it takes
    over of another's is its namespace's from now on."""
    before = world.views(GridNode, lambda found: found.status.by_holder[obj.uid], holder=obj.uid)
    wanted = need if before else more(world, need, node, obj.uid)
    return Amounts(
        cpu=max(0, wanted.cpu - sum(hold.cpu for hold in before)),
        memory=max(0, wanted.memory - sum(hold.memory for hold in before)),
        storage=max(0, wanted.storage - sum(hold.storage for hold in before)),
        machines=int(obj.KIND == ZMachine.KIND and not before),
    )


def _left(world: Reader, uid: str, node: str) -> list[Resources]:
    """What a node has in quarantine under a uid."""

    def look(found: GridNode) -> tuple[str, list[Resources]]:
        return found.name, [left.held for left in found.left if left.uid == uid]

    return dict(world.views(GridNode, look, left=uid)).get(node, [])


# Every object on a node looks at that through these: as one function each, they are asked once for all.


def _name(node: GridNode) -> str:
    return node.name


def _stays(node: GridNode) -> bool:
    return not node.abandoned


def _maintenance(node: GridNode) -> bool:
    return node.spec.maintenance


def _namespace(workload: NodeWorkload) -> str:
    return workload.namespace


def _told(node: GridNode) -> bool:
    return bool(node.status.capacity.memory)


def candidate(node: GridNode) -> Candidate:
    spec = node.spec
    takes_new = not (spec.unschedulable or spec.maintenance or node.deleting)
    return Candidate(node.name, node.unheld, node.offered, takes_new, spec.farm, spec.public_interface is not None)


def unsaid(world: Reader, node: str) -> str | None:
    """What to say of a node whose agent has not told yet what it has; None: it has."""
    if world.view(GridNode, "", node, _told) is not False:
        return None
    return f"node {node} has not said yet what it has: is its agent running, with valid credentials?"


def lacks(need: Resources, node: Candidate) -> str | None:
    """What the node has too little of, with the numbers; None if it fits."""
    lacking = [
        f"{name}: {show(asked)} asked, {show(max(free, 0))} free of {show(total)}"
        for name, asked, free, total, show in (
            ("cpu", need.cpu, node.free.cpu, node.capacity.cpu, str),
            ("memory", need.memory, node.free.memory, node.capacity.memory, amount),
            ("storage", need.storage, node.free.storage, node.capacity.storage, amount),
        )
        if asked > max(free, 0)  # who asks for nothing lacks nothing
    ]
    return "; ".join(lacking) or None


def shortage(world: Reader, need: Resources, node: str) -> str | None:
    """What a node has too little of; None if it fits, which is to be held at once. Unlike a fit, a shortage is remembered:
    its end resolves the asker again."""

    def look(found: GridNode) -> str | None:
        return lacks(need, candidate(found))

    return world.view(GridNode, "", node, look) if world.untracked.view(GridNode, "", node, look) else None


def best(world: Reader, need: Resources, preferred: Iterable[str] = (), farm: str | None = None) -> tuple[str | None, str]:
    """The node that fits best: a preferred one, then the one with the most free memory, so that load spreads.

    With ``farm`` only nodes on that farm's public segment fit. Gives (None, why not) when no node fits; the reason names
    each node with what it lacks, the first `_NAMED` by name where there are many, those that take new things before others.
    """
    first = frozenset(preferred)
    alive = frozenset(world.views(Heartbeat, lambda heartbeat: heartbeat.name, alive="yes"))
    # What is found stays (it becomes a hold), whatever happens to free capacity: only who found nothing waits for changes.
    fitting = [node for node in world.untracked.views(GridNode, candidate) if _unfit(node, alive, need, farm) is None]
    if not fitting:
        return None, _why_none(world.views(GridNode, candidate), alive, need, farm)
    return min(fitting, key=lambda node: (node.name not in first, -node.free.memory, node.name)).name, ""


def _why_none(nodes: Iterable[Candidate], alive: frozenset[str], need: Resources, farm: str | None) -> str:
    """What each node lacks. Bounded, as a grid may have more nodes than a message has room."""
    ranked = sorted(nodes, key=lambda node: (not node.open or node.name not in alive, node.name))
    reasons = [reason for node in ranked if (reason := _unfit(node, alive, need, farm)) is not None]
    if len(reasons) > _NAMED:
        rest = f"and {len(reasons) - _NAMED} more nodes: kubectl get gridnodes shows what each has"
        reasons = [*reasons[:_NAMED], rest]
    return "; ".join(reasons) or "the grid has no nodes"


def off_segment(node: Candidate, farm: str) -> str | None:
    """Why a machine with an address of ``farm`` can't be on the node; None if it can."""
    if node.farm != farm:
        return f"{node.name} is {f'of farm {node.farm}' if node.farm else 'of no farm'}, not of {farm}"
    return None if node.public else f"{node.name} of farm {farm} has no publicInterface"


def _unfit(node: Candidate, alive: frozenset[str], need: Resources, farm: str | None) -> str | None:
    if farm is not None and (apart := off_segment(node, farm)) is not None:
        return apart
    if not node.open:
        return f"{node.name} takes nothing new"
    if node.name not in alive:
        return f"{node.name} does not answer"
    lack = lacks(need, node)
    return lack and f"{node.name} lacks {lack}"


def amount(size: int) -> str:
    """Bytes for people: ``1.5Gi``."""
    if size and size % 2**20:
        for suffix, unit in (("Gi", 2**30), ("Mi", 2**20)):
            if size >= unit:
                return f"{size / unit:.1f}{suffix}"
    return format_quantity(size)
