"""When Python looks for garbage: when there is nothing else to do.

Nearly everything that comes in during a burst is the world, which stays, and going through it took a tenth of the burst.
"""

from __future__ import annotations

import gc

#: New objects (those that can be part of a cycle) that are worth a look when there is time; and that are too many to wait.
_WORTH, _TOO_MANY = 50_000, 400_000
#: Every so many looks, everything is gone through.
_WHOLE = 20


class Garbage:
    """`configure` once per process; `collect` whenever there is time."""

    def __init__(self) -> None:
        self._looks = 0

    @staticmethod
    def configure() -> None:
        gc.set_threshold(_TOO_MANY, 20, 20)

    def collect(self) -> None:
        if gc.get_count()[0] < _WORTH:
            return
        self._looks += 1
        gc.collect(2 if self._looks % _WHOLE == 0 else 1)
