"""How carrying a plan out went, for those who report on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Outcome:
    """``failed``: item key → error; ``pending``: item key → what is going on (a pull, a boot), or that nobody can look at it;
    ``blocked``: item key → key of the item it waits for. A key in none of them is in place."""

    failed: Mapping[str, str] = field(default_factory=dict)
    pending: Mapping[str, str] = field(default_factory=dict)
    blocked: Mapping[str, str] = field(default_factory=dict)
