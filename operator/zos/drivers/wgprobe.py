"""Whether this kernel has WireGuard."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from zos.drivers import netns

Kind = Literal["kernel", "userspace"]

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


async def probe() -> Kind:
    """What this kernel offers. Raises OSError where that can't be told: who may not try it has not seen that it is missing."""
    with await asyncio.to_thread(_elsewhere) as sock:
        async with AsyncIPRoute(use_socket=sock) as requests:
            try:
                await requests.link("add", ifname="probe", kind="wireguard")
            except NetlinkError as error:
                if error.code == errno.EOPNOTSUPP:
                    return "userspace"
                why = os.strerror(error.code)
                raise OSError(error.code, f"it can't be told whether this kernel has WireGuard: {why}") from error
    return "kernel"


def _elsewhere() -> socket.socket:
    """A netlink socket in a network namespace that nobody else is in: no name is taken there, and what is made there goes with
    the socket, whenever that is."""

    def open_there() -> socket.socket:
        if _libc.unshare(_CLONE_NEWNET) != 0:
            code = ctypes.get_errno()
            raise OSError(code, f"no network namespace can be made: {os.strerror(code)}")
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, netns.ROUTE)
        sock.bind((0, 0))
        return sock

    with ThreadPoolExecutor(1) as thread:  # which ends there
        return thread.submit(open_there).result()
