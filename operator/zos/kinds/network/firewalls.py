"""What firewalls keep from a network: its machines from the Internet, its nodes from each other."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from zos.api.meta import Condition, Reason
from zos.api.network import EGRESS_BLOCKED, MESH_BLOCKED
from zos.kinds.network.problems import called
from zos.kinds.network.reports import Reports
from zos.kinds.network.topology import Member, endpoint


def shut(nodes: Iterable[str], alive: Mapping[str, bool | None], reports: Reports) -> tuple[Condition, ...]:
    """Machines reach each other, but on some nodes not the Internet."""
    said = [f"{name}: {why}" for name in nodes if alive.get(name) is not False and (why := reports[name].shut) is not None]
    if not said:
        return ()
    return (Condition(type=EGRESS_BLOCKED, status="True", reason=Reason.NODE_FIREWALL, message="; ".join(said)),)


def silent(members: Collection[Member], alive: Mapping[str, bool | None], reports: Reports) -> tuple[Condition, ...]:
    """Nodes that others called over WireGuard and that never answered, although their agents live."""
    by_key = {member.public_key: member for member in members}
    callers: dict[str, list[str]] = {}
    for member in members:
        for key in sorted(reports[member.name].silent & by_key.keys()):
            if by_key[key].accessible and alive.get(member.name) and alive.get(by_key[key].name):
                callers.setdefault(key, []).append(member.name)
    if not callers:
        return ()
    said = "; ".join(
        f"{by_key[key].name} ({endpoint(by_key[key], by_key[key])}, UDP) has never answered {called('node', who)}"
        for key, who in callers.items()
    )
    message = f"{said}: let that port through the firewalls between, that of the node itself too, and forward it where a NAT is"
    return (Condition(type=MESH_BLOCKED, status="True", reason=Reason.NODE_FIREWALL, message=message),)
