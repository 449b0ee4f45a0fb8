"""What is wanted on a node: all workloads lowered, and one item for each key."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from zos.api.meta import Reason
from zos.api.nodeworkload import NodeWorkload
from zos.kinds.kind import Here, OnNode
from zos.plan.facts import Facts, Unknown
from zos.plan.items import Item
from zos.plan.lowered import Lowered, Problem

log = logging.getLogger("zos.agent")


@dataclass(frozen=True)
class Plan:
    """All workloads lowered. ``wanted`` has one item for a key; ``refused`` says, per workload, which of its items can't be
    had, and why; ``broken`` are the workloads whose lowering failed."""

    lowered: Mapping[str, Lowered]
    wanted: Mapping[str, Item]
    refused: Mapping[str, Mapping[str, str]]
    broken: frozenset[str]

    @property
    def whole(self) -> frozenset[str]:
        """Those of which all that they want is known."""
        return frozenset(name for name, lowered in self.lowered.items() if lowered.whole)

    @property
    def certain(self) -> frozenset[str]:
        """Keys of items that are right whatever else of their workloads is not known."""
        return frozenset(key for lowered in self.lowered.values() for key in lowered.certain)


class Lowering:
    """Asks again only of what has changed, or when other facts are known. ``served_by`` gives whose code serves a workload."""

    def __init__(self, served_by: Callable[[NodeWorkload], OnNode[Any, Any] | None]) -> None:
        self._served_by = served_by
        self._basis: Facts | None = None  # what it knew last, without the time
        self._lowered: dict[str, tuple[NodeWorkload, Lowered, float]] = {}  # and when, by the wall clock

    def lower(self, workloads: Mapping[str, NodeWorkload], facts: Facts) -> Plan:
        if not self.knows(facts):
            self._basis, self._lowered = _basis(facts), {}
        known = self._lowered
        self._lowered = {}
        broken: set[str] = set()
        for name, workload in workloads.items():
            if workload.deleting:
                continue
            old = known.get(name)
            if old is not None and unchanged(old[0], workload) and asleep(old[1].wake_at, old[2], facts.now):
                self._lowered[name] = old
                continue
            lowered = self._one(workload, facts)
            if lowered is None:
                broken.add(name)
            else:
                self._lowered[name] = (workload, lowered, facts.now)
        wanted: dict[str, Item] = {}
        refused: dict[str, dict[str, str]] = {}
        # What is whole first: it may change what is there. Then the oldest.
        ranked = sorted(
            self._lowered, key=lambda n: (not self._lowered[n][1].whole, workloads[n].metadata.creation_timestamp, n)
        )
        for name in ranked:
            for item in self._lowered[name][1].items:
                owned = item if item.owner else replace(item, owner=name)
                first = wanted.setdefault(item.key, owned)
                if first != item:
                    refused.setdefault(name, {})[item.key] = (
                        f"NodeWorkload {first.owner} wants it differently: one of the two has to go"
                    )
        return Plan({name: lowered for name, (_, lowered, _) in self._lowered.items()}, wanted, refused, frozenset(broken))

    def _one(self, workload: NodeWorkload, facts: Facts) -> Lowered | None:
        """None where it can't be told what the workload wants; what it has on the node stays as it is then."""
        kind = self._served_by(workload)
        if kind is None:
            return None
        try:
            return kind.lower(Here.of(workload, workload.spec.part, facts))
        except Unknown as unknown:
            return Lowered(problem=Problem(Reason.PROGRESSING, str(unknown)), whole=False)
        except Exception:  # one broken workload stays its own problem
            log.exception("lowering failed", extra={"workload": workload.name})
            return None

    def knows(self, facts: Facts) -> bool:
        """Whether the last plan follows from these facts, but for the time."""
        return self.basis(facts) is self._basis

    def basis(self, facts: Facts) -> Facts:
        """Facts without the time; the object that the last plan follows from, when nothing else changed."""
        basis = _basis(facts)
        return self._basis if self._basis is not None and basis == self._basis else basis


def asleep(wake_at: float | None, since: float, now: float) -> bool:
    """Whether there is no need to ask again. A clock that was set back says nothing about when to wake up."""
    return wake_at is None or since <= now < wake_at


def _basis(facts: Facts) -> Facts:
    """Facts but for the time, which alone is no reason to lower again."""
    return replace(facts, now=0.0)


def unchanged(old: NodeWorkload, new: NodeWorkload) -> bool:
    """As far as lowering sees it: the API server counts the generations of the spec."""
    return old.uid == new.uid and old.metadata.generation == new.metadata.generation
