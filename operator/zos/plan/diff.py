"""Wanted against observed: the least that must be done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from zos.plan.items import Item


@dataclass(frozen=True)
class Observed:
    """Something of ours that exists on the node. ``item`` is what it amounts to in the node's vocabulary, None where it is
    too broken to say. ``owner`` is the NodeWorkload it was made for, as marked on the thing itself."""

    key: str
    item: Item | None
    owner: str = ""
    holds_data: bool = False


@dataclass(frozen=True)
class Op:
    """One thing to do. ``item`` is None for a removal, ``observed`` for a creation."""

    verb: Literal["create", "update", "remove"]
    key: str
    item: Item | None = None
    observed: Observed | None = None


def diff(
    wanted: Iterable[Item],
    observed: Mapping[str, Observed],
    released: frozenset[str] = frozenset(),
    kept: frozenset[str] = frozenset(),
) -> list[Op]:
    """Operations that turn ``observed`` into ``wanted``; what is right already is not touched.

    What holds data is removed only when the NodeWorkload that owns it is in ``released`` (its deletion was seen).
    Nothing of the owners in ``kept`` is removed: what they want is not known for now.
    """
    plan = {item.key: item for item in wanted}
    ops: list[Op] = []
    for key, item in plan.items():
        seen = observed.get(key)
        if seen is None:
            ops.append(Op("create", key, item))
        elif seen.item != item:
            ops.append(Op("update", key, item, seen))
    for key, seen in observed.items():
        if key not in plan and seen.owner not in kept and (not seen.holds_data or seen.owner in released):
            ops.append(Op("remove", key, observed=seen))
    return ops


def quarantined(wanted: Iterable[Item], observed: Mapping[str, Observed], known: frozenset[str]) -> tuple[Observed, ...]:
    """Data that nobody wants and that no NodeWorkload in ``known`` owns: kept untouched until a person decides."""
    plan = {item.key for item in wanted}
    return tuple(
        seen for key, seen in sorted(observed.items()) if seen.holds_data and key not in plan and seen.owner not in known
    )
