"""What keeps a network from being whole, as values: whoever finds something returns it, and who judges puts the worst first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum, unique

from zos.api.meta import Reason

#: Nodes that are named where many have the same to say.
_SHOWN = 3


@unique
class Rank(IntEnum):
    """Which problem is told first, and whose reason is the network's: that from which others may follow."""

    MEMBERS = 0
    RANGES = 1
    SEATS = 2
    RELAY = 3
    LAPTOPS = 4
    LAPTOP_KEYS = 5
    CUT_OFF = 6
    APART = 7
    PLACES = 8
    OVERLAP = 9


@dataclass(frozen=True)
class Problem:
    rank: Rank
    reason: Reason
    message: str


Problems = tuple[Problem, ...]


def worst_first(problems: Iterable[Problem]) -> list[Problem]:
    """Those of one rank in the order in which they were found."""
    return sorted(problems, key=lambda problem: problem.rank)


def called(kind: str, names: Sequence[str]) -> str:
    """A grid's nodes are often alike: what is said of all is said once."""
    if len(names) == 1:
        return f"{kind} {names[0]}"
    shown, more = names[:_SHOWN], len(names) - _SHOWN
    return f"{kind}s {', '.join(shown)}" + (f" and {more} more" if more > 0 else "")
