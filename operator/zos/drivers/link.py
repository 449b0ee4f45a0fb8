"""Network namespaces, bridges, veth pairs, taps and routes, by netlink.

Whose an interface is stands in its alias, whose a namespace is in the alias of its loopback. Routes are ours by their
protocol number.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_interface, ip_network
from pathlib import Path
from typing import Any, ClassVar

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from zos.api import names
from zos.drivers import DriverError, addresses, netns, news, wire
from zos.drivers.looks import Looks
from zos.drivers.news import News, Watch
from zos.drivers.process import ProcessError, run
from zos.plan.diff import Observed, Op
from zos.plan.items import Bridge, Item, Netns, Route, Tap, Veth

ALIAS = "zos:"
#: Routes with this protocol number are ours (iproute2 leaves 3..255 to administrators; /etc/iproute2/rt_protos).
ROUTE_PROTOCOL = 122
#: Names that api/names.py gives to links in the node's own namespace: ours even where a crash left no alias.
_NAME = re.compile(r"[blu]-[a-z2-7]{10}|[tv]-[a-z2-7]{10}-\d+")
#: Those among them that may be ends of a wire (`zos.drivers.wire`).
_WIRED = re.compile(r"[tv]-[a-z2-7]{10}-\d+")
#: In routers that older agents made ``lan`` is the far end of a pair, and the network's bridge is in the node's namespace with
#: the near end and the taps. Until no tap is there any more, the pair joins that bridge to the router's own, under this name.
_FORMER = "lan-former"
#: Bridges on the segments of the node's own NICs: drivers/segment.py.
SEGMENT = re.compile(r"p-[a-z2-7]{10}")
#: For machines' ports: frames to 01:80:c2:00:00:03 to 0f go the way of all frames, and so through the guard. Left to itself
#: the bridge keeps them (IEEE 802.1D), without asking any hook in the case of LLDP, but learns their sender all the same: a
#: forged one would bring a machine its neighbour's traffic.
GROUP_FORWARD = 0xFFF8
_IFF_UP = 1
_AF_INET, _AF_INET6 = 2, 10


class Link:
    """An interface as the kernel shows it."""

    def __init__(self, space: str, message: Any) -> None:
        self.space = space
        self.index = int(message["index"])
        self.leads_to: int | None = None
        self.up = bool(message["flags"] & _IFF_UP)
        self.name = str(message.get_attr("IFLA_IFNAME"))
        self.mtu = int(message.get_attr("IFLA_MTU") or 0)
        self.alias = str(message.get_attr("IFLA_IFALIAS") or "")
        self.master = message.get_attr("IFLA_MASTER")
        self.group_forward = message.get_nested("IFLA_LINKINFO", "IFLA_INFO_SLAVE_DATA", "IFLA_BRPORT_GROUP_FWD_MASK")
        self.peer = message.get_attr("IFLA_LINK")
        self.mac = str(message.get_attr("IFLA_ADDRESS") or "")
        self.kind = str(message.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") or "")
        self.tap = message.get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA", "IFLA_TUN_TYPE") == 2

    @property
    def owner(self) -> str:
        return self.alias.removeprefix(ALIAS) if self.alias.startswith(ALIAS) else ""

    @property
    def ours(self) -> bool:
        return self.alias.startswith(ALIAS) or _NAME.fullmatch(self.name) is not None


class _Space:
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


class LinkDriver:
    ITEMS: ClassVar[tuple[type[Item], ...]] = (Netns, Bridge, Veth, Tap, Route)
    SLOW: ClassVar[bool] = False

    def __init__(self) -> None:
        self._watch: Watch | None = None
        self._looks = Looks(_look)
        self._own: frozenset[int] = frozenset()  # interfaces of ours in the node's own namespace

    async def observe(self, wanted: Sequence[Item]) -> Mapping[str, Observed]:
        ours = netns.ours()
        if self._watch is not None:
            self._watch.follow(ours)
        seen = await self._looks.see(("", *sorted(ours)))
        spaces = {name: space for name, space in seen.items() if space is not None}
        self._own = frozenset(link.index for link in spaces[""].links.values() if _is_ours(link.name, link.alias))
        plan = {item.key: item for item in wanted}
        observed: dict[str, Observed] = {}
        for space in spaces.values():
            if space.name:
                lo = space.by_name.get("lo")
                item = Netns(name=space.name) if lo is not None and lo.up and lo.alias.startswith(ALIAS) else None
                key = f"netns/{space.name}"
                observed[key] = Observed(key, item, lo.owner if lo is not None else "")
            for link in space.links.values():
                here = not space.name or link.kind == "bridge"
                if link.ours and here and (seen_item := _item_of(link, spaces, plan)) is not None:
                    observed[seen_item.key] = seen_item
            for route in space.routes:
                if (found := _route_of(route, space)) is not None:
                    whose = space.by_name.get("lo")  # a route has no room for a mark: it goes with its namespace
                    observed[found.key] = Observed(found.key, found, whose.owner if whose is not None else "")
        return observed

    async def apply(self, op: Op) -> None:
        try:
            match op.item:
                case None:
                    await self._remove(op)
                case Netns():
                    await _make_netns(op.item)
                case Bridge():
                    await _make_bridge(op.item)
                case Tap():
                    await _make_tap(op.item)
                case Veth():
                    await _make_veth(op.item)
                case Route():
                    await _make_route(op.item)
                case _:
                    raise AssertionError(op)
        except NetlinkError as error:
            raise DriverError(f"{op.key}: {os.strerror(error.code)}") from error
        except (OSError, ProcessError) as error:
            raise DriverError(f"{op.key}: {error}") from error
        finally:
            for place in _places(op):
                self._looks.stir(place)

    def watch(self, dirty: Callable[[], None]) -> None:
        groups = (news.LINKS, news.ADDRESSES, news.ADDRESSES6, news.ROUTES, news.ROUTES6, news.TRAFFIC)
        self._watch = Watch(netns.ROUTE, groups, self._matters, dirty, self._looks.stir)
        self._looks.keep()

    def distrust(self) -> None:
        self._looks.doubt()

    async def close(self) -> None:
        if self._watch is not None:
            self._watch.close()

    def _matters(self, said: News) -> bool:
        """A namespace of ours is ours altogether; of the node's own only what we made. (An interface of ours stays one, in
        whatever name it changes.)"""
        if said.space or said.index in self._own:
            return True
        if _is_ours(said.name, said.alias):
            self._own |= {said.index}
            return True
        return False

    async def _remove(self, op: Op) -> None:
        kind, _, rest = op.key.partition("/")
        if kind == "netns":
            if rest in netns.ours():
                await run("ip", "netns", "delete", rest)
            return
        space, _, name = rest.partition("/")
        if space and space not in netns.ours():
            return
        async with netns.netlink(space) as sock:
            if kind == "route":
                await _delete_route(sock, name)
            else:
                for index in await sock.link_lookup(ifname=name):
                    await gone_is_fine(sock.link("del", index=index))


def _is_ours(name: str, alias: str) -> bool:
    """By name and alias: interfaces, and the bridges that they may be ports of."""
    return alias.startswith(ALIAS) or _NAME.fullmatch(name) is not None or SEGMENT.fullmatch(name) is not None


def _places(op: Op) -> set[str]:
    """Namespaces that an operation may change. A link may have its other end anywhere; a look at it says where."""
    kind, space, *_ = op.key.split("/")
    return {space, *(() if kind == "route" else ("",)), *((op.item.peer_netns,) if isinstance(op.item, Veth) else ())}


async def _look(name: str) -> _Space | None:
    """None: the namespace went away meanwhile."""
    try:
        async with netns.netlink(name) as sock:
            links = [Link(name, message) async for message in await sock.get_links()]
            for link in links:
                if not name and _WIRED.fullmatch(link.name):
                    link.leads_to = await wire.leads_to(sock, link.index)
            messages = [message async for message in await sock.get_addr()]
            routes = [message async for message in await sock.get_routes(table=netns.MAIN_TABLE)]
            return _Space(name, links, messages, routes)
    except (DriverError, FileNotFoundError):
        return None


def _item_of(link: Link, spaces: Mapping[str, _Space], plan: Mapping[str, Item]) -> Observed | None:
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


def _veth_of(link: Link, bridge: str | None, spaces: Mapping[str, _Space], wanted: Item | None) -> Veth | None:
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
        )
    return None


def _route_of(message: Any, space: _Space) -> Route | None:
    device = space.links.get(message.get_attr("RTA_OIF"))
    if device is None:
        return None
    anywhere = "0.0.0.0" if message["family"] == _AF_INET else "::"
    destination = f"{message.get_attr('RTA_DST') or anywhere}/{message['dst_len']}"
    gateway = message.get_attr("RTA_GATEWAY")
    return Route(netns=space.name, destination=destination, device=device.name, gateway=str(gateway) if gateway else None)


async def _make_netns(item: Netns) -> None:
    await netns.make(item.name)

    def settings() -> None:
        for path in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            Path(f"/proc/sys/net/{path}").write_text("1\n")

    await netns.inside(item.name, settings)
    async with netns.netlink(item.name) as sock:
        (lo,) = await sock.link_lookup(ifname="lo")
        await sock.link("set", index=lo, state="up")
        await sock.link("set", index=lo, IFLA_IFALIAS=ALIAS + item.owner)  # last: it says that the rest is done


async def _make_bridge(item: Bridge) -> None:
    async with netns.netlink(item.netns) as sock:
        link = await find(sock, item.netns, item.name)
        if link is not None and link.kind == "veth":
            await sock.link("set", index=link.index, state="down")
            await sock.link("set", index=link.index, ifname=_FORMER)
        elif link is not None and link.kind != "bridge":
            await gone_is_fine(sock.link("del", index=link.index))
        former = await find(sock, item.netns, _FORMER)
        if link is None or link.kind != "bridge":
            mac = former.mac if former is not None else item.mac  # guests know it
            await sock.link("add", ifname=item.name, kind="bridge", mtu=item.mtu, **({"address": mac} if mac else {}))
        link = await _need(sock, item.netns, item.name)
        await no_addresses_of_its_own(item.netns, item.name)
        if former is not None and (former.master != link.index or not former.up):
            await addresses.put(sock, former.index, ())
            await sock.link("set", index=former.index, master=link.index, state="up")
        await sock.link("set", index=link.index, mtu=item.mtu, state="up")
        await addresses.put(sock, link.index, item.addresses)
        await sock.link("set", index=link.index, IFLA_IFALIAS=ALIAS + item.owner)


async def _make_tap(item: Tap) -> None:
    async with netns.netlink("") as sock:
        link = await find(sock, "", item.name)
        if link is not None and not link.tap:
            await gone_is_fine(sock.link("del", index=link.index))
            link = None
        if link is None:
            await asyncio.to_thread(_persistent_tap, item.name)
        link = await _need(sock, "", item.name)
        if item.wired_to is not None:
            await _wire(sock, link, item.wired_to)
        elif item.bridge is not None:
            await no_addresses_of_its_own("", item.name)
            bridge = await find(sock, "", names.segment(item.bridge)) or await _need(sock, "", item.bridge)
            await _join(sock, link, bridge)
            await wire.cut(sock, link.index)
        await sock.link("set", index=link.index, mtu=item.mtu, state="up", IFLA_IFALIAS=ALIAS + item.owner)


async def _wire(sock: AsyncIPRoute, tap: Link, name: str) -> None:
    """What a guest says is at every moment either dropped, or on a bridge behind the guard there. So a tap that is on none is
    down until it leads somewhere, and one that is on one (as older agents made it) leaves it afterwards."""
    end = await _need(sock, "", name)
    await closed_to_the_node("", tap.name)
    if await wire.leads_to(sock, end.index) != tap.index:
        await wire.lead(sock, end.index, tap.index)
    if await wire.leads_to(sock, tap.index) != end.index:
        if not tap.master:
            await sock.link("set", index=tap.index, state="down")
        await wire.lead(sock, tap.index, end.index)
    if tap.master:
        await sock.link("set", index=tap.index, master=0)


async def _make_veth(item: Veth) -> None:
    async with netns.netlink(item.netns) as sock, netns.netlink(item.peer_netns) as other:
        link = await find(sock, item.netns, item.name)
        peer = await find(other, item.peer_netns, item.peer_name)
        if link is None or peer is None or link.kind != "veth" or link.peer != peer.index or peer.peer != link.index:
            for half, where in ((link, sock), (peer, other)):
                if half is not None:
                    await gone_is_fine(where.link("del", index=half.index))
            far = {"ifname": item.peer_name, "net_ns_fd": item.peer_netns} if item.peer_netns else {"ifname": item.peer_name}
            await sock.link("add", ifname=item.name, kind="veth", peer=far)
            link, peer = await _need(sock, item.netns, item.name), await _need(other, item.peer_netns, item.peer_name)
        if item.peer_bridge is not None:
            await closed_to_the_node(item.netns, item.name)
            await no_addresses_of_its_own(item.peer_netns, item.peer_name)
            await _join(other, peer, await _need(other, item.peer_netns, item.peer_bridge))
        elif not item.addresses:
            await no_addresses_of_its_own(item.netns, item.name)
        master = 0
        if item.bridge is not None:
            master = (await _need(sock, item.netns, item.bridge)).index
        if (link.master or 0) != master:
            await sock.link("set", index=link.index, master=master)
        await addresses.put(other, peer.index, item.peer_addresses)
        await other.link("set", index=peer.index, mtu=item.mtu, state="up", IFLA_IFALIAS=ALIAS + item.owner)
        await addresses.put(sock, link.index, item.addresses)
        await sock.link("set", index=link.index, mtu=item.mtu, state="up", IFLA_IFALIAS=ALIAS + item.owner)


async def _join(sock: AsyncIPRoute, port: Link, bridge: Link) -> None:
    if port.master != bridge.index:
        await sock.link("set", index=port.index, master=bridge.index)
    await sock.brport("set", index=port.index, IFLA_BRPORT_GROUP_FWD_MASK=GROUP_FORWARD)


async def _make_route(item: Route) -> None:
    async with netns.netlink(item.netns) as sock:
        device = await _need(sock, item.netns, item.device)
        request: dict[str, Any] = {"dst": str(ip_network(item.destination)), "oif": device.index, "proto": ROUTE_PROTOCOL}
        request["family"] = _AF_INET if ip_network(item.destination).version == 4 else _AF_INET6
        if item.gateway is not None:
            request["gateway"] = item.gateway
        await sock.route("replace", **request)


async def _delete_route(sock: AsyncIPRoute, destination: str) -> None:
    network = ip_network(destination)
    family = _AF_INET if network.version == 4 else _AF_INET6
    await gone_is_fine(sock.route("del", dst=str(network), proto=ROUTE_PROTOCOL, family=family))


async def find(sock: AsyncIPRoute, space: str, name: str) -> Link | None:
    """Asked for by name: a list that is not read to its end keeps the socket busy for the next one (EBUSY)."""
    try:
        (message,) = await sock.link("get", ifname=name)
    except NetlinkError as error:
        if error.code in (errno.ENODEV, errno.ERANGE):  # no interface can have a name that long
            return None
        raise
    return Link(space, message)


async def _need(sock: AsyncIPRoute, space: str, name: str) -> Link:
    link = await find(sock, space, name)
    if link is None:
        raise DriverError(f"no interface {name}" + (f" in {space}" if space else ""))
    return link


async def gone_is_fine(request: Any) -> None:
    try:
        await request
    except NetlinkError as error:
        if error.code not in (errno.ENODEV, errno.ESRCH, errno.ENOENT):
            raise


async def no_addresses_of_its_own(space: str, name: str) -> None:
    """No IPv6 link-local address on the node's side: guests must not find the node's own services there."""

    def disable() -> None:
        with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
            Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1\n")

    await netns.inside(space, disable)


async def closed_to_the_node(space: str, name: str) -> None:
    """What comes in here is for somebody else. Should nobody take it for a moment, the node neither answers nor passes it on:
    no IPv6, and no source is right where the node has no address, whatever is set for all interfaces (kernel, ip-sysctl.rst
    and fib_validate_source)."""

    def close() -> None:
        Path(f"/proc/sys/net/ipv4/conf/{name}/rp_filter").write_text("1\n")

    await no_addresses_of_its_own(space, name)
    await netns.inside(space, close)


def _persistent_tap(name: str) -> None:
    """TUNSETIFF and TUNSETPERSIST (linux/if_tun.h); with the vnet header that QEMU asks for."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    try:
        tap, no_packet_info, vnet_header = 0x0002, 0x1000, 0x4000
        fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", name.encode(), tap | no_packet_info | vnet_header))
        fcntl.ioctl(fd, 0x400454CB, 1)
    finally:
        os.close(fd)
