"""Network: which nodes and laptops belong to it, what each owns, and who serves whom."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Set
from dataclasses import dataclass, replace
from ipaddress import IPv4Network

from zos.api import names
from zos.api.core import Secret
from zos.api.gridnode import Endpoint, GridNode, NodeHold
from zos.api.meta import Condition, Reason
from zos.api.network import (
    EGRESS_BLOCKED,
    MESH_BLOCKED,
    Network,
    NetworkAccessStatus,
    NetworkAddress,
    NetworkNodeStatus,
    NetworkStatus,
)
from zos.api.nodeworkload import NodeWorkload
from zos.api.text import is_name
from zos.api.zmachine import ZMachine
from zos.kinds.network import egress, keys, laptops, overlap, places
from zos.kinds.network.part import NetworkOnNode, NetworkState
from zos.kinds.network.problems import Problems, called
from zos.kinds.network.topology import Caller, Member, bridges, divided, endpoint, subranges, topology, wireguard_address
from zos.world import asking, indexes, quarantine
from zos.world.heartbeat import Heartbeat
from zos.world.resolution import Hold, Notice, Resolution, Verdict, Workload, ready, waiting
from zos.world.store import Indexes, Reader, Unreadable

INDEXES = (
    *asking.INDEXES,
    *quarantine.INDEXES,
    *egress.INDEXES,
    Indexes(Heartbeat),
    Indexes(Secret),
    Indexes(ZMachine, {"network": lambda machine: {f"{machine.namespace}/{name}" for name in _networks(machine)}}),
    indexes.WORKLOADS,
)

#: What is said of a node whose agent is away.
_AWAY = "its agent does not answer"


def _networks(machine: ZMachine) -> frozenset[str]:
    """Where a machine is to be, and where it is until it is restarted."""
    return frozenset(filter(None, (machine.spec.network.name, machine.status.network)))


@dataclass(frozen=True)
class _Taken:
    """What only one node of the network can have."""

    keys: keys.Taken
    places: places.Taken


@dataclass(frozen=True)
class _Seat:
    """A node's share in the network: its port and key, held on the GridNode."""

    port: int
    public_key: str
    ipv4: str | None
    ipv6: str | None
    notice: Notice | None = None
    exists: bool = True


def resolve(network: Network, world: Reader) -> Resolution:
    machines = world.where_view(
        ZMachine,
        "network",
        f"{network.namespace}/{network.name}",
        lambda machine: (machine.uid, machine.name, machine.status.node_name),
    )
    addresses = _addresses(network, machines, world)
    known = {uid for uid, *_ in machines}
    machines += tuple((entry.uid, entry.machine, entry.node) for entry in addresses if entry.uid not in known)
    if network.deleting:
        return _deleting(network, machines, world)
    problems = Problems()
    told = dict(world.where_view(NodeWorkload, "owner", network.uid, _reported))
    wanted = _members(network, machines, world, problems)
    ranges = _allocate(network, wanted, problems)
    taken = _Taken(keys.Taken(network), places.Taken())
    for entry in network.status.nodes:
        taken.places.take(entry.name, _endpoint(entry), entry.listen_port)
    seats: dict[str, _Seat] = {}
    for name in wanted:
        if name in ranges and (seat := _seat(network, name, taken, world, problems, told)):
            seats[name] = seat
            taken.keys.take(seat.public_key, name)
            taken.places.take(name, Endpoint(ipv4=seat.ipv4, ipv6=seat.ipv6), seat.port)
    members = {
        name: Member(name, ranges[name], seat.public_key, seat.port, seat.ipv4, seat.ipv6) for name, seat in seats.items()
    }
    alive = {name: world.view(Heartbeat, "", name, lambda heartbeat: heartbeat.alive) for name in wanted}
    relay = _relay(network, members, alive, problems)
    access = laptops.access(network, members, ranges, relay, alive, world, problems)
    hidden = [member.name for member in members.values() if not member.accessible]
    relays = {name: relay for name in hidden if relay is not None}
    if hidden and relay is None:
        problems.add(
            Reason.DEPENDENCY_NOT_READY,
            f"no accessible node can be the relay: {', '.join(hidden)} cut off; add a node with an IPv4 endpoint to spec.nodes",
        )
    callers = [
        Caller(entry.name, entry.subnet, entry.public_key, entry.node)
        for entry in access
        if entry.public_key and entry.node in members
    ]
    bridge = _bridge(network, members, alive, relay)
    mesh = topology(network.spec.ip_range, members.values(), callers, relays, bridge)
    for one, other in mesh.apart:
        problems.add(
            Reason.DEPENDENCY_NOT_READY,
            f"nodes {one} and {other} have no common address family: add a node with IPv4 and IPv6",
        )
    places.told(members.values(), problems)
    overlap.told(network, members.values(), access, world, problems)
    nodes = _node_status(wanted, ranges, members, {*relays.values(), bridge}, alive, told)
    workloads = tuple(
        asking.plainly(
            world,
            name,
            NetworkOnNode(
                ip_range=network.spec.ip_range,
                mtu=network.spec.mtu,
                subnet=member.subnet,
                wireguard_address=str(wireguard_address(member.subnet)),
                listen_port=member.listen_port,
                public_key=member.public_key,
                peers=mesh.peers[name],
                egress=egress.of_node(name, world),
            ),
        )
        for name, member in members.items()
        if seats[name].exists
    )
    known_nodes = {workload.node for workload in workloads}
    workloads += tuple(Workload(name, None) for name in wanted if name not in known_nodes)  # not known is not "not wanted"
    return Resolution(
        verdict=_judge(nodes, access, told, problems),
        status=NetworkStatus(
            nodes=nodes,
            access=access,
            addresses=addresses,
            relay=relay if relays or access else None,
            ready_nodes=f"{sum(node.ready for node in nodes)}/{len(wanted)}",
        ),
        conditions=(*_shut(nodes, told), *_silent(members.values(), alive, told)),
        guarded=True,
        holds=tuple(
            Hold(
                GridNode.key_of("", name),
                NodeHold(
                    uid=network.uid,
                    owner=f"Network {network.namespace}/{network.name}",
                    listen_port=seat.port,
                    public_key=seat.public_key,
                ),
            )
            for name, seat in seats.items()
            if seat.exists
        ),
        releases=tuple(GridNode.key_of("", node.name) for node in network.status.nodes if node.name not in wanted),
        secrets=laptops.secrets(network, members, access),
        workloads=workloads,
        notices=tuple(seat.notice for seat in seats.values() if seat.notice is not None),
    )


def _addresses(
    network: Network, machines: tuple[tuple[str, str, str | None], ...], world: Reader
) -> tuple[NetworkAddress, ...]:
    """The addresses that are held: all but those of machines that are known to be gone, or to be in another network now."""
    living = {uid for uid, *_ in machines}
    return tuple(entry for entry in network.status.addresses if entry.uid in living or not _left(entry, network, world))


def _left(entry: NetworkAddress, network: Network, world: Reader) -> bool:
    """Whether nobody has the address any more: its machine is gone from the node as well, or is in another network."""
    try:
        seen = world.view(ZMachine, network.namespace, entry.machine, lambda machine: (machine.uid, _networks(machine)))
    except Unreadable:
        return False
    if seen is not None and seen[0] == entry.uid:
        return network.name not in seen[1]
    return not quarantine.lingers(entry.uid, entry.node, world)


def _deleting(network: Network, machines: tuple[tuple[str, str, str | None], ...], world: Reader) -> Resolution:
    """Waits for machines, but not for what nodes still have of those that are gone: its user does not want it either."""
    users = tuple(f"ZMachine {name}" for uid, name, _ in machines if _lives(uid, name, network, world))
    message = f"waiting for {', '.join(users)} to be deleted" if users else "being removed from its nodes"
    return Resolution(
        verdict=waiting(Reason.DELETION_BLOCKED if users else Reason.DELETING, message),
        releases=tuple(GridNode.key_of("", node.name) for node in network.status.nodes),
        waits_for=users,
    )


def _lives(uid: str, machine: str, network: Network, world: Reader) -> bool:
    try:
        return world.view(ZMachine, network.namespace, machine, lambda found: found.uid) == uid
    except Unreadable:
        return True


def _members(
    network: Network, machines: tuple[tuple[str, str, str | None], ...], world: Reader, problems: Problems
) -> tuple[str, ...]:
    """Names of the nodes: listed ones in their order, then those that machines brought in, in the order they came. A node that
    is being deleted goes with its last machine."""
    listed = [node.name for node in network.spec.nodes if is_name(node.name)]
    if no_names := [node.name for node in network.spec.nodes if not is_name(node.name)]:  # from before admission looked at it
        problems.add(Reason.INVALID_SPEC, f"no node can be called {', '.join(no_names)}: correct or remove it in spec.nodes")
    housing = {node for _, _, node in machines if node}
    came = [node.name for node in network.status.nodes if node.name in housing]
    found = tuple(dict.fromkeys([*listed, *came, *(node for _, _, node in machines if node)]))
    leaving = [name for name in found if name not in housing and world.view(GridNode, "", name, lambda node: node.deleting)]
    for name in leaving:
        problems.add(Reason.DEPENDENCY_NOT_READY, f"node {name} is being deleted: take it out of spec.nodes")
    return tuple(name for name in found if name not in leaving)


def _allocate(network: Network, wanted: tuple[str, ...], problems: Problems) -> Mapping[str, str]:
    """Sub-range of each node, and of each laptop under ``access/<name>``. Sticky; laptops come first."""
    had = {f"access/{entry.name}": entry.subnet for entry in network.status.access}
    had |= {entry.name: entry.subnet for entry in network.status.nodes}
    asked = {f"access/{entry.name}": entry.subnet for entry in network.spec.access}
    asked |= dict.fromkeys(wanted) | {node.name: node.subnet for node in network.spec.nodes if is_name(node.name)}
    given = {holder: had[holder] for holder in asked if holder in had}
    taken = {subnet: holder for holder, subnet in given.items()}
    for holder, subnet in asked.items():
        if subnet is None or given.get(holder) == subnet:
            continue
        if holder in given:
            problems.add(
                Reason.CONFLICT,
                f"{_called(holder)} has sub-range {given[holder]} for the network's life: it can't change to {subnet}",
            )
        elif subnet in taken:
            problems.add(Reason.CONFLICT, f"sub-range {subnet} asked for {_called(holder)} belongs to {_called(taken[subnet])}")
            asked[holder] = ""  # not to be given another one behind the user's back
        else:
            given[holder] = subnet
            taken[subnet] = holder
    free = (subnet for subnet in subranges(network.spec.ip_range) if subnet not in taken)
    without: list[str] = []
    for holder, subnet in asked.items():
        if holder in given or subnet == "":
            continue
        found = next(free, None)
        if found is None:
            without.append(_called(holder))
        else:
            given[holder] = found
            taken[found] = holder
    if without:
        total = (1 << (24 - IPv4Network(network.spec.ip_range).prefixlen)) - 2
        problems.add(
            Reason.INSUFFICIENT_CAPACITY,
            f"all {total} sub-ranges of {network.spec.ip_range} are used: none left for {', '.join(without)}; "
            "remove nodes or laptops, or make a network with a larger range",
        )
    return given


def _called(holder: str) -> str:
    kind, _, name = holder.rpartition("/")
    return f"laptop {name}" if kind else f"node {name}"


def _seat(
    network: Network, name: str, taken: _Taken, world: Reader, problems: Problems, told: Mapping[str, _Reported]
) -> _Seat | None:
    """What the network has on a node, or takes of it. A GridNode that was made anew learns of it again; a key that the node has
    lost, or a key or a place that another node of the network has as well, is replaced by another."""
    report = told.get(names.node_namespace(name), _Reported())
    before = next((entry for entry in network.status.nodes if entry.name == name), None)

    def look(node: GridNode) -> tuple[str, _Seat | None]:
        place = node.endpoint if node.spec.endpoint or node.status.agent_version else _endpoint(before)
        others = [hold for hold in node.status.holds if hold.uid != network.uid]
        ports = {other.listen_port for other in others} | {
            left.listen_port for left in node.status.quarantine if left.uid != network.uid
        }
        held = {other.public_key for other in others}
        hold = node.status.by_holder.get(network.uid)
        had_port = hold.listen_port if hold is not None else report.listen_port or (before and before.listen_port)
        had_key = hold.public_key if hold is not None else report.public_key or (before.public_key if before else None)
        lost = had_key is not None and had_key == report.lost_key
        doubled = taken.keys.by_another(had_key, name)
        keeps = not lost and not doubled and (hold is not None or (had_port not in ports and had_key not in held))
        span = node.spec.wireguard_ports
        free = next((port for port in range(span.from_, span.to + 1) if port not in ports), None)
        if had_port and had_key and keeps:
            if free and not node.deleting and taken.places.to_be_left(name, place, had_port, span):
                had_port = free
            return "", _Seat(had_port, had_key, place.ipv4, place.ipv6, exists=not node.abandoned)
        if node.deleting:
            return "is being deleted", None
        port = had_port if had_port and had_port not in ports else free
        unfit = {*held, report.lost_key}
        key = next((key for key in node.status.prekeys if key not in unfit and taken.keys.fits(key, name)), None)
        if port is None:
            return f"has no WireGuard port left: all of {span.from_}-{span.to} are used", None
        if key is None:
            return "has offered no WireGuard key yet that nobody else has: is its agent running?", None
        notice = None
        if lost or doubled:
            why = "has lost its WireGuard key for this network" if lost else "had the WireGuard key of another node"
            notice = Notice(Reason.KEY_REPLACED, f"node {name} {why} and got another", once=f"{name}/{had_key}")
        return "", _Seat(port, key, place.ipv4, place.ipv6, notice)

    seen = world.view(GridNode, "", name, look)
    if seen is None:
        problems.add(Reason.DEPENDENCY_NOT_READY, f"node {name} does not exist: kubectl get gridnodes shows those that do")
        if before is None or before.listen_port is None or before.public_key is None:
            return None
        place = _endpoint(before)  # what it has runs on, and the others go on reaching it
        return _Seat(before.listen_port, before.public_key, place.ipv4, place.ipv6, exists=False)
    complaint, seat = seen
    if seat is None:
        reason = Reason.INSUFFICIENT_CAPACITY if "port left" in complaint else Reason.DEPENDENCY_NOT_READY
        problems.add(reason, f"node {name} {complaint}")
    return seat


def _endpoint(before: NetworkNodeStatus | None) -> Endpoint:
    """Where a node was reached last, for as long as nobody says where it is now."""
    host = (before.endpoint or "").rpartition(":")[0] if before is not None else ""
    return Endpoint(ipv6=host.strip("[]")) if host.startswith("[") else Endpoint(ipv4=host or None)


def _relay(network: Network, members: Mapping[str, Member], alive: Mapping[str, bool | None], problems: Problems) -> str | None:
    """The node that serves hidden nodes, and laptops that ask for none. It moves only when it dies or another is asked."""
    asked, current = network.spec.relay, network.status.relay
    fit = [name for name, member in members.items() if member.ipv4]
    if asked is not None and asked not in fit:
        why = "is not a node of this network" if asked not in members else "has no IPv4 endpoint"
        problems.add(Reason.INVALID_SPEC, f"relay {asked} {why}")
    changed = network.metadata.generation != network.status.observed_generation
    if asked in fit and alive.get(asked) is not False and (current is None or changed):
        return asked
    if current in fit and alive.get(current or "") is not False:
        return current
    candidates = [name for name in (asked, *fit) if name in fit and alive.get(name)]
    if candidates:
        return candidates[0]
    return current if current in fit else next(iter(fit), None)


def _bridge(network: Network, members: Mapping[str, Member], alive: Mapping[str, bool | None], relay: str | None) -> str | None:
    """The node with both address families that joins those with only one; None: none is needed, or none can. Like the relay it
    moves only when it dies, and is the relay where that can be."""
    if not divided(members.values()):
        return None
    fit = bridges(members.values())
    had = [node.name for node in network.status.nodes if node.relay and node.name in fit]
    had.sort(key=lambda name: name == network.status.relay)  # who passes on and is not the relay was the bridge
    for name in had:
        if alive.get(name) is not False:
            return name
    living = [name for name in (relay, *fit) if name in fit and alive.get(name)]
    return next(iter((*living, *had, *fit)), None)


@dataclass(frozen=True)
class _Reported:
    """What a node's agent says of its part, and what was asked of it. ``failed``: more than just not yet."""

    done: bool = False
    failed: bool = False
    message: str | None = None
    shut: str | None = None
    silent: frozenset[str] = frozenset()
    listen_port: int | None = None
    public_key: str | None = None
    lost_key: str | None = None


def _node_status(
    wanted: tuple[str, ...],
    ranges: Mapping[str, str],
    members: Mapping[str, Member],
    passing: Set[str | None],
    alive: Mapping[str, bool | None],
    reported: Mapping[str, _Reported],
) -> tuple[NetworkNodeStatus, ...]:
    found: list[NetworkNodeStatus] = []
    for name in wanted:
        if name not in ranges:
            continue
        member = members.get(name)
        report = reported.get(names.node_namespace(name), _Reported())
        done, message = report.done, report.message
        if alive.get(name) is False:
            done, message = False, _AWAY
        found.append(
            NetworkNodeStatus(
                name=name,
                subnet=ranges[name],
                public_key=member and member.public_key,
                listen_port=member and member.listen_port,
                endpoint=endpoint(member, member) if member and member.accessible else None,
                role="accessible" if member and member.accessible else "hidden",
                relay=name in passing,
                ready=done,
                message=message,
            )
        )
    return tuple(found)


def _reported(workload: NodeWorkload) -> tuple[str, _Reported]:
    condition, part = workload.status.condition("Ready"), workload.part(NetworkOnNode)
    shut = workload.status.condition(EGRESS_BLOCKED)
    state = workload.state(NetworkState)
    said = _Reported(
        listen_port=part.listen_port if part is not None else None,
        public_key=part.public_key if part is not None else None,
        lost_key=state.lost_key if state is not None else None,
        shut=shut.message if shut is not None and shut.status == "True" else None,
        silent=frozenset(state.silent) if state is not None else frozenset(),
    )
    if condition is None:
        return workload.namespace, said
    current = condition.observed_generation == workload.metadata.generation
    if current and condition.status == "True":
        return workload.namespace, replace(said, done=True)
    failed = current and condition.reason == Reason.FAILED
    return workload.namespace, replace(said, failed=failed, message=condition.message or None)


def _shut(nodes: tuple[NetworkNodeStatus, ...], reported: Mapping[str, _Reported]) -> tuple[Condition, ...]:
    """Machines reach each other, but on some nodes not the Internet."""
    said = [
        f"{node.name}: {report.shut}"
        for node in nodes
        if node.message != _AWAY and (report := reported.get(names.node_namespace(node.name), _Reported())).shut is not None
    ]
    if not said:
        return ()
    return (Condition(type=EGRESS_BLOCKED, status="True", reason=Reason.NODE_FIREWALL, message="; ".join(said)),)


def _silent(
    members: Collection[Member], alive: Mapping[str, bool | None], reported: Mapping[str, _Reported]
) -> tuple[Condition, ...]:
    """Nodes that others called over WireGuard and that never answered, although their agents live."""
    by_key = {member.public_key: member for member in members}
    callers: dict[str, list[str]] = {}
    for member in members:
        report = reported.get(names.node_namespace(member.name), _Reported())
        for key in sorted(report.silent & by_key.keys()):
            if by_key[key].accessible and alive.get(member.name) and alive.get(by_key[key].name):
                callers.setdefault(key, []).append(member.name)
    if not callers:
        return ()
    said = "; ".join(
        f"{by_key[key].name} ({endpoint(by_key[key], by_key[key])}, UDP) has never answered {called('node', who)}"
        for key, who in callers.items()
    )
    message = f"{said}: let that port through the firewalls between, that of the node itself too, and forward it where a NAT is"
    return (Condition(type=MESH_BLOCKED, status="True", reason=Reason.NODE_FIREWALL, message=message),)


def _judge(
    nodes: tuple[NetworkNodeStatus, ...],
    access: tuple[NetworkAccessStatus, ...],
    reported: Mapping[str, _Reported],
    problems: Problems,
) -> Verdict:
    if problems.found:
        first = problems.found[0][0]
        return waiting(first, "; ".join(message for _, message in problems.found))
    down = [node.name for node in nodes if node.message == _AWAY]
    if down:
        return waiting(Reason.NODE_UNREACHABLE, f"nodes whose agent does not answer: {', '.join(down)}")
    late = [node for node in nodes if not node.ready]
    if late:
        told = "; ".join(f"{node.name}: {node.message}" if node.message else node.name for node in late)
        failed = any(reported[place].failed for node in late if (place := names.node_namespace(node.name)) in reported)
        reason = Reason.FAILED if failed else Reason.PROGRESSING
        return waiting(reason, f"{len(nodes) - len(late)} of {len(nodes)} nodes ready, waiting for {told}")
    keyless = [laptop.name for laptop in access if laptop.public_key is None]
    if keyless:  # its key is about to be made, and no node lets it in before
        return waiting(Reason.PROGRESSING, f"waiting for the key of laptop {', '.join(keyless)}")
    count = "1 node" if len(nodes) == 1 else f"{len(nodes)} nodes"
    return ready(f"{count} connected" if nodes else "no nodes yet: they join with their first machine")
