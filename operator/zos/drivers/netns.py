"""Network namespaces: which are ours, code inside them, and news from the kernel about them."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import re
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import TypeVar

from pyroute2 import AsyncIPRoute

from zos.drivers import DriverError
from zos.drivers.inotify import Inotify
from zos.drivers.process import NETNS as NETNS
from zos.drivers.process import run

T = TypeVar("T")

#: Names that api/names.py gives to routers.
_OURS = re.compile(r"zos-[a-z2-7]{10}")
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)

ROUTE = 0  # NETLINK_ROUTE
NETFILTER = 12  # NETLINK_NETFILTER
#: RT_TABLE_MAIN (linux/rtnetlink.h): where routes are put that name no table.
MAIN_TABLE = 254
#: Multicast groups (linux/rtnetlink.h, linux/netfilter/nfnetlink.h).
LINKS, TRAFFIC, ADDRESSES, ADDRESSES6, ROUTES, ROUTES6 = 1, 4, 5, 9, 7, 11
NFTABLES = 7
_SOL_NETLINK, _ADD_MEMBERSHIP, _EXT_ACK = 270, 1, 11


def ours() -> frozenset[str]:
    """Names of the namespaces that this project made."""
    try:
        return frozenset(name for name in os.listdir(NETNS) if _OURS.fullmatch(name) and _is_namespace(f"{NETNS}/{name}"))
    except FileNotFoundError:
        return frozenset()


async def make(name: str) -> None:
    """A namespace of that name, in place of whatever else has it: ``ip netns add`` that is killed in between, and a namespace
    whose mount is lost, leave a plain file. Raises OSError or ProcessError."""
    if name not in ours():
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{NETNS}/{name}")
        await run("ip", "netns", "add", name)


def _is_namespace(path: str) -> bool:
    """Whether a namespace is mounted there, and not just a file by that name."""
    try:
        return os.stat(path).st_dev == os.stat("/proc/self/ns/net").st_dev
    except FileNotFoundError:
        return False


async def inside(netns: str, call: Callable[[], T]) -> T:
    """Runs ``call`` in a thread inside a namespace (empty: the node's own). Raises DriverError when it doesn't exist."""
    if not netns:
        return call()
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if not done.done():
            if error is None:
                done.set_result(result)  # type: ignore[arg-type]
            else:
                done.set_exception(error)

    def work() -> None:
        # A thread of its own, that ends in the namespace: no thread of a pool is left behind there.
        try:
            fd = os.open(f"{NETNS}/{netns}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                if _libc.setns(fd, _CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            finally:
                os.close(fd)
            result = call()
        except FileNotFoundError as error:
            missing = DriverError(f"no network namespace {netns}") if error.filename == f"{NETNS}/{netns}" else error
            loop.call_soon_threadsafe(settle, None, missing)
        except Exception as error:
            loop.call_soon_threadsafe(settle, None, error)
        else:
            loop.call_soon_threadsafe(settle, result, None)

    threading.Thread(target=work, name=f"netns {netns}", daemon=True).start()
    return await asyncio.shield(done)


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


def _open_netlink() -> socket.socket:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, ROUTE)
    sock.bind((0, 0))
    sock.setsockopt(_SOL_NETLINK, _EXT_ACK, 1)
    return sock


class Watch:
    """Calls ``changed`` for news of some netlink groups, in the node's own namespace and in those it follows, and when
    namespaces come and go."""

    def __init__(self, protocol: int, groups: Iterable[int], changed: Callable[[], None]) -> None:
        self._protocol = protocol
        self._groups = tuple(groups)
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._sockets: dict[str, socket.socket] = {}
        Path(NETNS).mkdir(exist_ok=True)
        self._inotify = Inotify(self._namespaces)
        self._inotify.watch([Path(NETNS)])
        self._add("", self._open())

    async def follow(self, wanted: Iterable[str]) -> None:
        """Listens in exactly these namespaces and in the node's own."""
        self._drop(self._sockets.keys() - {*wanted, ""})
        for name in set(wanted) - self._sockets.keys():
            with contextlib.suppress(DriverError, OSError):  # gone again
                sock = await inside(name, self._open)
                if name in self._sockets:
                    sock.close()
                else:
                    self._add(name, sock)

    def close(self) -> None:
        self._inotify.close()
        self._drop(set(self._sockets))

    def _namespaces(self) -> None:
        # A socket of ours must not keep a namespace alive that somebody has deleted.
        self._drop({name for name in self._sockets if name and not os.path.exists(f"{NETNS}/{name}")})
        self._changed()

    def _open(self) -> socket.socket:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, self._protocol)
        sock.bind((0, 0))
        for group in self._groups:
            sock.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
        return sock

    def _add(self, name: str, sock: socket.socket) -> None:
        self._sockets[name] = sock
        self._loop.add_reader(sock, self._read, sock)

    def _drop(self, names: Iterable[str]) -> None:
        for name in names:
            sock = self._sockets.pop(name)
            self._loop.remove_reader(sock)
            sock.close()

    def _read(self, sock: socket.socket) -> None:
        try:
            while True:
                sock.recv(65536)
        except BlockingIOError:
            pass
        except OSError:  # ENOBUFS: news were lost, which is news
            pass
        self._changed()
