"""Secrets that are made for objects: a laptop's key pair, and the files that go with it."""

from __future__ import annotations

import base64
from collections.abc import Callable
from functools import partial
from typing import Any

from nacl.public import PrivateKey

from zos.api.core import Secret
from zos.api.meta import Object
from zos.api.names import OWNER_UID
from zos.api.text import is_key
from zos.controller.ledger import Lost
from zos.controller.writing import Exchange, attempt
from zos.world.resolution import PRIVATE_KEY, SecretWanted


class Secrets:
    """``owned`` gives the Secrets that were made for the object with a uid."""

    def __init__(self, exchange: Exchange, owned: Callable[[str], tuple[Secret, ...]]) -> None:
        self._client = exchange.client
        self._world = exchange.world
        self._absorb = exchange.absorb
        self._owned = owned

    def strays(self, obj: Object, wanted: tuple[SecretWanted, ...] | None) -> tuple[Secret, ...]:
        """Those that it has and is to have no more."""
        if wanted is None:
            return ()
        names = {secret.name for secret in wanted}
        return tuple(secret for secret in self._owned(obj.uid) if secret.name not in names)

    async def write(self, obj: Object, wanted: tuple[SecretWanted, ...], strays: tuple[Secret, ...]) -> list[str]:
        """Gives what the API server refuses for good."""
        refused: list[str] = []
        for secret in wanted:
            refused += await attempt(f"Secret {secret.name}", partial(self._write, obj, secret))
        for stray in strays:
            await self._client.delete(Secret, stray.namespace, stray.name, uid=stray.uid)
            self._absorb(stray.key, None)
        return refused

    async def _write(self, obj: Object, wanted: SecretWanted) -> None:
        if wanted.values is None:
            return
        key = Secret.key_of(obj.namespace, wanted.name)
        if self._world.unfetched(key):
            raise Lost(f"Secret {wanted.name} changed meanwhile")
        present = self._world.peek(key)
        assert present is None or isinstance(present, Secret)
        private = present.text("privateKey") if present is not None else None
        if wanted.key_pair and present is not None and "privateKey" in present.data and not is_key(private):
            raise Lost(f"Secret {wanted.name} was changed meanwhile")  # its network says so and leaves it alone
        needed = {name: base64.b64encode(value.encode()).decode() for name, value in contents(wanted, private).items()}
        if present is not None and present.data == needed:
            return
        owner = {"apiVersion": obj.API_VERSION, "kind": obj.KIND, "name": obj.name, "uid": obj.uid, "controller": True}
        body: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": wanted.name,
                "namespace": obj.namespace,
                "labels": {OWNER_UID: obj.uid},
                "ownerReferences": [owner],
            },
            "data": needed,
        }
        if present is None:
            raw = await self._client.create(Secret, obj.namespace, body)
        else:
            body["metadata"]["resourceVersion"] = present.metadata.resource_version
            raw = await self._client.replace(Secret, obj.namespace, wanted.name, body)
        self._absorb(key, raw)


def contents(wanted: SecretWanted, private: str | None) -> dict[str, str]:
    """What the Secret must hold (text, not base64), keeping the key pair of the ``private`` key that it has. Without one, a
    pair is made: here randomness enters."""
    found: dict[str, str] = {}
    if wanted.key_pair:
        pair = PrivateKey(base64.b64decode(private)) if private else PrivateKey.generate()
        found["privateKey"] = base64.b64encode(bytes(pair)).decode()
        found["publicKey"] = base64.b64encode(bytes(pair.public_key)).decode()
    key = found.get("privateKey", "")
    return found | {name: value.replace(PRIVATE_KEY, key) for name, value in (wanted.values or {}).items()}
