"""Network namespaces: which are ours, and code inside them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import socket
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from pyroute2 import AsyncIPRoute

from zos.drivers import DriverError
from zos.drivers.process import NETNS as NETNS
from zos.drivers.process import run
from zos.drivers.thread import in_pool

T = TypeVar("T")

#: Names that api/names.py gives to routers.
_OURS = re.compile(r"zos-[a-z2-7]{10}")
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)

ROUTE = 0  # NETLINK_ROUTE
NETFILTER = 12  # NETLINK_NETFILTER
#: RT_TABLE_MAIN (linux/rtnetlink.h): where routes are put that name no table.
MAIN_TABLE = 254
#: Strict: the kernel chooses what is asked for, such as one interface's addresses. See `chosen_by_the_kernel`.
_SOL_NETLINK, _EXT_ACK, _GET_STRICT_CHECK = 270, 11, 12
_pool = ThreadPoolExecutor(8, "netns")


def ours() -> frozenset[str]:
    """Names of the namespaces that this project made."""
    try:
        return frozenset(name for name in os.listdir(NETNS) if is_ours(name) and is_namespace(f"{NETNS}/{name}"))
    except FileNotFoundError:
        return frozenset()


async def make(name: str) -> None:
    """A namespace of that name, in place of whatever else has it: ``ip netns add`` that is killed in between, and a namespace
    whose mount is lost, leave a plain file. Raises OSError or ProcessError."""
    if name not in ours():
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{NETNS}/{name}")
        await run("ip", "netns", "add", name)


def is_ours(name: str) -> bool:
    return _OURS.fullmatch(name) is not None


def is_namespace(path: str) -> bool:
    """Whether a namespace is mounted there, and not just a file by that name."""
    try:
        return os.stat(path).st_dev == os.stat("/proc/self/ns/net").st_dev
    except FileNotFoundError:
        return False


async def inside(netns: str, call: Callable[[], T]) -> T:
    """Runs ``call`` in a thread inside a namespace (empty: the node's own, at once). Raises DriverError when it doesn't exist.

    The threads are few, since namespaces may be many. A cancellation is raised only once the call is over.
    """
    if not netns:
        return call()

    def work() -> T:
        try:
            there = os.open(f"{NETNS}/{netns}", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise DriverError(f"no network namespace {netns}") from None
        try:
            home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            try:
                _enter(there)
                try:
                    return call()
                finally:
                    _enter(home)  # a thread that stays would keep the namespace alive
            finally:
                os.close(home)
        finally:
            os.close(there)

    return await in_pool(_pool, work)


def _enter(fd: int) -> None:
    if _libc.setns(fd, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@contextlib.asynccontextmanager
async def netlink(netns: str) -> AsyncIterator[AsyncIPRoute]:
    """A netlink socket in a namespace, closed again at once: an open one would keep a deleted namespace alive.

    Not by pyroute2's own ``netns=``: that forks a child, which shares this process's signal pipe, and ends it by a SIGTERM
    that this process then takes for its own.
    """
    sock = await inside(netns, _open_netlink)
    try:
        async with AsyncIPRoute(use_socket=sock) as requests:
            yield requests
    finally:
        sock.close()


def chosen_by_the_kernel(_message: object) -> bool:
    """As ``dump_filter``: pyroute2 then passes on what is asked for, instead of having all sent and choosing itself. A node may
    have hundreds of interfaces."""
    return True


def _open_netlink() -> socket.socket:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, ROUTE)
    sock.bind((0, 0))
    sock.setsockopt(_SOL_NETLINK, _EXT_ACK, 1)
    sock.setsockopt(_SOL_NETLINK, _GET_STRICT_CHECK, 1)
    return sock
