"""Who talks to whom: members of a network in, the WireGuard peers of each out.

The rules are those of the API's documentation. own(x) is what a member answers for itself: its sub-range and its WireGuard
address. NA(q) is what hidden nodes and laptops that q serves own. Everything here is a value.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from zos.api.network import wireguard_range
from zos.kinds.network.part import Peer

HIDDEN_KEEPALIVE = 20
LAPTOP_KEEPALIVE = 25


@dataclass(frozen=True)
class Member:
    """A node of the network. Without addresses it is hidden: it calls others, nobody calls it."""

    name: str
    subnet: str
    public_key: str
    listen_port: int
    ipv4: str | None = None
    ipv6: str | None = None

    @property
    def accessible(self) -> bool:
        return bool(self.ipv4 or self.ipv6)


@dataclass(frozen=True)
class Caller:
    """A hidden node or a laptop: reached only through the node that serves it."""

    name: str
    subnet: str
    public_key: str
    server: str


def wireguard_address(subnet: str) -> IPv4Address:
    """``a.b.c.0/24`` → ``100.64.b.c``."""
    _, b, c, _ = IPv4Network(subnet).network_address.packed
    return IPv4Address(bytes([100, 64, b, c]))


def own(subnet: str) -> tuple[str, str]:
    return subnet, f"{wireguard_address(subnet)}/32"


def endpoint(member: Member, caller: Member | None = None) -> str | None:
    """Where ``caller`` (None: anyone with IPv4) reaches a node: IPv4 before IPv6; None without a common family."""
    if member.ipv4 and (caller is None or caller.ipv4):
        return f"{member.ipv4}:{member.listen_port}"
    if member.ipv6 and caller is not None and caller.ipv6:
        return f"[{member.ipv6.lower()}]:{member.listen_port}"
    return None


@dataclass(frozen=True)
class Topology:
    """Peers of every node; pairs of accessible nodes that can't reach each other (no common family, nobody with both)."""

    peers: Mapping[str, tuple[Peer, ...]]
    apart: tuple[tuple[str, str], ...] = ()


def topology(
    ip_range: str, members: Iterable[Member], laptops: Iterable[Caller], relays: Mapping[str, str], bridge: str | None = None
) -> Topology:
    """``relays`` says which accessible node serves each hidden one; a hidden node that has none gets no peers. ``bridge`` is
    the node with both families that joins those with only one (None: the first); the same for both directions, so packets
    come back the way they went."""
    nodes = {member.name: member for member in sorted(members, key=lambda member: member.name)}
    accessible = [member for member in nodes.values() if member.accessible]
    bridge = bridge or next(iter(bridges(accessible)), None)
    hidden = [member for member in nodes.values() if not member.accessible]
    callers = [
        *(
            Caller(member.name, member.subnet, member.public_key, relays[member.name])
            for member in hidden
            if relays.get(member.name) in nodes
        ),
        *sorted((laptop for laptop in laptops if laptop.server in nodes), key=lambda laptop: laptop.name),
    ]
    served: dict[str, list[Caller]] = {}
    for caller in callers:
        served.setdefault(caller.server, []).append(caller)
    answers = {
        member.name: (*own(member.subnet), *(entry for caller in served.get(member.name, ()) for entry in own(caller.subnet)))
        for member in accessible
    }
    made: dict[tuple[str, str | None, tuple[str, ...]], Peer] = {}

    def peer(key: str, place: str | None, allowed: tuple[str, ...]) -> Peer:
        """One value for all who have the same peer: of n nodes almost all n² are."""
        found = made.get((key, place, allowed))
        if found is None:
            found = made[key, place, allowed] = Peer(public_key=key, endpoint=place, allowed_ips=allowed)
        return found

    peers: dict[str, tuple[Peer, ...]] = {}
    apart: list[tuple[str, str]] = []
    for member in accessible:
        direct, unreached = _direct(member, accessible)
        beyond: list[str] = []
        for other in unreached:
            if bridge is None:
                apart.append((member.name, other.name))
            else:
                beyond += answers[other.name]
        answer = {**answers, bridge: (*answers[bridge], *beyond)} if bridge is not None and beyond else answers
        peers[member.name] = _sorted(
            [
                *(peer(other.public_key, place, answer[other.name]) for other, place in direct),
                *(peer(caller.public_key, None, own(caller.subnet)) for caller in served.get(member.name, ())),
            ]
        )
    for member in hidden:
        relay = nodes.get(relays.get(member.name, ""))
        peers[member.name] = (
            ()
            if relay is None
            else (
                Peer(
                    public_key=relay.public_key,
                    endpoint=endpoint(relay),
                    allowed_ips=(ip_range, str(wireguard_range(ip_range))),
                    keepalive=HIDDEN_KEEPALIVE,
                ),
            )
        )
    return Topology(peers, tuple(pair for pair in apart if pair[0] < pair[1]))


def _direct(member: Member, accessible: Sequence[Member]) -> tuple[list[tuple[Member, str]], list[Member]]:
    """The nodes that are directly reachable, and where; and those that are not."""
    direct: list[tuple[Member, str]] = []
    unreached: list[Member] = []
    for other in accessible:
        if other.name == member.name:
            continue
        if (place := endpoint(other, member)) is None:
            unreached.append(other)
        else:
            direct.append((other, place))
    return direct, unreached


def divided(members: Iterable[Member]) -> bool:
    """Whether some accessible nodes have no address family in common with others."""
    families = {(bool(member.ipv4), bool(member.ipv6)) for member in members}
    return {(True, False), (False, True)} <= families


def bridges(members: Iterable[Member]) -> tuple[str, ...]:
    """The nodes that reach, and are reached by, nodes of either address family."""
    return tuple(member.name for member in members if member.ipv4 and member.ipv6)


def _sorted(peers: Iterable[Peer]) -> tuple[Peer, ...]:
    return tuple(sorted(peers, key=lambda peer: peer.public_key))


def laptop_file(
    ip_range: str, subnet: str, server: Member, private_key: str | None, mtu: int, domain: str | None = None
) -> str:
    """A wg-quick file (wg-quick(8)). Without a private key there is a line that says where to put one's own. It claims what is
    the network's and no more: wg-quick makes a route of each claim, and fails where another interface has that. With
    ``domain`` the network's resolver is its own, where it connects to."""
    key = f"PrivateKey = {private_key}" if private_key else "# PrivateKey = the private half of the publicKey that you gave"
    return "\n".join(
        [
            "[Interface]",
            key,
            f"Address = {wireguard_address(subnet)}/32",
            f"MTU = {mtu}",
            *([f"DNS = {IPv4Network(server.subnet)[1]}, {domain}"] if domain else []),
            "",
            "[Peer]",
            f"PublicKey = {server.public_key}",
            f"Endpoint = {endpoint(server)}",
            f"AllowedIPs = {ip_range}, {wireguard_range(ip_range)}",
            f"PersistentKeepalive = {LAPTOP_KEEPALIVE}",
            "",
        ]
    )


def subranges(ip_range: str) -> Iterator[str]:
    """Every /24 that may be given by itself: from the third one of the range on."""
    first, *rest = ip_range.split("/")
    base = int(IPv4Address(first))
    for index in range(2, 1 << (24 - int(rest[0]))):
        yield f"{IPv4Address(base + (index << 8))}/24"
