"""When ends are a crash loop, whatever it is that ends."""

from __future__ import annotations

from collections.abc import Iterable

#: Four ends within this many seconds are a crash loop.
WINDOW = 120.0
LOOP = 4
#: Seconds between tries in a crash loop, before jitter.
SLOW = 60.0


def streak(times: Iterable[float], now: float) -> int:
    """How many of the last ends followed each other closely, slow tries of a loop included; at least one. What is yet to come
    by the present clock says nothing."""
    ends = sorted({time for time in times if time <= now})
    count = 1
    for earlier, later in zip(reversed(ends[:-1]), reversed(ends[1:]), strict=True):
        gap = later - earlier
        if gap > (WINDOW if count < LOOP else WINDOW + SLOW):
            break
        count += 1
    within = sum(1 for end in ends if ends[-1] - end <= WINDOW)
    return count if count >= LOOP and (within >= LOOP or count > LOOP) else min(count, LOOP - 1)
