"""Who serves whom: the relay of hidden nodes, and the bridge between nodes without a common address family."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from zos.api.meta import Reason
from zos.api.network import Network
from zos.kinds.network.problems import Problem, Problems, Rank
from zos.kinds.network.topology import Member, bridges, divided


def relay(network: Network, members: Mapping[str, Member], alive: Mapping[str, bool | None]) -> tuple[str | None, Problems]:
    """The node that serves hidden nodes, and laptops that ask for none. It moves only when it dies or another is asked."""
    problems: list[Problem] = []
    asked, current = network.spec.relay, network.status.relay
    fit = [name for name, member in members.items() if member.ipv4]
    if asked is not None and asked not in fit:
        why = "is not a node of this network" if asked not in members else "has no IPv4 endpoint"
        problems.append(Problem(Rank.RELAY, Reason.INVALID_SPEC, f"relay {asked} {why}: name another in spec.relay"))
    found = _relay(fit, alive, asked, current, changed=network.metadata.generation != network.status.observed_generation)
    hidden = [member.name for member in members.values() if not member.accessible]
    if hidden and found is None:
        message = (
            f"no accessible node can be the relay: {', '.join(hidden)} cut off; add a node with an IPv4 endpoint to spec.nodes"
        )
        problems.append(Problem(Rank.CUT_OFF, Reason.DEPENDENCY_NOT_READY, message))
    return found, tuple(problems)


def _relay(
    fit: list[str], alive: Mapping[str, bool | None], asked: str | None, current: str | None, *, changed: bool
) -> str | None:
    if asked in fit and alive.get(asked) is not False and (current is None or changed):
        return asked
    if current in fit and alive.get(current or "") is not False:
        return current
    candidates = [name for name in (asked, *fit) if name in fit and alive.get(name)]
    if candidates:
        return candidates[0]
    return current if current in fit else next(iter(fit), None)


def bridge(network: Network, members: Mapping[str, Member], alive: Mapping[str, bool | None], relay: str | None) -> str | None:
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


def apart(pairs: Iterable[tuple[str, str]]) -> Problems:
    return tuple(
        Problem(
            Rank.APART,
            Reason.DEPENDENCY_NOT_READY,
            f"nodes {one} and {other} have no common address family: add a node with IPv4 and IPv6",
        )
        for one, other in pairs
    )
