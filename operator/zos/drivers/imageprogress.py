"""How far the pulls of a node are: in words for people, in numbers for metrics."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from zos.drivers.meter import in_words

#: Seconds between two words of one pull, and until the next is said although it has hardly gone on.
_SOONEST, _LATEST = 1.0, 10.0
#: Percent that are worth a word.
_STEP = 5


@dataclass(frozen=True)
class ImageMeasures:
    """Bytes: of unpacked images, of what is kept of unfinished pulls, fetched since the agent began; of each pull that is under
    way by its item's key, there and in all (0: not known)."""

    cached: int = 0
    kept: int = 0
    fetched: int = 0
    under_way: Mapping[str, tuple[int, int]] = field(default_factory=dict)


@dataclass
class _Told:
    what: str
    at: float
    got: int
    percent: int
    words: str


class Progress:
    """``dirty`` is called when there is something new to say."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.dirty: Callable[[], None] = lambda: None
        self.under_way: dict[str, tuple[int, int]] = {}
        self.fetched = 0
        self._clock = clock
        self._told: dict[str, _Told] = {}

    def words(self, key: str) -> str:
        told = self._told.get(key)
        return told.words if told is not None else ""

    def tell(self, key: str, what: str, got: int, whole: int) -> None:
        """``got`` of ``whole`` bytes; 0: not known."""
        if (before := self.under_way.get(key)) is not None:  # what is there at first was fetched before
            self.fetched += max(0, got - before[0])
        if got or whole:
            self.under_way[key] = (got, whole)
        told, now = self._told.get(key), self._clock()
        percent = 100 * got // whole if whole else 0
        if told is not None and told.what == what:
            moved = percent >= told.percent + _STEP or (not whole and got > told.got)
            if now - told.at < (_SOONEST if moved else _LATEST):
                return
        self._told[key] = _Told(what, now, got, percent, _in_words(what, got, whole, percent))
        if told is None or now - told.at >= _SOONEST:
            self.dirty()

    def over(self, key: str) -> None:
        self._told.pop(key, None)
        self.under_way.pop(key, None)


def _in_words(what: str, got: int, whole: int, percent: int) -> str:
    if whole:
        return f"{what}, {percent} % ({in_words(got)} of {in_words(whole)})"
    return f"{what}, {in_words(got)}" if got else what
