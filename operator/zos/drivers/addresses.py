"""Addresses of interfaces, as far as they work.

The kernel routes an address's network into its interface when the address is added to it, and never again. Where somebody
took that route away, the address is still shown, and nobody in its network is answered: such an address counts as missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_interface
from typing import Any

from pyroute2 import AsyncIPRoute

from zos.drivers.netns import MAIN_TABLE, chosen_by_the_kernel

_RTPROT_KERNEL = 2
_SCOPE_LINK = 253


def working(addresses: Iterable[Any], routes: Iterable[Any]) -> Mapping[int, frozenset[str]]:
    """Index of an interface → its working addresses, CIDRs. Link-local ones are the kernel's own affair and left out.

    ``addresses`` and ``routes`` (of the main table) are netlink's messages of one namespace.
    """
    connected = {
        (route.get_attr("RTA_OIF"), f"{route.get_attr('RTA_DST')}/{route['dst_len']}")
        for route in routes
        if route["proto"] == _RTPROT_KERNEL
    }
    found: dict[int, set[str]] = {}
    for message in addresses:
        if (address := cidr(message)) is not None:
            network = ip_interface(address).network
            alone = network.prefixlen == network.max_prefixlen  # nobody else is in its network
            if alone or (message["index"], str(network)) in connected:
                found.setdefault(message["index"], set()).add(address)
    return {index: frozenset(those) for index, those in found.items()}


async def held(sock: AsyncIPRoute, index: int) -> list[Any]:
    """Netlink's messages of one interface's addresses. Raises NetlinkError."""
    return [message async for message in await sock.addr("dump", index=index, dump_filter=chosen_by_the_kernel)]


async def routes_into(sock: AsyncIPRoute, index: int) -> list[Any]:
    """Netlink's messages of the main table's routes into one interface. Raises NetlinkError."""
    asked = {"table": MAIN_TABLE, "oif": index}
    return [message async for message in await sock.route("dump", **asked, dump_filter=chosen_by_the_kernel)]


async def put(sock: AsyncIPRoute, index: int, wanted: Iterable[str]) -> None:
    """Gives an interface exactly these addresses, CIDRs; what doesn't work is added anew. Raises NetlinkError."""
    messages, routes = await held(sock, index), await routes_into(sock, index)
    there = {address for message in messages if (address := cidr(message)) is not None}
    right = {str(ip_interface(address)) for address in wanted}
    works = working(messages, routes).get(index, frozenset())
    # What goes, goes first: with the first address of a network its further ones go.
    for address in there - (right & works):
        await sock.addr("del", index=index, **_words(address))
    for address in right - works:
        await sock.addr("add", index=index, **_words(address))


def cidr(message: Any) -> str | None:
    """None for a link-local address, which is the kernel's own affair."""
    if message["scope"] == _SCOPE_LINK:
        return None
    return f"{message.get_attr('IFA_LOCAL') or message.get_attr('IFA_ADDRESS')}/{message['prefixlen']}"


def _words(address: str) -> dict[str, Any]:
    interface = ip_interface(address)
    return {"address": str(interface.ip), "prefixlen": interface.network.prefixlen}
