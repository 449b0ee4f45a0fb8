"""What a network has of each of its nodes: a WireGuard port and a key, held on the GridNode, and where it is called."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial

from zos.api.gridnode import Endpoint, GridNode
from zos.api.meta import Reason
from zos.api.network import Network, NetworkNodeStatus
from zos.kinds.network import keys, places
from zos.kinds.network.problems import Problem, Problems, Rank
from zos.kinds.network.reports import NodeReport, Reports
from zos.world import grants
from zos.world.reader import Reader
from zos.world.resolution import Notice


@dataclass(frozen=True)
class Seat:
    """``exists``: its GridNode is there and has not been given up, so the share can be held and asked for."""

    port: int
    public_key: str
    endpoint: Endpoint
    notice: Notice | None = None
    exists: bool = True


@dataclass(frozen=True)
class _Taken:
    """What only one node of the network can have."""

    keys: keys.Taken
    places: places.Taken


def take(network: Network, nodes: Iterable[str], reports: Reports, world: Reader) -> tuple[Mapping[str, Seat], Problems]:
    """Seats by node, of those that have one. Each sees what those before it have taken."""
    before = {entry.name: entry for entry in network.status.nodes}
    taken = _Taken(keys.Taken(network), places.Taken())
    for entry in network.status.nodes:
        taken.places.take(entry.name, _endpoint(entry), entry.listen_port)
    found: dict[str, Seat] = {}
    problems: list[Problem] = []
    for name in nodes:
        had = before.get(name)
        seat = world.view(GridNode, "", name, partial(_seat, network, taken, had, reports[name]))
        if seat is None:
            message = f"node {name} does not exist: kubectl get gridnodes shows those that do"
            problems.append(Problem(Rank.SEATS, Reason.DEPENDENCY_NOT_READY, message))
            seat = _of_one_that_is_gone(had)
        if isinstance(seat, Problem):
            problems.append(seat)
        elif seat is not None:
            found[name] = seat
            taken.keys.take(seat.public_key, name)
            taken.places.take(name, seat.endpoint, seat.port)
    return found, tuple(problems)


def _seat(
    network: Network, taken: _Taken, before: NetworkNodeStatus | None, report: NodeReport, node: GridNode
) -> Seat | Problem:
    """What the network has on a node, or takes of it. A GridNode that was made anew learns of it again; a key that the node has
    lost, or a key or a place that another node of the network has as well, is replaced by another."""
    name = node.name
    place = node.endpoint if node.spec.endpoint or node.status.agent_version else _endpoint(before)
    granted, span = grants.on(node, network.uid), node.spec.wireguard_ports
    had_port = granted.port if granted.holds else report.listen_port or (before and before.listen_port)
    had_key = granted.key if granted.holds else report.public_key or (before.public_key if before else None)
    lost = had_key is not None and had_key == report.lost_key
    doubled = taken.keys.by_another(had_key, name)
    keeps = not lost and not doubled and (granted.holds or (had_port not in granted.ports and had_key not in granted.keys))
    free = granted.free_port
    if had_port and had_key and keeps:
        if free and not node.deleting and taken.places.to_be_left(name, place, had_port, span):
            had_port = free
        return Seat(had_port, had_key, place, exists=not node.abandoned)
    if node.deleting:
        return Problem(Rank.SEATS, Reason.DEPENDENCY_NOT_READY, f"node {name} is being deleted")
    port = had_port if had_port and had_port not in granted.ports else free
    if port is None:
        full = f"node {name} has no WireGuard port left (all of {span.from_}-{span.to} are used)"
        message = f"{full}: widen spec.wireguardPorts of its GridNode"
        return Problem(Rank.SEATS, Reason.INSUFFICIENT_CAPACITY, message)
    key = granted.free_key(lambda key: key != report.lost_key and taken.keys.fits(key, name))
    if key is None:
        message = f"node {name} has offered no WireGuard key yet that nobody else has: is its agent running?"
        return Problem(Rank.SEATS, Reason.DEPENDENCY_NOT_READY, message)
    notice = None
    if lost or doubled:
        why = "has lost its WireGuard key for this network" if lost else "had the WireGuard key of another node"
        notice = Notice(Reason.KEY_REPLACED, f"node {name} {why} and got another", once=f"{name}/{had_key}")
    return Seat(port, key, place, notice)


def _of_one_that_is_gone(before: NetworkNodeStatus | None) -> Seat | None:
    """What it has runs on, and the others go on reaching it."""
    if before is None or before.listen_port is None or before.public_key is None:
        return None
    return Seat(before.listen_port, before.public_key, _endpoint(before), exists=False)


def _endpoint(before: NetworkNodeStatus | None) -> Endpoint:
    """Where a node was reached last, for as long as nobody says where it is now."""
    host = (before.endpoint or "").rpartition(":")[0] if before is not None else ""
    return Endpoint(ipv6=host.strip("[]")) if host.startswith("[") else Endpoint(ipv4=host or None)
