"""Network interfaces, by netlink: how they are found, which are ours, and what the node keeps away from them.

Whose an interface is stands in its alias.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import struct
from pathlib import Path
from typing import Any

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from zos.drivers import DriverError, netns

ALIAS = "zos:"
#: Names that api/names.py gives to links in the node's own namespace: ours even where a crash left no alias.
_NAME = re.compile(r"[blu]-[a-z2-7]{10}|[tv]-[a-z2-7]{10}-\d+")
#: Bridges on the segments of the node's own NICs: drivers/segment.py.
SEGMENT = re.compile(r"p-[a-z2-7]{10}")
#: For machines' ports: frames to 01:80:c2:00:00:03 to 0f go the way of all frames, and so through the guard. Left to itself
#: the bridge keeps them (IEEE 802.1D), without asking any hook in the case of LLDP, but learns their sender all the same: a
#: forged one would bring a machine its neighbour's traffic.
GROUP_FORWARD = 0xFFF8
_IFF_UP = 1


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


def is_ours(name: str, alias: str) -> bool:
    """By name and alias: interfaces, and the bridges that they may be ports of."""
    return alias.startswith(ALIAS) or _NAME.fullmatch(name) is not None or SEGMENT.fullmatch(name) is not None


async def find(sock: AsyncIPRoute, space: str, name: str) -> Link | None:
    """Asked for by name: a list that is not read to its end keeps the socket busy for the next one (EBUSY)."""
    try:
        (message,) = await sock.link("get", ifname=name)
    except NetlinkError as error:
        if error.code in (errno.ENODEV, errno.ERANGE):  # no interface can have a name that long
            return None
        raise
    return Link(space, message)


async def need(sock: AsyncIPRoute, space: str, name: str) -> Link:
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


async def join(sock: AsyncIPRoute, port: Link, bridge: Link) -> None:
    if port.master != bridge.index:
        await sock.link("set", index=port.index, master=bridge.index)
    await sock.brport("set", index=port.index, IFLA_BRPORT_GROUP_FWD_MASK=GROUP_FORWARD)


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


def make_tap(name: str) -> None:
    """TUNSETIFF and TUNSETPERSIST (linux/if_tun.h); with the vnet header that QEMU asks for."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    try:
        tap, no_packet_info, vnet_header = 0x0002, 0x1000, 0x4000
        fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", name.encode(), tap | no_packet_info | vnet_header))
        fcntl.ioctl(fd, 0x400454CB, 1)
    finally:
        os.close(fd)
