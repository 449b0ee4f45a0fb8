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
from zos.kinds.network.problems import Problem, Problems, Rank, called
from zos.kinds.network.topology import Member
from zos.world.reader import Reader


def hidden(network: Network, members: Iterable[Member], access: Iterable[NetworkAccessStatus], world: Reader) -> Problems:
    ranges = (IPv4Network(network.spec.ip_range), wireguard_range(network.spec.ip_range))
    endpoints = {member.name: member.ipv4 for member in members}
    asking: dict[tuple[str, IPv4Network], list[str]] = {}
    opening: dict[tuple[str, IPv4Network], list[str]] = {}
    for name in endpoints:
        servers, opened = world.view(GridNode, "", name, _needs) or ((), ())
        for range_ in ranges:
            for needs, places in ((asking, servers), (opening, opened)):
                if inside := _inside(places, range_):
                    needs.setdefault((inside, range_), []).append(name)
    found = [
        f"name server {servers_inside} of {called('node', nodes)} can't be asked, since in this network {range_} is the "
        "network's own: name another in the node's resolv.conf, or make a network with another range"
        for (servers_inside, range_), nodes in asking.items()
    ]
    found += [
        f"{opened_inside}, opened by {called('GridNode', nodes)} (spec.egress.allow), can't be reached, since in this "
        f"network {range_} is the network's own: close it, or make a network with another range"
        for (opened_inside, range_), nodes in opening.items()
    ]
    found += [
        f"laptop {entry.name}: the endpoint {endpoint} of its access node {entry.node} lies in {range_}, which its "
        "file sends through the tunnel; set access[].node to another, or make a network with another range"
        for entry in access
        for range_ in ranges
        if (endpoint := endpoints.get(entry.node or "")) is not None and _inside((endpoint,), range_)
    ]
    return tuple(Problem(Rank.OVERLAP, Reason.CONFLICT, message) for message in found)


def _needs(node: GridNode) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return node.status.nameservers, node.spec.egress.allow


def _inside(places: Iterable[str], range_: IPv4Network) -> str:
    """Those of the addresses and CIDRs that lie in the range, whole."""

    def lies(place: str) -> bool:
        found = ip_network(place.partition("%")[0])
        return isinstance(found, IPv4Network) and found.subnet_of(range_)

    return ", ".join(place for place in places if lies(place))
