"""Who has public addresses on nodes, whatever became of the objects that gave them.

What the controller asked of a node stays there until its agent has taken it away. What a node says of its quarantine holds up
addresses of its own farm, on whose segment it can take any address anyway; it gives nobody anything.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

from zos.api.farm import ipv4_of
from zos.api.gridnode import GridNode
from zos.api.nodeworkload import NodeWorkload, Owner, RunningPublicNic
from zos.api.quarantine import Quarantined, QuarantinedNic
from zos.world import indexes, placement, running
from zos.world.objects import Indexes
from zos.world.reader import Look, Reader

INDEXES = (
    *placement.INDEXES,
    indexes.WORKLOADS,
    Indexes(
        NodeWorkload,
        {
            "public": lambda workload: _keys_of(workload),
            "public_ipv4": lambda workload: {"": found} if (found := _number(workload)) else {},
        },
    ),
    Indexes(
        GridNode,
        {
            "public": lambda node: {key for entry in _running(node) for key in _keys(node, entry)},
            "public_ipv4": lambda node: {node.spec.farm: numbers} if node.spec.farm and (numbers := _numbers(node)) else {},
        },
    ),
)


@dataclass(frozen=True)
class Occupant:
    """A machine with a public interface, as its node was asked for or its guest runs with. ``going``: its user has deleted
    it; ``until_restart``: it is not asked for any more, but the guest that runs has it."""

    owner: Owner
    namespace: str
    going: bool
    until_restart: bool = False


@dataclass(frozen=True)
class Left:
    """What a node has in quarantine."""

    node: str
    entry: Quarantined

    @property
    def words(self) -> str:
        entry = self.entry
        of = f"{entry.kind} {entry.namespace}/{entry.name}" if entry.name else "an object that it does not know any more"
        return (
            f"what node {self.node} has in quarantine of {of} (uid {entry.uid}): an administrator decides in spec.quarantine "
            f"of GridNode {self.node}"
        )


def on_nodes(keys: Iterable[str], world: Reader) -> tuple[Occupant, ...]:
    """Machines that have an interface with one of these MACs or IPv4 addresses."""
    found = {workload: None for key in keys for workload in world.views(NodeWorkload, partial(_on_node, key), public=key)}
    return tuple(workload for workload in found if not _given_up(workload.going, workload.namespace, world))


def unsettled(uid: str, world: Reader) -> bool:
    """Whether a machine may still run with what its node is not asked for any more: the agent has not said that it is gone."""
    found = world.views(NodeWorkload, lambda workload: (_settled(workload), workload.going, workload.namespace), owner=uid)
    return any(not settled and not _given_up(going, namespace, world) for settled, going, namespace in found)


def left(farm: str | None, keys: Iterable[str], world: Reader) -> Left | None:
    """A guest that runs on in the quarantine of one of the farm's nodes, of a machine with one of these uids, or with one of
    these MACs or IPv4 addresses."""
    for key in keys if farm is not None else ():
        for name, entries in world.views(GridNode, lambda node: (node.name, _running(node)), public=f"{farm}/{key}"):
            for entry in entries:
                if key == entry.uid or any(key in (nic.mac, nic.ipv4) for nic in _public(entry)):
                    return Left(name, entry)
    return None


def numbers(farm: str, look: Look) -> frozenset[int]:
    """IPv4 addresses that machines have on nodes, or the farm's nodes and guests in their quarantine; as numbers."""
    return frozenset[int]().union(*look.parts(NodeWorkload, public_ipv4=""), *look.parts(GridNode, public_ipv4=farm))


def _interfaces(workload: NodeWorkload) -> tuple[RunningPublicNic, ...]:
    """Those that it may have: what is asked for, and what runs."""
    found = running.of(workload)
    nics = [one.public_nic for one in found.possible] if found is not None else []
    return tuple(dict.fromkeys(nic for nic in nics if nic is not None))


def _number(workload: NodeWorkload) -> frozenset[int]:
    """Of one that its user wants gone, his PublicIP knows (`on_nodes`)."""
    if workload.going:
        return frozenset()
    return frozenset(int(ipv4_of(nic.ipv4)) for nic in _interfaces(workload) if nic.ipv4 is not None)


def _keys_of(workload: NodeWorkload) -> list[str]:
    return [key for nic in _interfaces(workload) for key in (nic.mac, nic.ipv4) if key]


def _on_node(key: str, workload: NodeWorkload) -> Occupant:
    run = workload.spec.part.run if workload.spec.part is not None else None
    public = run.public_nic if run is not None else None
    asked = public is not None and key in (public.mac, public.ipv4)
    return Occupant(workload.spec.owner, workload.namespace, workload.going, until_restart=not asked)


def _settled(workload: NodeWorkload) -> bool:
    """Whether it is known what runs there."""
    found = running.of(workload)
    return found is not None and found.settled


def _given_up(going: bool, namespace: str, world: Reader) -> bool:
    """Whether an administrator has let go of the node: what its user wanted gone counts as gone."""
    return going and placement.given_up(world, namespace)


def _running(node: GridNode) -> tuple[Quarantined, ...]:
    on_segment = node.spec.farm is not None and node.spec.public_interface is not None
    return tuple(entry for entry in node.status.quarantine if entry.running) if on_segment else ()


def _public(entry: Quarantined) -> tuple[QuarantinedNic, ...]:
    return tuple(nic for nic in entry.nics if nic.network_uid is None)


def _keys(node: GridNode, entry: Quarantined) -> list[str]:
    found = [entry.uid, *(key for nic in _public(entry) for key in (nic.mac, nic.ipv4) if key)]
    return [f"{node.spec.farm}/{key}" for key in found]


def _numbers(node: GridNode) -> frozenset[int]:
    """Lenient: what is no address is passed over."""
    found = [nic.ipv4 for entry in _running(node) for nic in _public(entry) if nic.ipv4]
    found += [own] if (own := node.endpoint.ipv4) else []
    return frozenset(int(ipv4_of(text)) for text in found if _is_ipv4(text))


def _is_ipv4(text: str) -> bool:
    try:
        ipv4_of(text)
    except ValueError:
        return False
    return True
