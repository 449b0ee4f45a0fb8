"""A machine's interfaces on its node: taps, what joins them to something there, and what guards them."""

from __future__ import annotations

from dataclasses import dataclass

from zos.api import names
from zos.kinds.zmachine.part import PUBLIC_MTU, MachineOnNode
from zos.plan import guard, wayout
from zos.plan.items import Bridge, Firewall, GuestNic, Netns, Segment, Tap, Veth


def nics(machine: MachineOnNode, uid: str) -> tuple[GuestNic, ...]:
    found = [
        GuestNic(tap=names.tap(uid, number), mac=nic.mac, network=nic.network_uid, mtu=nic.mtu, ipv4=nic.ip)
        for number, nic in enumerate(machine.nics)
    ]
    if (public := machine.public_nic) is not None:
        found.append(
            GuestNic(
                tap=names.tap(uid, len(found)),
                mac=public.mac,
                interface=public.interface,
                mtu=PUBLIC_MTU,
                ipv4=public.ipv4_address or "",
                ipv6=public.ipv6_address or "",
            )
        )
    return tuple(found)


@dataclass(frozen=True)
class Ports:
    """A machine's taps with what joins them to something and guards them there, and what else they stand on."""

    taps: tuple[Tap, ...]
    joined: tuple[Firewall | Veth, ...]
    segments: tuple[Segment, ...]


def wired(nics: tuple[GuestNic, ...], uid: str, owner: str) -> Ports:
    """A network's bridge is in its router, where no rules of the node's reach; taps stay in the node's namespace, where the
    guests are, whatever becomes of the router."""
    taps: list[Tap] = []
    joined: list[Firewall | Veth] = []
    segments: list[Segment] = []
    for index, nic in enumerate(nics):
        if nic.network:
            router = names.router(nic.network)
            netns, lan = Netns(name=router), Bridge(netns=router, name="lan", mtu=nic.mtu)
            rules = _guard(nic, owner=owner, needs=(netns.key,), netns=router)
            port = Veth(
                owner=owner,
                needs=(netns.key, lan.key, rules.key),
                name=names.wire(uid, index),
                peer_netns=router,
                peer_name=nic.tap,
                peer_bridge=lan.name,
                mtu=nic.mtu,
            )
            joined += [rules, port]
            taps.append(Tap(owner=owner, needs=(port.key, rules.key), name=nic.tap, wired_to=port.name, mtu=nic.mtu))
        else:
            segment, rules = Segment(owner=owner, interface=nic.interface), _guard(nic, owner=owner)
            segments.append(segment)
            joined.append(rules)
            taps.append(Tap(owner=owner, needs=(segment.key, rules.key), name=nic.tap, bridge=nic.interface, mtu=nic.mtu))
    return Ports(tuple(taps), tuple(joined), tuple(segments))


def _guard(nic: GuestNic, *, owner: str, needs: tuple[str, ...] = (), netns: str = "") -> Firewall:
    body = guard.body(nic.tap, nic.mac, nic.ipv4 or None, nic.ipv6 or None)
    if not netns:  # on a bridge of the node's
        body += wayout.bridged(nic.tap, [family for family, address in (("ip", nic.ipv4), ("ip6", nic.ipv6)) if address])
    return Firewall(owner=owner, needs=needs, netns=netns, family="bridge", name=names.guard(nic.tap), body=body)
