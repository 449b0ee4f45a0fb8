"""What a network's residents are called in it, for its resolvers: ``<name>`` and ``<name>.<network>.zos``.

Only nodes are told from which somebody may ask, those where a resident has its address or that let in a laptop that wants it:
to all others a machine that comes or goes is no news.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from zos.api import names
from zos.api.meta import Condition, Reason
from zos.api.network import NAMES_MISSING, Network, NetworkAccessStatus, NetworkAddress
from zos.api.text import is_name
from zos.kinds.network.part import MOST_NAMES, NameOnNode, NamesOnNode
from zos.world import residents
from zos.world.reader import Reader


def told(
    network: Network, addresses: Sequence[NetworkAddress], access: Iterable[NetworkAccessStatus], world: Reader
) -> tuple[dict[str, NamesOnNode], tuple[Condition, ...]]:
    """The same for all nodes that have it, by node; and that there are more than a node takes."""
    asking = {laptop.name for laptop in network.spec.access if laptop.dns}
    nodes = {entry.node for entry in addresses} | {entry.node for entry in access if entry.name in asking and entry.node}
    if not nodes:
        return {}, ()
    found = _records(network, addresses, world)
    known = NamesOnNode(domain=names.domain_name(network.name), names=found[:MOST_NAMES])
    return dict.fromkeys(sorted(nodes), known), _beyond(found)


def _beyond(found: Sequence[NameOnNode]) -> tuple[Condition, ...]:
    if len(found) <= MOST_NAMES:
        return ()
    first, more = found[MOST_NAMES].name, len(found) - MOST_NAMES
    message = (
        f"{len(found)} names are {more} more than a node takes: those from {first} on, by the alphabet, can't be resolved, and "
        "those machines are reached by their addresses only; have several networks"
    )
    return (Condition(type=NAMES_MISSING, status="True", reason=Reason.INSUFFICIENT_CAPACITY, message=message),)


def _records(network: Network, addresses: Iterable[NetworkAddress], world: Reader) -> tuple[NameOnNode, ...]:
    """Of those that live, or of whom it can't be told: what only lingers on its node has left its name to the next. Of two
    with one name a machine has it, else the kind that comes first in the alphabet."""
    living = {one.uid for one in residents.living(world, network.namespace, network.name)}
    found: dict[str, NetworkAddress] = {}
    for entry in sorted(addresses, key=_rank):
        if is_name(entry.owner.name) and (
            entry.uid in living or residents.lives(world, network.namespace, entry.owner) is None
        ):
            found.setdefault(names.hostname(entry.owner.name), entry)
    return tuple(NameOnNode(name=name, ip=found[name].ip) for name in sorted(found))


def _rank(entry: NetworkAddress) -> tuple[bool, str, str]:
    return entry.owner.kind != "ZMachine", entry.owner.kind, entry.ip
