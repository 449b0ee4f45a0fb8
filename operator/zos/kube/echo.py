"""Whether the watches tell what the API server has answered: what it answered must be heard from the watch soon after."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from zos.api.meta import Key

#: Seconds in which a watch tells what the API server has answered already.
PATIENCE = 10.0


@dataclass
class _Open:
    version: int
    since: float


class Echo:
    """Nothing is asked for it: the versions in answers to writes and reads that happen anyway are the probe. ``clock`` gives
    seconds and never goes back."""

    def __init__(self, clock: Callable[[], float], patience: float = PATIENCE) -> None:
        self._clock = clock
        self._patience = patience
        self._open: dict[Key, _Open] = {}

    @property
    def waiting(self) -> bool:
        """Whether anything is expected."""
        return bool(self._open)

    def expects(self, key: Key, version: int) -> None:
        """The API server answered with this version of an object, which was not heard of yet."""
        known = self._open.get(key)
        if known is None:
            self._open[key] = _Open(version, self._clock())
        else:
            known.version = max(known.version, version)

    def heard(self, key: Key, version: int) -> None:
        """The watch told of this version. An older one than expected shows that the newer may be on its way."""
        known = self._open.get(key)
        if known is None:
            return
        if version >= known.version:
            del self._open[key]
        else:
            known.since = self._clock()

    def postpone(self, key: Key) -> None:
        """It gets its time once more."""
        if key in self._open:
            self._open[key].since = self._clock()

    def forget(self, key: Key) -> None:
        self._open.pop(key, None)

    def clear(self) -> None:
        self._open.clear()

    def overdue(self) -> dict[Key, float]:
        """What should have been heard by now, and since when it is expected."""
        late = self._clock() - self._patience
        return {key: known.since for key, known in self._open.items() if known.since <= late}

    def waits(self, kind: str) -> float:
        """Seconds for which the oldest answer about this kind has not been heard."""
        since = min((known.since for key, known in self._open.items() if key.kind == kind), default=None)
        return 0.0 if since is None else self._clock() - since

    def due(self) -> float | None:
        """When something will be overdue, on the clock; None: nothing is expected."""
        since = min((known.since for known in self._open.values()), default=None)
        return None if since is None else since + self._patience
