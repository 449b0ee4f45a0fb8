"""Who read what, and whom a change concerns: everybody of whom a read would give something else now."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

from zos.api.meta import Key, Object
from zos.world.objects import ONE, Moved, Source

View = Callable[[Any], Any]


class Read(NamedTuple):
    """How a source was read: through which view (None: any change matters), and what that gave of one object."""

    view: View | None = None
    result: Any = None


def unfetched(_: Object) -> None:
    """The view of who met what was not fetched: it begins anew when it was, whatever comes."""


class Tracking:
    """The reads of everybody's last resolution."""

    def __init__(self) -> None:
        self._reads: dict[Source, dict[Key, list[Read]]] = {}
        self._sources: dict[Key, set[Source]] = {}

    def __len__(self) -> int:
        """How many sources somebody reads."""
        return len(self._reads)

    def record(self, reader: Key, source: Source, read: Read) -> None:
        self._sources.setdefault(reader, set()).add(source)
        self._reads.setdefault(source, {}).setdefault(reader, []).append(read)

    def readers(self, source: Source) -> Collection[Key]:
        return self._reads.get(source, {}).keys()

    def forget(self, reader: Key) -> list[Source]:
        """Drops a reader's reads. Gives the sources that nobody reads any more."""
        unread: list[Source] = []
        for source in self._sources.pop(reader, ()):
            readers = self._reads[source]
            del readers[reader]
            if not readers:
                del self._reads[source]
                unread.append(source)
        return unread

    def affected(self, moved: Moved) -> Iterator[Key]:
        """Readers of whom a read gives another result now that one object changed.

        A read of an index gave one view of each object in it. So its result is another one if this object came into the index
        or left it, or if it stayed and its own view is another: no other object is looked at, and a view that many readers
        share is asked once. One change costs as much as it has readers, however many objects each of them reads.
        """
        differing: dict[View, bool] = {}  # whether a view of the object is another than before
        _, old, new, changes = moved
        readable = old is not None or new is not None
        for source, was, is_ in changes:
            for reader, reads in self._reads.get(source, {}).items():
                for view, result in reads:
                    if view is unfetched:
                        continue
                    if view is None or not readable:
                        differs = True
                    elif was and is_:
                        if view not in differing:
                            differing[view] = view(old) != view(new)
                        differs = differing[view]
                    elif source.by != ONE:
                        differs = True
                    else:  # It came or went. What it gives is compared with what was seen: nobody is told of his own changes.
                        differs = result != (None if new is None else view(new))
                    if differs:
                        yield reader
                        break
