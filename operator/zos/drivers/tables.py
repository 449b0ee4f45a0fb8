"""Which nftables tables there are, asked of the kernel. (``nft list tables`` reads all that is in them first, which with
hundreds of tables takes seconds.)"""

from __future__ import annotations

import errno
import os
import socket
import struct

from zos.drivers import netns
from zos.drivers.news import FAMILIES, attributes, text

_GETTABLE = 10 << 8 | 1  # linux/netfilter/nf_tables.h
_NAME = 1
_REQUEST_DUMP = 0x301
_ERROR, _DONE = 2, 3
_INTERRUPTED = 0x10
_ATTEMPTS = 10
#: Seconds.
_ANSWER = 5.0


async def names(space: str) -> list[tuple[str, str]]:
    """Family and name of each table in a namespace. Raises OSError, DriverError where there is no such namespace."""
    return await netns.inside(space, _names)


def _names() -> list[tuple[str, str]]:
    for _ in range(_ATTEMPTS):
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, netns.NETFILTER) as ask:
            ask.settimeout(_ANSWER)
            ask.send(struct.pack("=IHHIIBBH", 20, _GETTABLE, _REQUEST_DUMP, 1, 0, 0, 0, 0))
            if (found := _answer(ask)) is not None:
                return found
    raise OSError(errno.EAGAIN, "nftables tables change faster than they can be listed")


def _answer(ask: socket.socket) -> list[tuple[str, str]] | None:
    """None: something changed meanwhile, and some may be missing."""
    found: list[tuple[str, str]] = []
    whole = True
    while True:
        data = ask.recv(1 << 16)
        offset = 0
        while offset + 16 <= len(data):
            length, kind, flags = struct.unpack_from("=IHH", data, offset)
            if length < 16:
                raise OSError(errno.EBADMSG, "a netlink message without a header")
            whole = whole and not flags & _INTERRUPTED
            if kind == _DONE:
                return found if whole else None
            if kind == _ERROR:
                number = -struct.unpack_from("=i", data, offset + 16)[0]
                raise OSError(number, os.strerror(number))
            body = data[offset + 16 : offset + length]
            if body and (family := FAMILIES.get(body[0])) is not None:
                found.append((family, text(dict(attributes(body, 4)).get(_NAME))))
            offset += (length + 3) & ~3
