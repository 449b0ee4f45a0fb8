"""What all who write share: the way to the API server and back, finalizers, patches, and writes that may be refused."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from zos.api.meta import Key, Model, Object
from zos.api.names import CONTROLLER
from zos.kube.client import ApiError, Client, NotFound, Raw
from zos.world.store import World

MANAGER = CONTROLLER
Changed = Callable[[frozenset[Key]], None]
_T = TypeVar("_T")


class Absorb(Protocol):
    def __call__(self, key: Key, raw: Raw | None, foreseen: Object | None = None) -> None: ...


@dataclass(frozen=True)
class Exchange:
    """The way to the API server and back. ``client`` writes; ``world`` is what is known; ``absorb`` puts what the API server
    answered into it, given with it the object that was foreseen, if one was; ``changed`` hands on keys to resolve again, and
    ``again`` one, after so many seconds."""

    client: Client
    world: World
    absorb: Absorb
    changed: Changed
    again: Callable[[Key, float], None]


async def finalizers(exchange: Exchange, obj: Object, wanted: Iterable[str]) -> None:
    """Sets an object's finalizers, as long as it is as it is known. Gone already: fine."""
    body = {"metadata": {"resourceVersion": obj.metadata.resource_version, "finalizers": list(wanted)}}
    try:
        raw = await exchange.client.patch(type(obj), obj.namespace, obj.name, body, manager=MANAGER)
    except NotFound:
        return
    gone = "deletionTimestamp" in raw["metadata"] and not raw["metadata"].get("finalizers")
    exchange.absorb(obj.key, None if gone else raw)


async def attempt(what: str, write: Callable[[], Awaitable[None]]) -> tuple[str, ...]:
    """A write that no other depends on: what the API server refuses for good is given back in words, and the others go on.
    ``write`` is called only here: a coroutine made earlier would be left over where this is cancelled before it begins."""
    try:
        await write()
    except ApiError as error:
        if not error.permanent:
            raise
        return (f"{what}: the API server refuses it: {error}",)
    return ()


async def every(works: Iterable[Awaitable[_T]]) -> list[_T]:
    """What came of each. Waits for all of them, also when one fails."""
    found: list[_T] = []
    for result in await asyncio.gather(*works, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result
        found.append(result)
    return found


def status_patch(before: Model, after: Model) -> dict[str, Any]:
    """A JSON merge patch (RFC 7386) from a status as it was read to the next one. What was not there is no 0: a count that
    nobody ever wrote is shown as nothing. What neither of them names is not written: it may be somebody else's field."""
    patch: dict[str, Any] = {}
    whole: set[str] = set()
    for name, field in type(after).model_fields.items():
        was, is_ = getattr(before, name), getattr(after, name)
        if isinstance(was, Model) and isinstance(is_, Model):
            if inner := status_patch(was, is_):
                patch[field.alias or name] = inner
            continue
        named = name in after.model_fields_set - before.model_fields_set and is_ is not None and is_ != ()
        if was != is_ or named:
            whole.add(name)
            patch[field.alias or name] = None
    return patch | after.model_dump(mode="json", by_alias=True, exclude_none=True, include=whole)
