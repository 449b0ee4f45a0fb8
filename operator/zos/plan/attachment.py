"""A program of ours with an address of its own in a private network, like a machine, but without a guest.

It has a network namespace to itself, with one interface, a port of the network's bridge in its router. Only what it serves can
be reached there, and what comes out of it is held to its own address, as for machines.
"""

from __future__ import annotations

from collections.abc import Collection

from zos.api import names
from zos.api.nodeworkload import Nic
from zos.plan import guard
from zos.plan.items import Bridge, Firewall, Item, Netns, Route, Veth


def attached(uid: str, owner: str, nic: Nic, *, tcp: Collection[int] = (), udp: Collection[int] = ()) -> tuple[Item, ...]:
    """What a service in the namespace ``names.resident(uid)`` stands on. ``owner`` is the NodeWorkload's name; ``tcp``
    and ``udp`` are the ports that others in the network may reach; nothing else is let in."""
    router, port = names.router(nic.network_uid), names.tap(uid)
    space, lan = Netns(owner=owner, name=names.resident(uid)), Bridge(netns=router, name="lan", mtu=nic.mtu)
    inside = Firewall(owner=owner, needs=(space.key,), netns=space.name, name=names.table(uid), body=_rules(tcp, udp))
    ground = (Netns(name=router).key, lan.key)
    rules = Firewall(
        owner=owner, needs=ground, netns=router, family="bridge", name=names.guard(port),
        body=guard.body(port, nic.mac, nic.ip, None),
    )  # fmt: skip
    link = Veth(
        owner=owner,
        needs=(space.key, inside.key, *ground, rules.key),
        netns=space.name,
        name=names.OWN_INTERFACE,
        peer_netns=router,
        peer_name=port,
        peer_bridge=lan.name,
        mtu=nic.mtu,
        addresses=(f"{nic.ip}/{nic.prefixlen}",),
        mac=nic.mac,
    )
    way = Route(
        owner=owner, needs=(link.key,), netns=space.name, destination="0.0.0.0/0", device=link.name, gateway=nic.gateway
    )
    return space, inside, rules, link, way


def _rules(tcp: Collection[int], udp: Collection[int]) -> str:
    served = "".join(
        f"  {protocol} dport {{ {', '.join(map(str, sorted(ports)))} }} accept\n"
        for protocol, ports in (("tcp", tcp), ("udp", udp))
        if ports
    )
    return f"""
chain input {{
  type filter hook input priority filter; policy drop;
  iifname "lo" accept
  ct state established,related accept
  icmp type {{ echo-request, destination-unreachable, time-exceeded }} accept
{served}}}
chain forward {{
  type filter hook forward priority filter; policy drop;
}}"""
