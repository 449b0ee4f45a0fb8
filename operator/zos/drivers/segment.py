"""Segments of the node's own interfaces, opened for machines.

A bridge that an administrator made is only looked at. A NIC becomes a port of a bridge of ours, and is let go when no machine
needs it any more. Nothing of the administrator's is moved: a NIC with addresses, or in another bridge, is refused.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import ClassVar

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from zos.api import names
from zos.drivers import DriverError, addresses, netns, news
from zos.drivers.devices import ALIAS, SEGMENT, Link, find, gone_is_fine, no_addresses_of_its_own
from zos.drivers.news import News, Watch
from zos.plan.diff import Observed, Op
from zos.plan.items import Item, Segment


class SegmentDriver:
    ITEMS: ClassVar[tuple[type[Item], ...]] = (Segment,)
    SLOW: ClassVar[bool] = False

    def __init__(self) -> None:
        self._watch: Watch | None = None
        self._asked: frozenset[str] = frozenset()
        self._indexes: frozenset[int] = frozenset()  # of the interfaces that count, whatever they are called later

    async def observe(self, wanted: Sequence[Item]) -> Mapping[str, Observed]:
        asked = {item.interface for item in wanted if isinstance(item, Segment)}
        async with netns.netlink("") as sock:
            bridges = await sock.link(
                "dump", linkinfo={"attrs": [("IFLA_INFO_KIND", "bridge")]}, dump_filter=netns.chosen_by_the_kernel
            )
            links = [Link("", message) async for message in bridges]
            others = [await find(sock, "", interface) for interface in asked - {link.name for link in links}]
        links += [link for link in others if link is not None]
        by_name = {link.name: link for link in links}
        made = {_marked(link, asked): link for link in links if SEGMENT.fullmatch(link.name)}
        self._asked = frozenset(asked)
        self._indexes = frozenset(link.index for link in links if self._named(link.name))
        observed: dict[str, Observed] = {}
        for interface in (asked & by_name.keys()) | made.keys():
            item = Segment(interface=interface)
            port, bridge = by_name.get(interface), made.get(interface)
            if bridge is not None:
                right = port is not None and port.master == bridge.index and port.up and bridge.up
                observed[item.key] = Observed(item.key, item if right else None, bridge.owner.partition(" ")[0], shared=True)
            elif port is not None and port.kind == "bridge":
                observed[item.key] = Observed(item.key, item) if port.up else Observed(item.key, None)
        return observed  # an administrator's bridge only where it is wanted, so it is never removed

    async def apply(self, op: Op) -> None:
        interface = op.key.partition("/")[2]
        try:
            async with netns.netlink("") as sock:
                if op.item is None:
                    await _remove(sock, interface if SEGMENT.fullmatch(interface) else names.segment(interface))
                else:
                    await _open(sock, interface, op.item.owner)
        except NetlinkError as error:
            raise DriverError(f"interface {interface}: {os.strerror(error.code)}") from error

    def watch(self, dirty: Callable[[], None]) -> None:
        def matters(said: News) -> bool:
            return said.index in self._indexes or self._named(said.name)

        self._watch = Watch(netns.ROUTE, (news.LINKS,), matters, dirty, follows=False)

    async def close(self) -> None:
        if self._watch is not None:
            self._watch.close()

    def _named(self, name: str) -> bool:
        return name in self._asked or SEGMENT.fullmatch(name) is not None


def _marked(bridge: Link, asked: Iterable[str]) -> str:
    """The interface that a bridge of ours was made for. One that was left half made has no mark, and a name that says little:
    if nobody asks for what it could be, it stands for itself."""
    marked = bridge.owner.partition(" ")[2]
    return marked or next((name for name in asked if names.segment(name) == bridge.name), bridge.name)


async def _open(sock: AsyncIPRoute, interface: str, owner: str) -> None:
    port = await find(sock, "", interface)
    if port is None:
        raise DriverError(f"no interface {interface}: GridNode.spec.publicInterface names it")
    name = names.segment(interface)
    if port.kind == "bridge":
        await _remove(sock, name)  # it was a NIC before
        if not port.up:
            raise DriverError(f"bridge {interface} is down")
        return
    bridge = await find(sock, "", name)
    if bridge is None or bridge.kind != "bridge":
        await _refuse_what_is_in_use(sock, port)
        await _remove(sock, name)
        # Without snooping: neighbour discovery must reach machines whether or not somebody asks for multicast groups.
        await sock.link("add", ifname=name, kind="bridge", br_mcast_snooping=0)
        bridge = await find(sock, "", name)
        assert bridge is not None
    if port.master != bridge.index:
        await _refuse_what_is_in_use(sock, port)
        await sock.link("set", index=port.index, master=bridge.index)
    await no_addresses_of_its_own("", name)
    await sock.link("set", index=port.index, state="up")
    await sock.link("set", index=bridge.index, state="up", IFLA_IFALIAS=f"{ALIAS}{owner} {interface}")


async def _refuse_what_is_in_use(sock: AsyncIPRoute, port: Link) -> None:
    if port.master:
        (master,) = [str(message.get_attr("IFLA_IFNAME")) async for message in await sock.get_links(port.master)]
        raise DriverError(f"interface {port.name} is a port of {master}: name {master} as the node's publicInterface")
    messages = await addresses.held(sock, port.index)
    there = [address for message in messages if (address := addresses.cidr(message)) is not None]
    if there:
        raise DriverError(
            f"interface {port.name} has addresses ({', '.join(there)}) that the node would lose: move them to a bridge "
            f"with {port.name} in it and name that bridge as the node's publicInterface"
        )


async def _remove(sock: AsyncIPRoute, name: str) -> None:
    for index in await sock.link_lookup(ifname=name):
        await gone_is_fine(sock.link("del", index=index))
