"""The World: the controller's view of the cluster, with indexes and tracked reads.

A resolution reads through a `Reader`, which records what it looked at. When something changes, `put` and `remove` answer
with exactly the keys whose resolution looked at it, so nobody declares watches by hand.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from zos.api.meta import Key, Meta, Object
from zos.world.objects import Indexes, Moved, Objects, Opaque, Source
from zos.world.reader import Reader
from zos.world.tracking import Tracking


class World(Objects):
    """All objects known, and who read what of them. Not thread-safe: it lives in one event loop. Its own look-ups are for
    code that is no resolution.

    Of kinds ``on_demand`` only those objects are held that somebody reads by name, as long as he does. Reading one raises
    `Unfetched` until it is known whether and how it is (`put`, `put_absent`, `put_unreadable`).
    """

    def __init__(self, kinds: Iterable[Indexes], on_demand: Collection[str] = ()) -> None:
        super().__init__(kinds, on_demand)
        self._tracking = Tracking()
        self._left: set[Key] = set()  # of what is held on demand: what may have no readers any more

    def put(self, obj: Object) -> frozenset[Key]:
        """Stores a new or changed object. Gives the keys to resolve again: its own, and whoever read what changed."""
        return self._concerned(self._put(obj))

    def remove(self, key: Key) -> frozenset[Key]:
        """Forgets an object. Gives the keys to resolve again, its own among them."""
        return self._concerned(self._remove(key))

    def put_unreadable(self, key: Key, metadata: Meta, why: str) -> frozenset[Key]:
        """Stores that an object exists and can't be read. Gives the keys to resolve again: whoever looks at it."""
        return self._concerned(self._put_opaque(key, Opaque(metadata, why))) - {key}

    def put_absent(self, key: Key) -> frozenset[Key]:
        """Remembers that an object held on demand does not exist. Gives the keys to resolve again."""
        changed = self.remove(key)
        self._absent.add(key)
        return changed

    def lose(self, key: Key) -> frozenset[Key]:
        """What is held of an object on demand is not how it is any more. Gives who reads it: to be resolved again."""
        self._absent.discard(key)
        self._remove(key)
        return frozenset(self._tracking.readers(Source.one(key)))

    def looked_at(self, key: Key) -> bool:
        """Whether anybody's last resolution read an object."""
        return bool(self._tracking.readers(Source.one(key)))

    def drop_unread(self) -> None:
        """Forgets what was held on demand for somebody who reads it no more."""
        for key in self._left:
            if not self.looked_at(key):
                self.lose(key)
        self._left.clear()

    def reader(self, key: Key) -> Reader:
        """A reader for one resolution of ``key``. What the last one read is forgotten."""
        self.forget(key)
        return Reader(self, self._tracking, key)

    def forget(self, key: Key) -> None:
        """Drops what is known of the reads of ``key`` (it is gone, or about to be resolved again)."""
        for source in self._tracking.forget(key):
            if source.kind in self._on_demand and (unread := source.key) is not None:
                self._left.add(unread)

    def remembered(self) -> tuple[int, int]:
        """How many values of indexes, and how many sources somebody reads: nothing is kept of what is over."""
        return len(self._members), len(self._tracking)

    def _concerned(self, moved: Moved | None) -> frozenset[Key]:
        return frozenset() if moved is None else frozenset({moved.key, *self._tracking.affected(moved)})
