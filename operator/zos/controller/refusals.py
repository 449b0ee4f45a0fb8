"""What the API server refused for good: which part of which pool, and when that is tried again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from zos.api.meta import Key
from zos.kube.client import ApiError

#: Seconds after which a refused part is tried again, doubled each time, and at most. A little less than the queue's, whose
#: jitter must not come too early.
_FIRST, _LAST = 0.75, 225.0


@dataclass(frozen=True)
class _Refusal:
    """``what`` was refused: the same is not tried before ``until``."""

    what: object
    error: ApiError
    count: int
    until: float


class Refusals:
    """``clock`` gives seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._found: dict[Key, dict[str, _Refusal]] = {}  # by pool and part

    def of(self, pool: Key) -> Collection[str]:
        """The parts of which something was refused. Whoever has not come back for long is forgotten: it never will."""
        found = self._found.get(pool, {})
        self.forgive(pool, [part for part, refusal in found.items() if self._clock() > refusal.until + 2 * _LAST])
        return found.keys()

    def standing(self, pool: Key, part: str, what: object) -> ApiError | None:
        """The refusal of exactly this, where it is too early to try it again."""
        refusal = self._found.get(pool, {}).get(part)
        if refusal is None or refusal.what != what or self._clock() >= refusal.until:
            return None
        return refusal.error

    def note(self, pool: Key, part: str, what: object, error: ApiError) -> None:
        found = self._found.setdefault(pool, {})
        count = found[part].count + 1 if part in found else 1
        until = self._clock() + min(_LAST, _FIRST * 2.0 ** min(count - 1, 20))
        found[part] = _Refusal(what, error, count, until)

    def forgive(self, pool: Key, parts: Iterable[str]) -> None:
        found = self._found.get(pool, {})
        for part in parts:
            found.pop(part, None)
        if not found:
            self._found.pop(pool, None)

    def forget(self, pool: Key) -> None:
        self._found.pop(pool, None)
