"""Which nftables tables there are and what their counters say, asked of the kernel.

``nft list`` of anything but one table (nftables 1.0.6) reads all there is first, which with hundreds of tables takes seconds.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator, Mapping

from zos.drivers import netns
from zos.drivers.news import FAMILIES, attributes, text

#: linux/netfilter/nf_tables.h
_TABLES = 10 << 8
_GETTABLE, _GETOBJ = _TABLES | 1, _TABLES | 19
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


def packets() -> dict[tuple[str, str], int]:
    """What each named counter in the node's own namespace has counted, by table and counter. Raises OSError."""
    counted: dict[tuple[str, str], int] = {}
    for _, message in _dump(_GETOBJ, struct.pack("=HH", 8, _OBJECT_TYPE) + struct.pack(">I", _COUNTER)):
        data = dict(attributes(message.get(_OBJECT_DATA, b""), 0))
        (number,) = struct.unpack(">Q", data[_COUNTER_PACKETS])
        counted[text(message.get(_OBJECT_TABLE)), text(message.get(_OBJECT_NAME))] = number
    return counted


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
                if body and (family := FAMILIES.get(body[0])) is not None:
                    found.append((family, dict(attributes(body, 4))))
            if whole:
                return found
    raise OSError(errno.EAGAIN, "nftables change faster than they can be listed")


def _answers(ask: socket.socket) -> Iterator[tuple[int, bytes]]:
    """Flags and body of each message, up to the last one, which has no body."""
    while True:
        data = ask.recv(1 << 16)
        offset = 0
        while offset + 16 <= len(data):
            length, kind, flags = struct.unpack_from("=IHH", data, offset)
            if length < 16:
                raise OSError(errno.EBADMSG, "a netlink message without a header")
            if kind in (_ERROR, _DONE) and (number := -struct.unpack_from("=i", data, offset + 16)[0]):
                raise OSError(number, os.strerror(number))
            yield flags, b"" if kind == _DONE else data[offset + 16 : offset + length]
            if kind == _DONE:
                return
            offset += (length + 3) & ~3
