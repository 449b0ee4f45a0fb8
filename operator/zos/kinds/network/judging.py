"""How a network stands: each of its nodes, and the whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set

from zos.api.meta import Reason
from zos.api.network import NetworkAccessStatus, NetworkNodeStatus
from zos.kinds.network.problems import Problem, worst_first
from zos.kinds.network.reports import Reports
from zos.kinds.network.topology import Member, endpoint
from zos.world.resolution import Verdict, ready, waiting

#: What is said of a node whose agent is away.
_AWAY = "its agent does not answer"


def nodes(
    ranges: Mapping[str, str],
    members: Mapping[str, Member],
    passing: Set[str | None],
    alive: Mapping[str, bool | None],
    reports: Reports,
) -> tuple[NetworkNodeStatus, ...]:
    """``ranges`` by node, of all that have one; ``passing`` are those that pass on what is for others."""
    return tuple(
        _node(name, subnet, members.get(name), name in passing, alive.get(name), reports) for name, subnet in ranges.items()
    )


def _node(
    name: str, subnet: str, member: Member | None, passing: bool, alive: bool | None, reports: Reports
) -> NetworkNodeStatus:
    away = alive is False
    return NetworkNodeStatus(
        name=name,
        subnet=subnet,
        public_key=member and member.public_key,
        listen_port=member and member.listen_port,
        endpoint=endpoint(member, member) if member and member.accessible else None,
        role="accessible" if member and member.accessible else "hidden",
        relay=passing,
        ready=reports[name].done and not away,
        message=_AWAY if away else reports[name].message,
    )


def verdict(
    nodes: tuple[NetworkNodeStatus, ...],
    laptops: Iterable[NetworkAccessStatus],
    alive: Mapping[str, bool | None],
    reports: Reports,
    problems: Iterable[Problem],
) -> Verdict:
    if found := worst_first(problems):
        return waiting(found[0].reason, "; ".join(problem.message for problem in found))
    if down := [node.name for node in nodes if alive.get(node.name) is False]:
        return waiting(Reason.NODE_UNREACHABLE, f"nodes whose agent does not answer: {', '.join(down)}")
    if late := [node for node in nodes if not node.ready]:
        told = "; ".join(f"{node.name}: {node.message}" if node.message else node.name for node in late)
        reason = Reason.FAILED if any(reports[node.name].failed for node in late) else Reason.PROGRESSING
        return waiting(reason, f"{len(nodes) - len(late)} of {len(nodes)} nodes ready, waiting for {told}")
    if keyless := [laptop.name for laptop in laptops if laptop.public_key is None]:
        # its key is about to be made, and no node lets it in before
        return waiting(Reason.PROGRESSING, f"waiting for the key of laptop {', '.join(keyless)}")
    count = "1 node" if len(nodes) == 1 else f"{len(nodes)} nodes"
    return ready(f"{count} connected" if nodes else "no nodes yet: they join with their first machine")
