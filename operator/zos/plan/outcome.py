"""How carrying a plan out went, for those who report on it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from zos.api.meta import Reason
from zos.plan.items import Item
from zos.plan.lowered import Problem


@dataclass(frozen=True)
class Outcome:
    """``failed``: item key → error; ``pending``: item key → what is going on (a pull, a boot), or that nobody can look at it;
    ``blocked``: item key → key of the item it waits for. A key in none of them is in place."""

    failed: Mapping[str, str] = field(default_factory=dict)
    pending: Mapping[str, str] = field(default_factory=dict)
    blocked: Mapping[str, str] = field(default_factory=dict)

    def problem(self, items: Iterable[Item]) -> Problem | None:
        """Why not all of these are in place, what failed first. None: all are."""
        keys = [item.key for item in items]
        for key in keys:
            if key in self.failed:
                return Problem(Reason.FAILED, f"{key}: {self.failed[key]}")
        for key in keys:
            if key in self.pending:
                return Problem(Reason.PROGRESSING, f"{key}: {self.pending[key]}")
            if key in self.blocked:
                return Problem(Reason.PROGRESSING, f"{key} waits for {self.blocked[key]}")
        return None
