"""How many bytes the shares of a pool take in its status, and whether there is room for another."""

from __future__ import annotations

import json
from typing import Any

from zos.api.meta import Key

#: Bytes that all shares of a pool may have: etcd takes 1.5 MiB, and the pool must still be able to say how it stands. As many
#: shares as can't have more are not measured.
_ROOM, _SURELY_FIT = 2**20, 900


class Sizes:
    """Measures all shares of a pool once, and each that comes after on its own."""

    def __init__(self) -> None:
        self._sizes: dict[Key, tuple[object, int]] = {}  # the shares that were measured, and their bytes

    def fits(self, pool: Key, entries: Any, entry: Any) -> bool:
        """Whether a share has room beside those that there are."""
        if len(entries) < _SURELY_FIT:
            return True
        measured, size = self._sizes.get(pool, (None, 0))
        if measured is not entries:
            size = sum(map(_size, entries))
            self._sizes[pool] = entries, size
        return size + _size(entry) <= _ROOM

    def added(self, pool: Key, before: Any, after: Any, entry: Any) -> None:
        """A share was added, which made ``after`` of what was there ``before``."""
        measured, size = self._sizes.get(pool, (None, 0))
        if measured is before:
            self._sizes[pool] = after, size + _size(entry)

    def forget(self, pool: Key) -> None:
        self._sizes.pop(pool, None)


def _size(entry: Any) -> int:
    """Bytes that a share takes in the status."""
    return len(json.dumps(entry.wire(), ensure_ascii=False, separators=(",", ":")).encode()) + 1
