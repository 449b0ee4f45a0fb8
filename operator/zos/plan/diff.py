"""Wanted against observed: the least that must be done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from zos.api.nodeworkload import Owner
from zos.plan.items import Item


@dataclass(frozen=True)
class Observed:
    """Something of ours that exists on the node. ``item`` is what it amounts to in the node's vocabulary, None where it is
    too broken to say. ``owner`` is the NodeWorkload it was made for, as marked on the thing itself; ``origin`` the user's
    object behind that, as far as the thing tells (at least its uid). ``shared``: as `Item.SHARED`. ``unused``: the node itself
    knows that nothing was ever stored there."""

    key: str
    item: Item | None
    owner: str = ""
    holds_data: bool = False
    origin: Owner | None = None
    shared: bool = False
    unused: bool = False


@dataclass(frozen=True)
class Op:
    """One thing to do. ``item`` is None for a removal, ``observed`` for a creation."""

    verb: Literal["create", "update", "remove"]
    key: str
    item: Item | None = None
    observed: Observed | None = None


def _nobody(owner: str) -> bool:
    return False


def diff(
    wanted: Iterable[Item],
    observed: Mapping[str, Observed],
    erased: frozenset[str] = frozenset(),
    kept: Callable[[str], bool] = _nobody,
    left: frozenset[str] = frozenset(),
    certain: frozenset[str] = frozenset(),
) -> list[Op]:
    """Operations that turn ``observed`` into ``wanted``; what is right already is not touched.

    What holds data is removed only when its owner is in ``erased``: that is somebody's word. Of owners in ``left``, who go and
    leave their data, what was never used goes as well. Nothing of the owners that are ``kept`` is removed or changed: what they
    want is not known for now, but for the items whose keys are ``certain``.
    """
    plan = {item.key: item for item in wanted}
    ops: list[Op] = []
    for key, item in plan.items():
        seen = observed.get(key)
        if seen is None:
            ops.append(Op("create", key, item))
        elif seen.item != item and (not kept(item.owner) or key in certain):
            ops.append(Op("update", key, item, seen))
    for key, seen in observed.items():
        going = seen.shared or not kept(seen.owner)
        empty = not seen.holds_data or (seen.unused and seen.owner in left)
        if key not in plan and going and (empty or seen.owner in erased):
            ops.append(Op("remove", key, observed=seen))
    return ops
