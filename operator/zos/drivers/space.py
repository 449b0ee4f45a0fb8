"""Room on the node's disk that is spoken for: what pulls are going to write, so that two don't count on the same."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from zos.drivers.meter import kept_free, room_for


@dataclass(eq=False)
class Hold:
    """Bytes that are going to be written, and those that have been."""

    size: int = 0
    written: int = 0

    @property
    def left(self) -> int:
        return max(0, self.size - self.written)


class Space:
    """Of the file system that ``directory`` is on."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._holds: list[Hold] = []

    @contextlib.contextmanager
    def hold(self, size: int = 0) -> Iterator[Hold]:
        """As long as it is open, ``size`` bytes are this one's. Raises DriverError where there is not as much."""
        hold = Hold()
        self._holds.append(hold)
        try:
            self.grow(hold, size)
            yield hold
        finally:
            self._holds.remove(hold)

    def kept(self, hold: Hold) -> int:
        """Bytes that have to stay free whatever this one writes: what no image takes, and what the others are going to."""
        return kept_free(self._directory) + self._others(hold)

    def grow(self, hold: Hold, size: int) -> None:
        """Now it is known how much it will be. Raises DriverError where there is not as much."""
        room_for(self._directory, max(0, size - hold.written) + self._others(hold))
        hold.size = size

    def _others(self, hold: Hold) -> int:
        return sum(other.left for other in self._holds if other is not hold)
