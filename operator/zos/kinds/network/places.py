"""Where nodes of a network are called: an address with a port leads to one node.

Nodes behind one NAT have an address in common. Each then needs ports of its own, which the NAT forwards to it.
"""

from __future__ import annotations

from collections.abc import Iterable

from zos.api.gridnode import Endpoint, PortRange
from zos.api.meta import Reason
from zos.kinds.network.problems import Problem, Problems, Rank, called
from zos.kinds.network.topology import Member

_Places = frozenset[tuple[str, int]]


class Taken:
    """Addresses with ports at which nodes are called, by node."""

    def __init__(self) -> None:
        self._nodes: dict[str, _Places] = {}

    def take(self, node: str, endpoint: Endpoint, port: int | None) -> None:
        self._nodes[node] = _places(endpoint, port)

    def to_be_left(self, node: str, endpoint: Endpoint, port: int | None, may_have: PortRange) -> bool:
        """Whether a node has to take another port than the one it has: another node is called there as well, and its
        administrator has given it other ports meanwhile."""
        if port is None or may_have.from_ <= port <= may_have.to:
            return False
        here = _places(endpoint, port)
        return any(here & places for name, places in self._nodes.items() if name != node)


def shared(members: Iterable[Member]) -> Problems:
    """Which nodes are called at one place."""
    here: dict[tuple[str, int], list[str]] = {}
    for member in members:
        for place in sorted(_places(Endpoint(ipv4=member.ipv4, ipv6=member.ipv6), member.listen_port)):
            here.setdefault(place, []).append(member.name)
    return tuple(
        Problem(
            Rank.PLACES,
            Reason.CONFLICT,
            f"{called('node', names)} have one endpoint, {address} port {port}: correct spec.endpoint of their GridNodes, "
            "or, where a NAT forwards to each, give each ports of its own in spec.wireguardPorts",
        )
        for (address, port), names in here.items()
        if len(names) > 1
    )


def _places(endpoint: Endpoint, port: int | None) -> _Places:
    return frozenset((address.lower(), port) for address in (endpoint.ipv4, endpoint.ipv6) if address and port)
