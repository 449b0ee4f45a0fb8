"""What netlink's messages are made of (netlink(7)), for what pyroute2 is not asked for."""

from __future__ import annotations

import struct
from collections.abc import Iterator


def messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Type, flags and body of each message in a datagram. Raises ValueError."""
    offset = 0
    while offset + 16 <= len(data):
        length, kind, flags = struct.unpack_from("=IHH", data, offset)
        if length < 16:
            raise ValueError("a message without a header")
        yield kind, flags, data[offset + 16 : offset + length]
        offset += (length + 3) & ~3


def attributes(body: bytes, offset: int) -> Iterator[tuple[int, bytes]]:
    """Type and value of each, from an offset in a message's body. Raises struct.error or ValueError."""
    while offset + 4 <= len(body):
        length, kind = struct.unpack_from("=HH", body, offset)
        if length < 4:
            raise ValueError("an attribute without a header")
        yield kind & 0x3FFF, body[offset + 4 : offset + length]
        offset += (length + 3) & ~3


def text(value: bytes | None) -> str:
    return value.split(b"\0")[0].decode(errors="replace") if value is not None else ""
