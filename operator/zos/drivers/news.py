"""News from the kernel about interfaces, addresses, routes and nftables, in the node's own namespace and in those of ours.

One socket hears them all (NETLINK_LISTEN_ALL_NSID, netlink(7)): the kernel passes on what happens in every namespace that has a
number in the node's own, and says that number. Messages are judged one by one, since a node is not ours alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Literal

from zos.drivers import netns, nftables
from zos.drivers.inotify import Inotify
from zos.drivers.nlmessages import attributes, messages, text

#: Multicast groups (linux/rtnetlink.h, linux/netfilter/nfnetlink.h).
LINKS, TRAFFIC, ADDRESSES, ADDRESSES6, ROUTES, ROUTES6 = 1, 4, 5, 9, 7, 11
NFTABLES = 7

_SOL_NETLINK, _ADD_MEMBERSHIP, _LISTEN_ALL_NSID = 270, 1, 8
#: Of a burst, like that of a plan with hundreds of networks. What does not fit is lost, which is heard.
_BUFFER = 4 << 20

_About = Literal["link", "address", "route", "traffic", "table"]
_RTM: dict[int, _About] = {
    **dict.fromkeys((16, 17), "link"),
    **dict.fromkeys((20, 21), "address"),
    **dict.fromkeys((24, 25), "route"),
    **dict.fromkeys((36, 37, 44, 45), "traffic"),  # queueing disciplines, filters
}
_NEWNSID, _GETNSID, _REQUEST, _ACK = 88, 90, 1, 4
_NSID, _NSID_FD = 1, 3
_NLMSG_ERROR = 2
_NEWGEN, _GETGEN = 15, 16  # they name no table
_SCOPE_LINK = 253


@dataclass(frozen=True)
class News:
    """One message: that something is new, different or gone. ``space`` is a namespace's name, empty for the node's own;
    ``index`` the interface's, also that of an address, a route or a rule of traffic control. ``name`` and ``alias`` are an
    interface's, ``name`` also that of an nftables table, whose ``family`` is in nft's words. ``table``, ``type`` and ``length``
    are a route's, ``gateway`` whether it has one."""

    space: str
    about: _About
    index: int = 0
    name: str = ""
    alias: str = ""
    link_local: bool = False
    table: int = 0
    type: int = 0
    length: int = 0
    gateway: bool = False
    family: str = ""


class Watch:
    """``matters`` hears all news that can be understood, and says which of them count. Of each that does, ``stir`` hears from
    which namespace it came, or None where it can't be told, since news were lost; ``dirty`` is called once then. A namespace of
    ours that comes or goes counts."""

    def __init__(
        self,
        protocol: int,
        groups: Iterable[int],
        matters: Callable[[News], bool],
        dirty: Callable[[], None],
        stir: Callable[[str | None], None] = lambda _: None,
        *,
        follows: bool = True,
    ) -> None:
        """``follows``: it hears namespaces of ours as well, as far as `follow` names them. Raises OSError."""
        self._protocol = protocol
        self._matters = matters
        self._dirty = dirty
        self._stir = stir
        self._loop = asyncio.get_running_loop()
        self._inodes: dict[str, int] = {}
        self._spaces: dict[int, str] = {}  # by the namespace's number
        self._inotify: Inotify | None = None
        self.socket = _open(protocol, groups, everywhere=follows)
        if follows:
            Path(netns.NETNS).mkdir(exist_ok=True)
            self._inotify = Inotify(dirty, self._namespace)
            self._inotify.watch([Path(netns.NETNS)])
        self._loop.add_reader(self.socket, self._told)

    def follow(self, wanted: Iterable[str]) -> None:
        """Listens in exactly these namespaces and in the node's own. For somebody who is about to look: what was told up to now
        stirs, but is no reason to look again. Raises OSError."""
        self._read()
        inodes: dict[str, int] = {}
        for name in wanted:
            with contextlib.suppress(FileNotFoundError):
                inodes[name] = os.stat(f"{netns.NETNS}/{name}").st_ino
        for name in [name for name, inode in self._inodes.items() if inodes.get(name) != inode]:
            self._lose(name)
        new = inodes.keys() - self._inodes.keys()
        if not new:
            return
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, netns.ROUTE) as ask:
            ask.settimeout(5)
            for name in new:
                if (number := _number(ask, name)) is not None:
                    self._inodes[name], self._spaces[number] = inodes[name], name
                    self._stir(name)

    def close(self) -> None:
        if self._inotify is not None:
            self._inotify.close()
        if self.socket.fileno() >= 0:
            self._loop.remove_reader(self.socket)
            self.socket.close()

    def _lose(self, name: str) -> None:
        self._inodes.pop(name, None)
        self._spaces = {number: known for number, known in self._spaces.items() if known != name}

    def _namespace(self, _directory: Path | None, name: str) -> bool:
        """Something came or went by a name. (Its number may be another namespace's from now on.)"""
        if not name:
            for known in list(self._inodes):
                self._lose(known)
            self._stir(None)
            return True
        if netns.is_ours(name):
            self._lose(name)
            self._stir(name)
            return True
        return False

    def _told(self) -> None:
        if self._read():
            self._dirty()

    def _read(self) -> bool:
        """Whether there was anything that counts."""
        counted: set[str] = set()
        lost = False
        while True:
            try:
                data, ancillary, _, _ = self.socket.recvmsg(65536, 64)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                lost = True
                continue
            space = self._space(ancillary)
            if space is None:
                continue
            try:
                counted |= {space for news in _parse(self._protocol, space, data) if self._matters(news)}
            except (struct.error, ValueError):  # a form that is not known may mean anything
                lost = True
        for space in counted:
            self._stir(space)
        if lost:
            self._stir(None)
        return lost or bool(counted)

    def _space(self, ancillary: list[tuple[int, int, bytes]]) -> str | None:
        """None: a namespace that is not ours."""
        for level, kind, data in ancillary:
            if (level, kind) == (_SOL_NETLINK, _LISTEN_ALL_NSID):
                return self._spaces.get(struct.unpack("i", data[:4])[0])
        return ""


def _open(protocol: int, groups: Iterable[int], *, everywhere: bool) -> socket.socket:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, protocol)
    try:
        try:
            sock.setsockopt(socket.SOL_SOCKET, getattr(socket, "SO_RCVBUFFORCE", 33), _BUFFER)
        except PermissionError:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        sock.bind((0, 0))
        if everywhere:
            sock.setsockopt(_SOL_NETLINK, _LISTEN_ALL_NSID, 1)
        for group in groups:
            sock.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
    except OSError:
        sock.close()
        raise
    return sock


def _number(ask: socket.socket, name: str) -> int | None:
    """A namespace's number in the node's own (rtnetlink(7), RTM_NEWNSID), given to it if it has none. None: it is gone."""
    try:
        fd = os.open(f"{netns.NETNS}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        with contextlib.suppress(FileExistsError):
            _request(ask, _NEWNSID, _ACK, struct.pack("=HHiHHI", 8, _NSID, -1, 8, _NSID_FD, fd))
        answer = _request(ask, _GETNSID, 0, struct.pack("=HHI", 8, _NSID_FD, fd))
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.EPERM) and not netns.is_namespace(f"{netns.NETNS}/{name}"):
            return None
        raise
    finally:
        os.close(fd)
    found = dict(attributes(answer, 4))
    return int(struct.unpack("=i", found[_NSID])[0])


def _request(ask: socket.socket, kind: int, flags: int, asked: bytes) -> bytes:
    """The body of the answer, empty where it is an acknowledgement. Raises OSError."""
    body = bytes(4) + asked
    ask.send(struct.pack("=IHHII", 16 + len(body), kind, _REQUEST | flags, 1, 0) + body)
    data = ask.recv(65536)
    (length, answer) = struct.unpack_from("=IH", data)
    if answer == _NLMSG_ERROR:
        number = -struct.unpack_from("=i", data, 16)[0]
        if number:
            raise OSError(number, os.strerror(number))
        return b""
    return data[16:length]


def _parse(protocol: int, space: str, data: bytes) -> Iterator[News]:
    """Raises struct.error or ValueError for what is no such message."""
    for kind, _, body in messages(data):
        if protocol == netns.NETFILTER:
            if kind >> 8 == nftables.SUBSYSTEM and kind & 0xFF not in (_NEWGEN, _GETGEN):
                name = text(dict(attributes(body, 4)).get(1))  # NFTA_…_TABLE is 1 in all of them
                yield News(space, "table", name=name, family=nftables.family(body) or "")
        elif (about := _RTM.get(kind)) is not None:
            yield _rtnetlink(space, about, body)


def _rtnetlink(space: str, about: _About, body: bytes) -> News:
    """linux/if_link.h, linux/if_addr.h, linux/rtnetlink.h."""
    if about == "traffic":
        return News(space, about, *struct.unpack_from("=i", body, 4))
    if about == "link":
        (index,) = struct.unpack_from("=i", body, 4)
        found = dict(attributes(body, 16))
        return News(space, about, index, text(found.get(3)), text(found.get(20)))
    if about == "address":
        scope, index = struct.unpack_from("=BI", body, 3)
        return News(space, about, index, link_local=scope == _SCOPE_LINK)
    _, length, _, _, table, _, _, kind = struct.unpack_from("=8B", body)
    found = dict(attributes(body, 12))
    oif, wide, destination = found.get(4), found.get(15), found.get(1)
    return News(
        space,
        about,
        struct.unpack("=I", oif)[0] if oif is not None else 0,
        link_local=destination is not None and (ip_address(destination).is_link_local or ip_address(destination).is_multicast),
        table=struct.unpack("=I", wide)[0] if wide is not None else table,
        type=kind,
        length=length,
        gateway=5 in found or 18 in found or 9 in found,
    )
