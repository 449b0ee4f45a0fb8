"""Hostile bytes and texts: what a tenant or an agent can put wherever they may write."""

from __future__ import annotations

import base64
from random import Random

_TEXTS = (
    "",
    " ",
    "hello",
    "x" * 100_000,
    "a\nPostUp = id\n",
    "]\n[Peer]\nPublicKey = ",
    "\x00",
    "cut\x00here",
    "\u202e\u0007\u001b[31m",
    "\U0001d4b3" * 40,
    "../../../../etc/shadow",
    "$(id) `id` ; id",
    "-1",
    "1e309",
    "9" * 400,
    "null",
    "{{}}",
    "A" * 43 + "=",  # the all-zero key
    "====",
    "10.0.0.1/33",
    "2001:db8::/129",
)


def text(chance: Random) -> str:
    """Something that JSON can carry."""
    if chance.random() < 0.7:
        return chance.choice(_TEXTS)
    return "".join(chr(chance.choice((*range(1, 0xD800), *range(0xE000, 0x3000, 7)))) for _ in range(chance.randint(1, 64)))


def value(chance: Random) -> bytes:
    """Something that a Secret can carry: text or none."""
    if chance.random() < 0.5:
        return text(chance).encode()
    kind = chance.randrange(4)
    if kind == 0:
        return chance.randbytes(chance.randint(1, 200))
    if kind == 1:
        return b"\xff\xfe\x80" * chance.randint(1, 20)
    if kind == 2:  # a key that looks right and has a byte too many or too few
        return base64.b64encode(chance.randbytes(chance.choice((31, 32, 33))))
    return chance.randbytes(chance.choice((1, 4096, 500_000)))
