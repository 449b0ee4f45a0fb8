"""Sub-ranges of a network: a /24 for each node and each laptop, for the network's life."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network

from zos.api.meta import Reason
from zos.api.network import Network
from zos.api.text import is_name
from zos.kinds.network.problems import Problem, Problems, Rank
from zos.kinds.network.topology import subranges


@dataclass(frozen=True)
class Ranges:
    """Who has one; nodes and laptops may have the same names."""

    nodes: Mapping[str, str]
    laptops: Mapping[str, str]


@dataclass(frozen=True)
class _Holder:
    name: str
    laptop: bool = False

    def __str__(self) -> str:
        return f"{'laptop' if self.laptop else 'node'} {self.name}"


def allocate(network: Network, nodes: tuple[str, ...]) -> tuple[Ranges, Problems]:
    """What one has stays; what is asked for comes before what is free; laptops come first."""
    problems: list[Problem] = []
    had = {_Holder(entry.name, laptop=True): entry.subnet for entry in network.status.access}
    had |= {_Holder(entry.name): entry.subnet for entry in network.status.nodes}
    asked = {_Holder(entry.name, laptop=True): entry.subnet for entry in network.spec.access}
    asked |= {_Holder(name): None for name in nodes}
    asked |= {_Holder(node.name): node.subnet for node in network.spec.nodes if is_name(node.name)}
    given = {holder: had[holder] for holder in asked if holder in had}
    taken = {subnet: holder for holder, subnet in given.items()}
    refused: set[_Holder] = set()
    for holder, subnet in asked.items():
        if subnet is None or given.get(holder) == subnet:
            continue
        if holder in given:
            message = (
                f"{holder} has sub-range {given[holder]} for the network's life: it can't change to {subnet}, so set it back"
            )
            problems.append(Problem(Rank.RANGES, Reason.CONFLICT, message))
        elif subnet in taken:
            message = f"sub-range {subnet} asked for {holder} belongs to {taken[subnet]}: ask for another"
            problems.append(Problem(Rank.RANGES, Reason.CONFLICT, message))
            refused.add(holder)  # not to be given another one behind the user's back
        else:
            given[holder] = subnet
            taken[subnet] = holder
    free = (subnet for subnet in subranges(network.spec.ip_range) if subnet not in taken)
    without: list[_Holder] = []
    for holder in asked:
        if holder in given or holder in refused:
            continue
        found = next(free, None)
        if found is None:
            without.append(holder)
        else:
            given[holder] = found
            taken[found] = holder
    if without:
        total = (1 << (24 - IPv4Network(network.spec.ip_range).prefixlen)) - 2
        message = (
            f"all {total} sub-ranges of {network.spec.ip_range} are used: none left for {', '.join(map(str, without))}; "
            "remove nodes or laptops, or make a network with a larger range"
        )
        problems.append(Problem(Rank.RANGES, Reason.INSUFFICIENT_CAPACITY, message))
    return (
        Ranges(
            {holder.name: subnet for holder, subnet in given.items() if not holder.laptop},
            {holder.name: subnet for holder, subnet in given.items() if holder.laptop},
        ),
        tuple(problems),
    )
