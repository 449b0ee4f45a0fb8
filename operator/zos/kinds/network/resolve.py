"""Network: which nodes and laptops belong to it, what each owns, and who serves whom."""

from __future__ import annotations

from collections.abc import Iterable

from zos.api.gridnode import GridNode
from zos.api.meta import Reason
from zos.api.network import Network, NetworkStatus
from zos.kinds.network import (
    egress,
    firewalls,
    judging,
    laptops,
    membership,
    naming,
    overlap,
    places,
    ranges,
    reports,
    seats,
    serving,
)
from zos.kinds.network.part import NamesOnNode, NetworkOnNode, Peer
from zos.kinds.network.problems import Problem, Problems, Rank
from zos.kinds.network.topology import Caller, Member, topology, wireguard_address
from zos.world import asking, heartbeat, placement, residents
from zos.world.heartbeat import Heartbeat
from zos.world.objects import Indexes
from zos.world.reader import Reader
from zos.world.residents import Resident
from zos.world.resolution import Resolution, Verdict, Workload, waiting

INDEXES = (
    *asking.INDEXES,
    *placement.INDEXES,
    *membership.INDEXES,
    *egress.INDEXES,
    *reports.INDEXES,
    *laptops.INDEXES,
    Indexes(Heartbeat),
)


def resolve(network: Network, world: Reader) -> Resolution:
    here, addresses = membership.residents_of(network, world)
    if network.deleting:
        return _deleting(network, here, world)
    wanted, astray = membership.nodes(network, here, world)
    given, crowded = ranges.allocate(network, wanted)
    placed = {name: given.nodes[name] for name in wanted if name in given.nodes}
    told = reports.of_nodes(network, wanted, world)
    alive = {name: heartbeat.alive(world, name) for name in wanted}
    taken, seatless = seats.take(network, placed, told, world)
    members = {
        name: Member(name, placed[name], seat.public_key, seat.port, seat.endpoint.ipv4, seat.endpoint.ipv6)
        for name, seat in taken.items()
    }
    relay, unserved = serving.relay(network, members, alive)
    found, unconnected = laptops.access(network, members, given.laptops, relay, alive, world)
    access = tuple(laptop.entry for laptop in found)
    callers = [
        Caller(entry.name, entry.subnet, entry.public_key, entry.node)
        for entry in access
        if entry.public_key and entry.node in members
    ]
    relays = {name: relay for name, member in members.items() if relay is not None and not member.accessible}
    bridge = serving.bridge(network, members, alive, relay)
    mesh = topology(network.spec.ip_range, members.values(), callers, relays, bridge)
    called, uncalled = naming.told(network, addresses, access, world)
    asked = {
        name: _on_node(network, member, mesh.peers[name], called.get(name), world)
        for name, member in members.items()
        if taken[name].exists
    }
    problems = (
        *(*astray, *crowded, *seatless, *_unasked(asked.values()), *unserved, *unconnected),
        *(*serving.apart(mesh.apart), *places.shared(members.values())),
        *overlap.hidden(network, members.values(), access, world),
    )
    nodes = judging.nodes(placed, members, {*relays.values(), bridge}, alive, told)
    return Resolution(
        verdict=judging.verdict(nodes, access, alive, told, problems),
        status=NetworkStatus(
            nodes=nodes,
            access=access,
            addresses=addresses,
            relay=relay if relays or access else None,
            ready_nodes=f"{sum(node.ready for node in nodes)}/{len(wanted)}",
        ),
        conditions=(
            *firewalls.shut(placed, alive, told),
            *firewalls.silent(members.values(), alive, told),
            *reports.nameless(placed, alive, told),
            *uncalled,
        ),
        guarded=True,
        holds=tuple(
            placement.hold(network, name, listen_port=seat.port, public_key=seat.public_key)
            for name, seat in taken.items()
            if seat.exists
        ),
        releases=tuple(GridNode.key_of("", node.name) for node in network.status.nodes if node.name not in wanted),
        secrets=laptops.secrets(network, members, found),
        workloads=(
            *(workload for workload in asked.values() if isinstance(workload, Workload)),
            # Of the others it is not known how they should be, or they can't be told, which is not "not wanted".
            *(Workload(name, None) for name in wanted if not isinstance(asked.get(name), Workload)),
        ),
        notices=tuple(seat.notice for seat in taken.values() if seat.notice is not None),
    )


def _unasked(answers: Iterable[Workload | Verdict]) -> Problems:
    """Why nodes can't be asked for their part."""
    return tuple(Problem(Rank.SEATS, why.reason, why.message) for why in answers if isinstance(why, Verdict))


def _deleting(network: Network, here: tuple[Resident, ...], world: Reader) -> Resolution:
    """Waits for residents, but not for what nodes still have of those that are gone: its user does not want it either."""
    users = tuple(str(one) for one in here if residents.lives(world, network.namespace, one) is not False)
    message = f"waiting for {', '.join(users)} to be deleted" if users else "being removed from its nodes"
    return Resolution(
        verdict=waiting(Reason.DELETION_BLOCKED if users else Reason.DELETING, message),
        releases=tuple(GridNode.key_of("", node.name) for node in network.status.nodes),
        waits_for=users,
    )


def _on_node(
    network: Network, member: Member, peers: tuple[Peer, ...], called: NamesOnNode | None, world: Reader
) -> Workload | Verdict:
    part = NetworkOnNode(
        ip_range=network.spec.ip_range,
        mtu=network.spec.mtu,
        subnet=member.subnet,
        wireguard_address=str(wireguard_address(member.subnet)),
        listen_port=member.listen_port,
        public_key=member.public_key,
        peers=peers,
        egress=egress.of_node(member.name, world),
        names=called,
    )
    return asking.asked(world, member.name, part)
