"""The pool of fresh WireGuard keys: the controller takes one for each network, the agent refills."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass

POOL = 8
#: Seconds that a key nobody names any more is kept: a mistaken release can be taken back in that time.
KEEP = 600.0


@dataclass(frozen=True)
class Pool:
    """``publish`` is what GridNode.status.prekeys should be, ``create`` how many pairs are to be made for it first;
    ``forget`` are pairs to be deleted; ``unused`` since when (agent's clock) each key has been named by nobody."""

    publish: tuple[str, ...]
    create: int
    forget: frozenset[str]
    unused: Mapping[str, float]


def plan(
    on_disk: Set[str], published: tuple[str, ...], made: Set[str], used: Set[str], unused: Mapping[str, float], now: float
) -> Pool:
    """``made`` are pairs created by this agent that it has not yet seen published; ``used`` is named by a NodeWorkload or a
    hold. Only what is on this node's disk is offered: another disk's keys are of no use here. A key that was used is never
    offered again."""
    offered = [key for key in published if key in on_disk and key not in used]
    offered += sorted(key for key in made if key in on_disk and key not in used and key not in offered)
    idle = {key: unused.get(key, now) for key in on_disk - used - set(offered)}
    return Pool(
        publish=tuple(offered),
        create=max(0, POOL - len(offered)),
        forget=frozenset(key for key, since in idle.items() if now - since >= KEEP),
        unused=idle,
    )
