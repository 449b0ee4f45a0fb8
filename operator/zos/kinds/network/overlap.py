"""What a network hides from its own members: whatever has an address in its range and is not in the network.

Inside the network its range leads to it, whatever is there outside. Most of that nothing in a network may reach anyway
(`egress`); a name server it needs, what an administrator has opened was meant for it, and a laptop has to reach its access node
past the tunnel.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, ip_network

from zos.api.gridnode import GridNode
from zos.api.meta import Reason
from zos.api.network import Network, NetworkAccessStatus, wireguard_range
from zos.kinds.network.problems import Problems
from zos.kinds.network.topology import Member
from zos.world.store import Reader


def told(
    network: Network, members: Iterable[Member], access: Iterable[NetworkAccessStatus], world: Reader, problems: Problems
) -> None:
    ranges = (IPv4Network(network.spec.ip_range), wireguard_range(network.spec.ip_range))
    called = {member.name: member.ipv4 for member in members}
    for name in called:
        servers, opened = world.view(GridNode, "", name, _needs) or ((), ())
        for range_ in ranges:
            if inside := _inside(servers, range_):
                problems.add(
                    Reason.CONFLICT,
                    f"node {name} asks name server {inside}, and in this network {range_} is the network's own: machines there "
                    "get no answer from it; name another in the node's resolv.conf, or make a network with another range",
                )
            if inside := _inside(opened, range_):
                problems.add(
                    Reason.CONFLICT,
                    f"GridNode {name} opens {inside} (spec.egress.allow), and in this network {range_} is the network's own: "
                    "machines there don't reach it; close it, or make a network with another range",
                )
    for entry in access:
        endpoint = called.get(entry.node or "")
        for range_ in ranges:
            if endpoint is not None and _inside((endpoint,), range_):
                problems.add(
                    Reason.CONFLICT,
                    f"laptop {entry.name}: the endpoint {endpoint} of its access node {entry.node} lies in {range_}, which its "
                    "file sends through the tunnel; set access[].node to another, or make a network with another range",
                )


def _needs(node: GridNode) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return node.status.nameservers, node.spec.egress.allow


def _inside(places: Iterable[str], range_: IPv4Network) -> str:
    """Those of the addresses and CIDRs that lie in the range, whole."""

    def lies(place: str) -> bool:
        found = ip_network(place.partition("%")[0])
        return isinstance(found, IPv4Network) and found.subnet_of(range_)

    return ", ".join(place for place in places if lies(place))
