"""Routes of routers, by netlink: ours are those with our protocol number."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

from pyroute2 import AsyncIPRoute

from zos.drivers import netns
from zos.drivers.devices import gone_is_fine, need
from zos.plan.items import Route

#: Routes with this protocol number are ours (iproute2 leaves 3..255 to administrators; /etc/iproute2/rt_protos).
ROUTE_PROTOCOL = 122
_AF_INET, _AF_INET6 = 2, 10


async def make(item: Route) -> None:
    async with netns.netlink(item.netns) as sock:
        device = await need(sock, item.netns, item.device)
        request: dict[str, Any] = {"dst": str(ip_network(item.destination)), "oif": device.index, "proto": ROUTE_PROTOCOL}
        request["family"] = _AF_INET if ip_network(item.destination).version == 4 else _AF_INET6
        if item.gateway is not None:
            request["gateway"] = item.gateway
        await sock.route("replace", **request)


async def delete(sock: AsyncIPRoute, destination: str) -> None:
    network = ip_network(destination)
    family = _AF_INET if network.version == 4 else _AF_INET6
    await gone_is_fine(sock.route("del", dst=str(network), proto=ROUTE_PROTOCOL, family=family))
