"""WireGuard interfaces as interfaces of the node and its routers: whether they are there, and what netlink tells and sets."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_interface, ip_network
from pathlib import Path
from typing import Any

from pyroute2.netlink.exceptions import NetlinkError

from zos.drivers import DriverError, addresses, netns
from zos.drivers.means import short_of_means
from zos.drivers.process import run
from zos.drivers.wgtext import ROUTE_PROTOCOL
from zos.plan.items import WireGuard

_ALIAS = "zos-wireguard:"


async def exists(space: str, name: str) -> bool:
    async with netns.netlink(space) as sock:
        return bool(await sock.link_lookup(ifname=name))


async def is_right(item: WireGuard) -> bool:
    try:
        async with netns.netlink(item.netns) as sock:
            for index in await sock.link_lookup(ifname=item.name):
                (link,) = [message async for message in await sock.get_links(index)]
                found, routes = await addresses.held(sock, index), await addresses.routes_into(sock, index)
                wanted = {str(ip_interface(address)) for address in item.addresses}
                return (
                    bool(link["flags"] & 1)
                    and link.get_attr("IFLA_MTU") == item.mtu
                    and addresses.working(found, routes).get(index, frozenset()) == wanted
                    and set(_ours(routes, index)) == {str(ip_network(route)) for route in item.routes}
                )
    except (DriverError, NetlinkError, OSError) as error:
        if short_of_means(error):
            raise
    return False


async def make(item: WireGuard, conf: Path) -> None:
    """The kernel's own, in place of what was there, with the settings in a file. Raises NetlinkError or ProcessError."""
    await unlink(item.netns, item.name)
    async with netns.netlink("") as sock:
        await sock.link("add", ifname=item.name, kind="wireguard")
        (index,) = await sock.link_lookup(ifname=item.name)
        await sock.link("set", index=index, IFLA_IFALIAS=_ALIAS + item.owner)
        await run("wg", "setconf", item.name, str(conf))
        await sock.link("set", index=index, net_ns_fd=item.netns)


async def trim(item: WireGuard) -> None:
    """Gives a running interface its addresses, and takes away routes that it should not have; ``setup`` adds what lacks."""
    async with netns.netlink(item.netns) as sock:
        (index,) = await sock.link_lookup(ifname=item.name)
        await addresses.put(sock, index, item.addresses)
        for route in _ours(await addresses.routes_into(sock, index), index):
            if route not in {str(ip_network(wanted)) for wanted in item.routes}:
                await sock.route("del", dst=route, oif=index, proto=ROUTE_PROTOCOL)


async def unlink(space: str, name: str) -> None:
    """Takes it away, in the node's namespace and in its router's."""
    for where in ("", *((space,) if space in netns.ours() else ())):
        async with netns.netlink(where) as sock:
            for index in await sock.link_lookup(ifname=name):
                await sock.link("del", index=index)


def _ours(routes: Sequence[Any], index: int) -> list[str]:
    """Destinations of our routes into an interface, among netlink's messages."""
    return [
        f"{message.get_attr('RTA_DST')}/{message['dst_len']}"
        for message in routes
        if message["proto"] == ROUTE_PROTOCOL and message.get_attr("RTA_OIF") == index
    ]
