"""What a guest's console says of the pings that it sends, ten times a second, for hours."""

from __future__ import annotations

import re
from collections.abc import Sequence

#: The numbers of pings have 16 bits.
_ROUND = 1 << 16
#: How far behind the last answer another one may come.
_LATE = 20


def answered(console: str) -> list[int]:
    """The numbers of those that were, in their order, since the machine's last start."""
    found: list[int] = []
    for word in re.findall(r"seq=(\d+) ttl", console):
        number = int(word)
        if found and _LATE < found[-1] - number < _ROUND // 2:
            found.clear()  # another ping, which begins anew
        found.append(number)
    return found


def counted(numbers: Sequence[int], upto: int | None) -> list[int]:
    """As if they had no bound: each is the one nearest to the one before, the first to ``upto``, where that is known."""
    found: list[int] = []
    for number in numbers:
        near = found[-1] if found else number if upto is None else upto
        found.append(near + (number - near + _ROUND // 2) % _ROUND - _ROUND // 2)
    return found


def lost(numbers: Sequence[int], upto: int) -> tuple[list[int], int]:
    """Of `counted` ones: those after ``upto`` that were not answered, and up to where that is certain by now."""
    there = set(numbers)
    certain = max(upto, max(there, default=upto) - _LATE)
    return [number for number in range(upto + 1, certain + 1) if number not in there], certain
