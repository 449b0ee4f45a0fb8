"""Values sealed to a node's key, which only that node can open."""

from __future__ import annotations

import base64
from collections.abc import Iterable

from nacl.public import PublicKey, SealedBox

from zos.api.nodeworkload import Sealed
from zos.world.resolution import SecretValue


def seal(values: Iterable[SecretValue], node_key: str, before: Iterable[Sealed]) -> tuple[Sealed, ...]:
    """Values for one node only (libsodium sealed boxes). What was sealed from the same source for the same key is kept:
    sealing is randomised, so doing it again would look like a change."""
    values = tuple(values)
    if not values:
        return ()
    had = {sealed.name: sealed for sealed in before}
    box = SealedBox(PublicKey(base64.b64decode(node_key)))
    found: list[Sealed] = []
    for value in values:
        source = _source(value, node_key)
        old = had.get(value.name)
        if old is not None and old.source == source:
            found.append(old)
        else:
            sealed = base64.b64encode(box.encrypt(value.value.encode())).decode()
            found.append(Sealed(name=value.name, source=source, value=sealed))
    return tuple(found)


def sealed_as(values: Iterable[SecretValue], node_key: str, present: Iterable[Sealed]) -> bool:
    """Whether these values are what a node has, sealed to its key."""
    return [(value.name, _source(value, node_key)) for value in values] == [(sealed.name, sealed.source) for sealed in present]


def _source(value: SecretValue, node_key: str) -> str:
    return f"{value.source}@{node_key[:12]}"
