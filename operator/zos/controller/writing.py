"""What the parts of the executor share: how answers of the API server come back into the World, and finalizers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

from zos.api.meta import Key, Object
from zos.kube.client import Client, NotFound, Raw

MANAGER = "zos-controller"
Changed = Callable[[frozenset[Key]], None]


class Absorb(Protocol):
    def __call__(self, key: Key, raw: Raw | None, foreseen: Object | None = None) -> None: ...


async def finalizers(client: Client, absorb: Absorb, obj: Object, wanted: Iterable[str]) -> None:
    """Sets an object's finalizers, as long as it is as it is known. Gone already: fine."""
    body = {"metadata": {"resourceVersion": obj.metadata.resource_version, "finalizers": list(wanted)}}
    try:
        raw = await client.patch(type(obj), obj.namespace, obj.name, body, manager=MANAGER)
    except NotFound:
        return
    gone = "deletionTimestamp" in raw["metadata"] and not raw["metadata"].get("finalizers")
    absorb(obj.key, None if gone else raw)


async def every(waiters: Iterable[Awaitable[None]]) -> None:
    """Waits for all of them, also when one fails."""
    results = await asyncio.gather(*waiters, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
