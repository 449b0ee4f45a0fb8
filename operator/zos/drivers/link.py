"""Network namespaces, bridges, veth pairs, taps and routes, by netlink.

Whose an interface is stands in its alias, whose a namespace is in the alias of its loopback. Routes are ours by their
protocol number.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from zos.api import names
from zos.drivers import DriverError, addresses, netns, news, routes, wire
from zos.drivers.devices import (
    ALIAS,
    Link,
    closed_to_the_node,
    find,
    gone_is_fine,
    is_ours,
    join,
    make_tap,
    need,
    no_addresses_of_its_own,
)
from zos.drivers.looks import Looks
from zos.drivers.news import News, Watch
from zos.drivers.process import ProcessError, run
from zos.drivers.spaces import link_of, look, route_of
from zos.plan.diff import Observed, Op
from zos.plan.items import Bridge, Item, Netns, Route, Tap, Veth

#: In routers that older agents made ``lan`` is the far end of a pair, and the network's bridge is in the node's namespace with
#: the near end and the taps. Until no tap is there any more, the pair joins that bridge to the router's own, under this name.
_FORMER = "lan-former"


class LinkDriver:
    ITEMS: ClassVar[tuple[type[Item], ...]] = (Netns, Bridge, Veth, Tap, Route)
    SLOW: ClassVar[bool] = False

    def __init__(self) -> None:
        self._watch: Watch | None = None
        self._looks = Looks(look)
        self._own: frozenset[int] = frozenset()  # interfaces of ours in the node's own namespace

    async def observe(self, wanted: Sequence[Item]) -> Mapping[str, Observed]:
        ours = netns.ours()
        if self._watch is not None:
            self._watch.follow(ours)
        seen = await self._looks.see(("", *sorted(ours)))
        spaces = {name: space for name, space in seen.items() if space is not None}
        self._own = frozenset(link.index for link in spaces[""].links.values() if is_ours(link.name, link.alias))
        plan = {item.key: item for item in wanted}
        observed: dict[str, Observed] = {}
        for space in spaces.values():
            if space.name:
                lo = space.by_name.get("lo")
                item = Netns(name=space.name) if lo is not None and lo.up and lo.alias.startswith(ALIAS) else None
                key = f"netns/{space.name}"
                observed[key] = Observed(key, item, lo.owner if lo is not None else "")
            for link in space.links.values():
                here = not space.name or link.kind == "bridge" or link.name == names.OWN_INTERFACE
                if link.ours and here and (seen_item := link_of(link, spaces, plan)) is not None:
                    observed[seen_item.key] = seen_item
            for route in space.routes:
                if (found := route_of(route, space)) is not None:
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
                    await routes.make(op.item)
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
        if is_ours(said.name, said.alias):
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
                await routes.delete(sock, name)
            else:
                for index in await sock.link_lookup(ifname=name):
                    await gone_is_fine(sock.link("del", index=index))


def _places(op: Op) -> set[str]:
    """Namespaces that an operation may change. A link may have its other end anywhere; a look at it says where."""
    kind, space, *_ = op.key.split("/")
    return {space, *(() if kind == "route" else ("",)), *((op.item.peer_netns,) if isinstance(op.item, Veth) else ())}


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
        link = await need(sock, item.netns, item.name)
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
            await asyncio.to_thread(make_tap, item.name)
        link = await need(sock, "", item.name)
        if item.wired_to is not None:
            await _wire(sock, link, item.wired_to)
        elif item.bridge is not None:
            await no_addresses_of_its_own("", item.name)
            bridge = await find(sock, "", names.segment(item.bridge)) or await need(sock, "", item.bridge)
            await join(sock, link, bridge)
            await wire.cut(sock, link.index)
        await sock.link("set", index=link.index, mtu=item.mtu, state="up", IFLA_IFALIAS=ALIAS + item.owner)


async def _wire(sock: AsyncIPRoute, tap: Link, name: str) -> None:
    """What a guest says is at every moment either dropped, or on a bridge behind the guard there. So a tap that is on none is
    down until it leads somewhere, and one that is on one (as older agents made it) leaves it afterwards."""
    end = await need(sock, "", name)
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
            link, peer = await need(sock, item.netns, item.name), await need(other, item.peer_netns, item.peer_name)
        if item.peer_bridge is not None:
            if not item.addresses:
                await closed_to_the_node(item.netns, item.name)
            await no_addresses_of_its_own(item.peer_netns, item.peer_name)
            await join(other, peer, await need(other, item.peer_netns, item.peer_bridge))
        elif not item.addresses:
            await no_addresses_of_its_own(item.netns, item.name)
        master = 0
        if item.bridge is not None:
            master = (await need(sock, item.netns, item.bridge)).index
        if (link.master or 0) != master:
            await sock.link("set", index=link.index, master=master)
        if item.mac is not None and link.mac != item.mac:
            await sock.link("set", index=link.index, address=item.mac)
        await addresses.put(other, peer.index, item.peer_addresses)
        await other.link("set", index=peer.index, mtu=item.mtu, state="up", IFLA_IFALIAS=ALIAS + item.owner)
        await addresses.put(sock, link.index, item.addresses)
        await sock.link("set", index=link.index, mtu=item.mtu, state="up", IFLA_IFALIAS=ALIAS + item.owner)
