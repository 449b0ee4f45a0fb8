"""What lowering one NodeWorkload gives."""

from __future__ import annotations

from dataclasses import dataclass

from zos.api.meta import Reason
from zos.plan.items import Item


@dataclass(frozen=True)
class Problem:
    """Why a workload can't be carried out further for now."""

    reason: Reason
    message: str


@dataclass(frozen=True)
class Lowered:
    """``items`` must exist; ``problem`` says why there are not more of them. ``wake_at`` (seconds since the epoch) asks to
    be lowered again by then (a backoff that ends).

    ``whole``: these are all its items. Where that can't be said yet (an image that is not here, a fact that nobody could look
    up, a secret that can't be opened) what the workload has on the node stays exactly as it is: nothing of it is removed or
    changed. What ``items`` names may be made all the same. But for ``certain``: keys of those of ``items`` that are known to be
    right whatever else can't be said, like that a guest is to stop."""

    items: tuple[Item, ...] = ()
    problem: Problem | None = None
    wake_at: float | None = None
    whole: bool = True
    certain: frozenset[str] = frozenset()
