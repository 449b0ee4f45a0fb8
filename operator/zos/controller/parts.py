"""A pool's status in parts: its own, and the share of each holder. What may be written apart from the rest."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from zos.api.meta import Object, Status

#: The part that is the pool's own status. Others are called by their holder's uid.
OWN = ""


def pool_field(obj: Object) -> str:
    """The field of the status that has the shares."""
    assert obj.POOL is not None
    return obj.POOL


def own_fields(obj: Object) -> list[str]:
    """Of a pool's status, those that are the controller's."""
    status: Any = obj.status  # type: ignore[attr-defined]
    return [name for name in type(status).model_fields if name not in status.AGENTS]


def shares(obj: Object) -> dict[str, Any]:
    return {entry.uid: entry for entry in getattr(obj.status, pool_field(obj))}  # type: ignore[attr-defined]


def differing(base: Object, wanted: Object) -> tuple[str, ...]:
    """The parts in which ``wanted`` differs from ``base``."""
    one: Any = base
    other: Any = wanted
    own = [name for name in own_fields(base) if name != pool_field(base)]
    found = [OWN] if any(getattr(one.status, name) != getattr(other.status, name) for name in own) else []
    was, is_ = shares(base), shares(wanted)
    return (*found, *(uid for uid in {**was, **is_} if was.get(uid) != is_.get(uid)))


def follows(before: Any, after: Any) -> bool:
    """Whether two states of a pool differ in nothing but the shares and what follows from them."""
    besides = {pool_field(before), *before.status.SUMS}
    return all(
        getattr(before.status, name) == getattr(after.status, name) for name in own_fields(before) if name not in besides
    )


def with_parts(base: Object, wanted: Object, parts: Collection[str]) -> Status:
    """The status of ``base``, with these parts as in ``wanted``."""
    was: Any = base
    is_: Any = wanted
    pool = pool_field(base)
    update = {name: getattr(is_.status, name) for name in own_fields(base) if OWN in parts and name != pool}
    held, wished = shares(base), shares(wanted)
    for uid in parts:
        if uid in wished:
            held[uid] = wished[uid]
        else:
            held.pop(uid, None)
    status: Status = was.status.model_copy(update={**update, pool: tuple(held.values())})
    return status


def cause(pool: Object) -> object:
    """What somebody would have to change before the pool's own status is worth another try at once."""
    status: Any = pool.status  # type: ignore[attr-defined]
    return pool.metadata.generation, [getattr(status, name) for name in sorted(status.AGENTS)]


def with_status(obj: Object, status: Status) -> Object:
    return obj.model_copy(update={"status": status})


def same_own(one: Any, other: Any) -> bool:
    """Whether the controller's fields of a pool's status are the same in both."""
    return all(getattr(one.status, name) == getattr(other.status, name) for name in own_fields(one))


def with_own(fresh: Any, current: Any) -> Object:
    """``fresh``, with the controller's fields of the status as they are in ``current``."""
    own = {name: getattr(current.status, name) for name in own_fields(fresh)}
    return with_status(fresh, fresh.status.model_copy(update=own))
