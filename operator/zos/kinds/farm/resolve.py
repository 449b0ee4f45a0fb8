"""Farm: counts its addresses, and says where it is at odds with another farm or with what is held."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address, IPv6Interface
from itertools import chain

from zos.api.contract import Claim
from zos.api.farm import AddressCount, Farm, FarmStatus, PrefixCount
from zos.api.gridnode import GridNode
from zos.api.meta import Reason
from zos.api.publicip import PublicIP
from zos.world import indexes
from zos.world.objects import Indexes
from zos.world.reader import Reader
from zos.world.resolution import Resolution, Verdict, ready, waiting

INDEXES = (
    Indexes(Farm),
    Indexes(GridNode, {"farm": lambda node: [node.spec.farm] if node.spec.farm else []}),
    indexes.CLAIMS,
    Indexes(PublicIP, {"farm": lambda ip: [ip.status.farm] if ip.status.farm else []}),
)


def resolve(farm: Farm, world: Reader) -> Resolution:
    held = frozenset(world.parts(Claim, held_of=farm.name))
    if farm.deleting:
        return _deleting(farm, held)
    total = farm.spec.size
    given = farm.spec.given(held)
    others = world.views(Farm, lambda other: () if other.name == farm.name else other.status.out_of_range)
    lent = farm.spec.among(chain.from_iterable(others))  # another farm's once, and held there still
    nodes = world.views(GridNode, lambda node: (node.name, node.endpoint.ipv4), farm=farm.name)
    their_own = {number: name for name, ip in nodes if ip for number in farm.spec.among([ip])}
    taken = world.views(PublicIP, lambda ip: ip.status.ipv6 and ip.status.ipv6.address, farm=farm.name)
    ipv6 = [IPv6Interface(address).ip for address in taken if address]
    prefixes = [prefix.network for prefix in farm.spec.public_ipv6]
    outside: list[IPv4Address | IPv6Address] = [*map(IPv4Address, sorted(held - given))]
    outside += sorted(IPv6Address(ip) for ip in ipv6 if not any(ip in prefix for prefix in prefixes))
    return Resolution(
        verdict=_judge(farm, world, outside, held, their_own),
        status=FarmStatus(
            ipv4=AddressCount(total=total, held=len(held), free=total - len(given | lent | their_own.keys())),
            ipv6=PrefixCount(prefixes=len(farm.spec.public_ipv6), held=len(ipv6)),
            out_of_range=tuple(str(address) for address in outside),
        ),
    )


def _deleting(farm: Farm, held: frozenset[int]) -> Resolution:
    count = len(held)
    return Resolution(
        verdict=waiting(Reason.DELETING, "waiting for its addresses to be released" if held else "being deleted"),
        waits_for=(f"contracts that hold {count} of its addresses, among them {IPv4Address(min(held))}",) if held else (),
    )


def _judge(
    farm: Farm,
    world: Reader,
    outside: list[IPv4Address | IPv6Address],
    held: frozenset[int],
    nodes: Mapping[int, str],
) -> Verdict:
    """``nodes``: which node has which of the farm's addresses itself."""
    wrong = [
        f"gateway {range_.gateway} is the broadcast address of {range_.range}: choose another"
        for range_ in farm.spec.public_ipv4
        if range_.network.prefixlen < 31 and range_.gateway == str(range_.network.broadcast_address)
    ]
    if wrong:
        return waiting(Reason.INVALID_SPEC, "; ".join(wrong))
    conflicts = [*_inside(farm), *_between(farm, world), *_with_nodes(held, nodes)]
    if conflicts:
        return waiting(Reason.CONFLICT, "; ".join(conflicts))
    if outside:
        some = ", ".join(map(str, outside[:5])) + (" …" if len(outside) > 5 else "")
        return ready(f"{len(outside)} held addresses are in no range any more and are kept until released: {some}")
    return ready()


def _with_nodes(held: frozenset[int], nodes: Mapping[int, str]) -> Iterator[str]:
    for number in sorted(held & nodes.keys()):
        yield (
            f"{IPv4Address(number)} is held by a contract and the endpoint of GridNode {nodes[number]}: "
            "delete what has it, or give the node another address"
        )


def _inside(farm: Farm) -> Iterator[str]:
    ranges = farm.spec.public_ipv4
    for number, range_ in enumerate(ranges):
        for other in ranges[:number]:
            if range_.network.overlaps(other.network):
                yield f"ranges {other.range} and {range_.range} overlap: remove one of them"


def _between(farm: Farm, world: Reader) -> Iterator[str]:
    for name, spec in world.views(Farm, lambda other: (other.name, other.spec)):
        if name == farm.name:
            continue
        for mine, theirs in farm.spec.overlaps(spec):
            yield f"{mine} of farm {farm.name} overlaps {theirs} of farm {name}: change one of them"
