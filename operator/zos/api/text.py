"""Texts, numbers and names that one party writes and another reads, each with its form and its bound.

The API server holds writers to them, status included. Reading is lenient: what an older or a newer peer has left in the
cluster is no reason to read nothing at all. Patterns cost nothing of the budget that CEL rules have; ``$`` is the end of the
text there, not of a line.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, ValidatorFunctionWrapHandler, WithJsonSchema, WrapValidator
from pydantic_core import CoreSchema, core_schema

#: All but the characters that end a line, begin an escape sequence or cut a text short.
_PLAIN = r"\P{Cc}"
_WORD = re.compile(r"[A-Za-z0-9+/=.:-]{1,64}")
_MESSAGE = 4096
_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"


def _text(limit: int, pattern: str | None = None, **extra: Any) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "maxLength": limit, **({"pattern": pattern} if pattern else {}), **extra})


def _integer(lowest: int, highest: int) -> WithJsonSchema:
    return WithJsonSchema({"type": "integer", "minimum": lowest, "maximum": highest})


Uid = Annotated[str, _text(64, "^[A-Za-z0-9-]+$")]
"""``metadata.uid``."""

KindName = Annotated[str, _text(63, "^[A-Za-z]*$")]
Label = Annotated[str, _text(63, f"^({_LABEL})?$")]
"""A namespace, or anything else that is a DNS label."""

LabelValue = Annotated[str, _text(63, "^([A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?)?$")]
_NAME = f"{_LABEL}([.]{_LABEL})*"
Name = Annotated[str, _text(253, f"^({_NAME})?$")]
"""``metadata.name``."""

#: What users refer to other objects and to namespaces by; see `schema.named`.
REFERENCE, LABEL = f"^{_NAME}$", f"^{_LABEL}$"

Line = Annotated[str, _text(1024, f"^{_PLAIN}*$")]
"""Words without control characters: they may go into somebody else's file."""

Message = Annotated[str, _text(_MESSAGE)]
"""Sentences for people; see `sentence`."""

ConditionType = Annotated[str, _text(64, "^[A-Za-z][A-Za-z0-9]*$")]
ReasonWord = Annotated[str, _text(256, "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$")]
"""A condition's reason as it is written: `Reason` knows those of this version."""

Time = Annotated[
    str, _text(40, "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})$")
]
"""RFC 3339."""

#: 32 bytes in base64. The last character has two bits to spare, which are zero.
KEY = "^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$"
PublicKey = Annotated[str, _text(44, KEY)]
"""WireGuard or X25519."""


def is_key(text: str | None) -> bool:
    """Whether a text is a key of 32 bytes as ``wg`` prints it."""
    return text is not None and re.fullmatch(KEY, text) is not None and not text.endswith("\n")


#: Keys that no pair has, as patterns: a highest bit that is set, and numbers from 2^255 - 2^8 or so on (RFC 7748, 5: public
#: keys are below 2^255 - 19), and points of small order, with which everybody agrees on the same secret
#: (https://cr.yp.to/ecdh.html#validate): 0, 1 and two of order 8; that of order 2 is among the large ones.
NO_PAIR = (
    "^.{41}[I-PY-fo-v4-9+/]",
    "^.[Pfv/]/{38}",
    "^A[AQ]A{40}",
    "^4Ot6fDtBuK4WVuP68Z/EatoJjeucMrH9hmIFFl9JuAA=$",
    "^X5yVvKNQjCSx0LFVnIPvWwREXMRYHI6G2CJO3dCfEVc=$",
)


def is_half(key: str) -> bool:
    """Whether a key of 32 bytes can be the public half of a pair."""
    return not any(re.match(pattern, key) for pattern in NO_PAIR)


def is_name(text: str) -> bool:
    """Whether an object can have that name."""
    return len(text) <= 253 and re.fullmatch(_NAME, text) is not None


Version = Annotated[str, _text(32, "^[0-9A-Za-z][0-9A-Za-z.+_-]*$")]
Variable = Annotated[str, _text(253, "^[A-Za-z_][A-Za-z0-9_]*$")]
SecretName = Annotated[str, _text(260, "^[A-Za-z0-9_./-]+$")]
Argument = Annotated[str, _text(32768, r"^[^\x00]*$")]
"""An argument or a variable's value: anything but a NUL, which would cut it short."""

UserData = Annotated[str, _text(65536, r"^[^\x00]*$")]
"""What cloud-init is told."""

SshKey = Annotated[str, _text(16384, r"^[^\x00]*$")]
Base64 = Annotated[str, _text(1536 * 1024, "^[A-Za-z0-9+/]*={0,2}$")]
Digest = Annotated[str, _text(200, "^[a-z0-9]+:[a-f0-9]{16,128}$")]
Path = Annotated[str, _text(4096, f"^/{_PLAIN}*$")]

Ipv4 = Annotated[str, _text(15, format="ipv4")]
Ipv6 = Annotated[str, _text(45, format="ipv6")]
Ip = Annotated[str, _text(45, "^[0-9a-fA-F:.]+$")]
"""An address of either family."""

Cidr = Annotated[str, _text(49, format="cidr")]
Range = Annotated[str, _text(31, "^[0-9.]+([-/][0-9.]+)?$")]
"""IPv4 addresses: a CIDR, or the first and the last with a dash between."""

Mac = Annotated[str, _text(17, "^[0-9a-f]{2}(:[0-9a-f]{2}){5}$")]
HostPort = Annotated[str, _text(53, r"^([0-9.]{7,15}|\[[0-9a-f:.]{2,45}\]):[0-9]{1,5}$")]
"""``host:port``, IPv6 in brackets."""

Interface = Annotated[str, _text(15, r"^[^/\s\p{Cc}]+$")]

Mtu = Annotated[int, _integer(576, 65535)]
PrefixLength = Annotated[int, _integer(0, 128)]
Port = Annotated[int, _integer(1, 65535)]
#: The highest `Count`: a sum of what others wrote may be more.
MOST_COUNTED = 2**31 - 1
Count = Annotated[int, _integer(0, MOST_COUNTED)]


def host(cidr: str) -> str:
    """The address of a `Cidr`, without its prefix length."""
    return cidr.partition("/")[0]


def sentence(words: str) -> str:
    """As much of a message as admission takes."""
    return words if len(words) <= _MESSAGE else words[: _MESSAGE - 1] + "…"


@dataclass(frozen=True)
class otherwise:
    """A field that reads ``neutral`` where a newer peer said something that this version does not know. In Rust: it is on every
    condition of every object."""

    neutral: str | None

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        known = core_schema.with_default_schema(handler(source), default=self.neutral, on_error="default")
        return core_schema.chain_schema([known])  # in a chain the CRD goes on requiring what has no default


def only(fits: Callable[[Any], bool]) -> WrapValidator:
    """A list that is read without the entries that do not fit: what was written before admission looked at it stays in the
    cluster, and must not go on into anybody's file."""

    def read(value: Any, known: ValidatorFunctionWrapHandler) -> Any:
        return tuple(entry for entry in known(value) if fits(entry))

    return WrapValidator(read)


def word(text: str) -> bool:
    """One word of what keys, addresses and names are made of: it can't end a line nor begin another setting."""
    return _WORD.fullmatch(text) is not None
