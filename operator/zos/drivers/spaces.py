"""Network namespaces as the kernel shows them: what of ours is in them, in the node's vocabulary."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from ipaddress import ip_interface
from typing import Any

from zos.api import names
from zos.drivers import DriverError, addresses, netns, wire
from zos.drivers.devices import ALIAS, GROUP_FORWARD, SEGMENT, Link
from zos.drivers.routes import ROUTE_PROTOCOL
from zos.plan.diff import Observed
from zos.plan.items import Bridge, Item, Route, Tap, Veth

#: Names of interfaces of ours that may be ends of a wire (`zos.drivers.wire`).
_WIRED = re.compile(r"[tv]-[a-z2-7]{10}-\d+")
_AF_INET = 2


class Space:
    """A namespace as the kernel shows it."""

    def __init__(self, name: str, links: list[Link], messages: list[Any], routes: list[Any]) -> None:
        self.name = name
        self.links = {link.index: link for link in links}
        self.by_name = {link.name: link for link in links}
        self.routes = [message for message in routes if message["proto"] == ROUTE_PROTOCOL]
        self._addresses = addresses.working(messages, routes)

    def addresses(self, link: Link, wanted: Sequence[str]) -> tuple[str, ...]:
        """In the words of ``wanted`` where they mean the same."""
        found = self._addresses.get(link.index, frozenset())
        if found == {str(ip_interface(address)) for address in wanted}:
            return tuple(wanted)
        return tuple(sorted(found))


async def look(name: str) -> Space | None:
    """None: the namespace went away meanwhile."""
    try:
        async with netns.netlink(name) as sock:
            links = [Link(name, message) async for message in await sock.get_links()]
            for link in links:
                if not name and _WIRED.fullmatch(link.name):
                    link.leads_to = await wire.leads_to(sock, link.index)
            messages = [message async for message in await sock.get_addr()]
            routes = [message async for message in await sock.get_routes(table=netns.MAIN_TABLE)]
            return Space(name, links, messages, routes)
    except (DriverError, FileNotFoundError):
        return None


def link_of(link: Link, spaces: Mapping[str, Space], plan: Mapping[str, Item]) -> Observed | None:
    """What a link of ours in the node's own namespace, or a router's bridge, amounts to; None: not an affair of this driver."""
    space = spaces[link.space]
    key = f"link/{link.space}/{link.name}"
    wanted = plan.get(key)
    item: Item | None = None
    whole = link.up and link.alias.startswith(ALIAS)
    master = space.links.get(link.master)
    bridge = master.name if master is not None else None
    if isinstance(wanted, Tap) and wanted.bridge is not None and bridge == names.segment(wanted.bridge):
        bridge = wanted.bridge
    match link.kind:
        case "bridge" if SEGMENT.fullmatch(link.name):
            return None
        case "bridge":
            found = space.addresses(link, wanted.addresses if isinstance(wanted, Bridge) else ())
            item = Bridge(netns=link.space, name=link.name, mtu=link.mtu, addresses=found) if whole else None
        case "tun" if link.tap and bridge is not None:
            right = whole and link.group_forward == GROUP_FORWARD
            stays = isinstance(wanted, Tap) and wanted.bridge is not None
            item = Tap(name=link.name, bridge=bridge, mtu=link.mtu) if right or not stays else None
        case "tun" if link.tap:
            end = space.links.get(link.leads_to) if link.leads_to is not None else None
            whole = whole and link.master is None and end is not None and end.leads_to == link.index
            item = Tap(name=link.name, wired_to=end.name, mtu=link.mtu) if whole and end is not None else None
        case "veth":
            item = _veth_of(link, bridge, spaces, wanted) if whole else None
        case _:
            return None
    return Observed(key, item, link.owner)


def _veth_of(link: Link, bridge: str | None, spaces: Mapping[str, Space], wanted: Item | None) -> Veth | None:
    for space in spaces.values():
        peer = space.links.get(link.peer)
        if peer is None or peer.kind != "veth" or peer.peer != link.index or not peer.up or peer.alias != link.alias:
            continue
        if peer is link or peer.mtu != link.mtu:
            continue
        master = space.links.get(peer.master)
        if master is not None and peer.group_forward != GROUP_FORWARD:
            master = None
        near = wanted.addresses if isinstance(wanted, Veth) else ()
        far = wanted.peer_addresses if isinstance(wanted, Veth) else ()
        return Veth(
            netns=link.space,
            name=link.name,
            peer_netns=space.name,
            peer_name=peer.name,
            mtu=link.mtu,
            bridge=bridge,
            peer_bridge=master.name if master is not None else None,
            addresses=spaces[link.space].addresses(link, near),
            peer_addresses=space.addresses(peer, far),
            mac=link.mac if _has_its_mac(link, wanted) else None,
        )
    return None


def _has_its_mac(link: Link, wanted: Item | None) -> bool:
    """Whether its MAC was given to it: as is wanted; where nobody wants anything, by its name, which programs' interfaces in
    networks have. They keep their addresses for as long as they are there."""
    return wanted.mac is not None if isinstance(wanted, Veth) else link.name == names.OWN_INTERFACE


def route_of(message: Any, space: Space) -> Route | None:
    device = space.links.get(message.get_attr("RTA_OIF"))
    if device is None:
        return None
    anywhere = "0.0.0.0" if message["family"] == _AF_INET else "::"
    destination = f"{message.get_attr('RTA_DST') or anywhere}/{message['dst_len']}"
    gateway = message.get_attr("RTA_GATEWAY")
    return Route(netns=space.name, destination=destination, device=device.name, gateway=str(gateway) if gateway else None)
