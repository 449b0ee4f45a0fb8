"""Where randomness and secrecy enter: laptops' key pairs, and values sealed to a node's key."""

from __future__ import annotations

import base64
from collections.abc import Iterable

from nacl.public import PrivateKey, PublicKey, SealedBox

from zos.api.nodeworkload import Sealed
from zos.world.resolution import PRIVATE_KEY, SecretValue, SecretWanted


def contents(wanted: SecretWanted, private: str | None) -> dict[str, str]:
    """What the Secret must hold (text, not base64), keeping the key pair of the ``private`` key that it has."""
    found: dict[str, str] = {}
    if wanted.key_pair:
        pair = PrivateKey(base64.b64decode(private)) if private else PrivateKey.generate()
        found["privateKey"] = base64.b64encode(bytes(pair)).decode()
        found["publicKey"] = base64.b64encode(bytes(pair.public_key)).decode()
    key = found.get("privateKey", "")
    return found | {name: value.replace(PRIVATE_KEY, key) for name, value in (wanted.values or {}).items()}


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
