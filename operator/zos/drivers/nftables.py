"""Which nftables tables there are, how one is shown, and what counters say.

``nft list`` of anything but one table (nftables 1.0.6) reads all there is first, which with hundreds of tables takes seconds:
the kernel itself is asked.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator, Mapping

from zos.drivers import netns
from zos.drivers.nlmessages import attributes, messages, text
from zos.drivers.process import ProcessError, run

#: linux/netfilter/nfnetlink.h
SUBSYSTEM = 10
#: linux/netfilter.h, in nft's words.
_FAMILIES = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}
#: linux/netfilter/nf_tables.h
_GETTABLE, _GETOBJ = SUBSYSTEM << 8 | 1, SUBSYSTEM << 8 | 19
_TABLE_NAME = 1
_OBJECT_TABLE, _OBJECT_NAME, _OBJECT_TYPE, _OBJECT_DATA = 1, 2, 3, 4
_COUNTER = 1
_COUNTER_PACKETS = 2
#: linux/netlink.h
_REQUEST_DUMP = 0x301
_ERROR, _DONE = 2, 3
_INTERRUPTED = 0x10

_ATTEMPTS = 10
#: Seconds.
_ANSWER = 5.0

_Message = tuple[str, Mapping[int, bytes]]


async def names(space: str) -> list[tuple[str, str]]:
    """Family and name of each table in a namespace. Raises OSError, DriverError where there is no such namespace."""
    found = await netns.inside(space, lambda: _dump(_GETTABLE))
    return [(family, text(message.get(_TABLE_NAME))) for family, message in found]


async def shown(space: str, family: str, name: str) -> str | None:
    """How the kernel shows a table, but for what its counters count; None where there is none. Raises DriverError, OSError."""
    try:
        return (await run("nft", "-s", "list", "table", family, name, netns=space)).stdout
    except ProcessError as error:
        if error.code is not None and (family, name) not in await names(space):
            return None
        raise


def packets() -> dict[tuple[str, str], int]:
    """What each named counter in the node's own namespace has counted, by table and counter. Raises OSError."""
    counted: dict[tuple[str, str], int] = {}
    for _, message in _dump(_GETOBJ, struct.pack("=HH", 8, _OBJECT_TYPE) + struct.pack(">I", _COUNTER)):
        data = dict(attributes(message.get(_OBJECT_DATA, b""), 0))
        (number,) = struct.unpack(">Q", data[_COUNTER_PACKETS])
        counted[text(message.get(_OBJECT_TABLE)), text(message.get(_OBJECT_NAME))] = number
    return counted


def family(body: bytes) -> str | None:
    """Of the table that a message is about, in nft's words; None for one that has none."""
    return _FAMILIES.get(body[0]) if body else None


def _dump(kind: int, wanted: bytes = b"") -> list[_Message]:
    """All there is of a kind: family, in nft's words, and attributes. Raises OSError."""
    for _ in range(_ATTEMPTS):
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, netns.NETFILTER) as ask:
            ask.settimeout(_ANSWER)
            ask.send(struct.pack("=IHHIIBBH", 20 + len(wanted), kind, _REQUEST_DUMP, 1, 0, 0, 0, 0) + wanted)
            found: list[_Message] = []
            whole = True
            for flags, body in _answers(ask):
                whole = whole and not flags & _INTERRUPTED  # else something changed meanwhile, and some may be missing
                if (of := family(body)) is not None:
                    found.append((of, dict(attributes(body, 4))))
            if whole:
                return found
    raise OSError(errno.EAGAIN, "nftables change faster than they can be listed")


def _answers(ask: socket.socket) -> Iterator[tuple[int, bytes]]:
    """Flags and body of each message, up to the last one, which has no body."""
    while True:
        for kind, flags, body in messages(ask.recv(1 << 16)):
            if kind in (_ERROR, _DONE) and (number := -struct.unpack_from("=i", body)[0]):
                raise OSError(number, os.strerror(number))
            yield flags, b"" if kind == _DONE else body
            if kind == _DONE:
                return
