"""All objects that are known, by key and by index; apart from them those that can't be read, or were not fetched yet."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar, cast

from zos.api.meta import Key, Meta, Object

T = TypeVar("T", bound=Object)

#: The values under which an object is found; or those with, for each, all of the object that who finds it that way looks at.
#: The second makes a change of an object with many values cheap: only readers of a value whose part changed are asked.
IndexFunction = Callable[[Any], Iterable[str] | Mapping[str, Any]]


@dataclass(frozen=True)
class Indexes:
    """How objects of one kind are looked up."""

    model: type[Object]
    by: Mapping[str, IndexFunction] = field(default_factory=dict)


class Unreadable(Exception):
    """An object that exists and whose content is not understood (it is newer than this controller, or damaged). It is neither
    absent nor empty: who needs it waits."""

    def __init__(self, key: Key, why: str) -> None:
        super().__init__(f"{key} can't be read by this controller ({why}): upgrade the controller, or mend the object")
        self.key = key


@dataclass(frozen=True)
class Opaque:
    """What is known of an object that can't be read."""

    metadata: Meta
    why: str


class Unfetched(Exception):
    """An object of a kind that is held on demand, of which it is not known whether and how it is: it is to be fetched, and what
    asked for it begins anew."""

    def __init__(self, key: Key) -> None:
        super().__init__(f"{key} was not fetched yet")
        self.key = key


#: Stand for an index: one object by its name, all objects of a kind, all of a kind that can't be read.
ONE, _ALL, _OPAQUE = "", "*", "?"


class Source(NamedTuple):
    """What can be read: one object, or all objects of a kind with a value in an index."""

    kind: str
    by: str
    value: str

    @classmethod
    def one(cls, key: Key) -> Source:
        return cls(key.kind, ONE, f"{key.namespace}/{key.name}")

    @classmethod
    def among(cls, model: type[Object], where: Mapping[str, str]) -> Source:
        """``where`` names one index with its value, or none: then it is every object of the kind."""
        if not where:
            return cls(model.KIND, _ALL, "")
        ((index, value),) = where.items()
        return cls(model.KIND, index, value)

    @classmethod
    def opaque(cls, kind: str) -> Source:
        return cls(kind, _OPAQUE, "")

    @property
    def key(self) -> Key | None:
        """Of the one object that this is."""
        namespace, _, name = self.value.partition("/")
        return Key(self.kind, namespace, name) if self.by == ONE else None


class Change(NamedTuple):
    """A source in which an object was, or is, or both (then something of it that matters there changed)."""

    source: Source
    was: bool
    is_: bool


class Moved(NamedTuple):
    """What became of one object. ``old`` and ``new`` are both None where it can't be read before or after."""

    key: Key
    old: Object | None
    new: Object | None
    changes: tuple[Change, ...]


#: Stands for the whole object where an index gives no parts: any change may matter.
_WHOLE = object()
_Places = Mapping[str, Mapping[str, Any]]


class Objects:
    """Objects of known kinds. Of kinds ``on_demand`` only some are held: of others it is not known whether they are."""

    def __init__(self, kinds: Iterable[Indexes], on_demand: Collection[str] = ()) -> None:
        self._on_demand = frozenset(on_demand)
        self._indexes = {indexes.model.KIND: indexes for indexes in kinds}
        self._objects: dict[str, dict[Key, Object]] = {kind: {} for kind in self._indexes}
        self._opaque: dict[Key, Opaque] = {}
        self._absent: set[Key] = set()  # of what is held on demand: what is known not to be
        self._places: dict[Key, _Places] = {}  # index → value → part, under which each object is found
        self._members: dict[Source, dict[Key, Any]] = {}  # with the part of each

    def model(self, kind: str) -> type[Object] | None:
        """None: of a kind that is not known here, or whose objects are held on demand only."""
        known = self._indexes.get(kind)
        return known.model if known is not None and kind not in self._on_demand else None

    def indexed_by(self, index: str) -> tuple[type[Object], ...]:
        """Models of the kinds whose objects are found by an index of that name, in the order of the kinds."""
        return tuple(known.model for known in self._indexes.values() if index in known.by)

    def peek(self, key: Key) -> Object | None:
        """An object that is held. None says little: it may be one that can't be read, or was not fetched."""
        return self._objects[key.kind].get(key)

    def read(self, key: Key) -> Object | None:
        """An object, or None: there is none. Raises Unreadable, and Unfetched."""
        if (obj := self._objects[key.kind].get(key)) is not None:
            return obj
        if (opaque := self._opaque.get(key)) is not None:
            raise Unreadable(key, opaque.why)
        if self.unfetched(key):
            raise Unfetched(key)
        return None

    def opaque(self, kind: str = "", owner: str = "") -> Iterable[tuple[Key, Opaque]]:
        """Objects that exist and can't be read: of a kind, and with a label that has the value ``owner``; empty: any."""
        for key, found in self._opaque.items():
            if kind in ("", key.kind) and (not owner or owner in found.metadata.labels.values()):
                yield key, found

    def unfetched(self, key: Key) -> bool:
        """Whether an object is held on demand, and it is not known whether and how it is."""
        held = key in self._objects[key.kind] or key in self._opaque or key in self._absent
        return key.kind in self._on_demand and not held

    def all(self, kind: str) -> Iterable[Object]:
        """Every object of a kind."""
        return tuple(self._objects[kind].values())

    def find(self, model: type[T], /, **where: str) -> tuple[T, ...]:
        """The objects of a kind, or those with a value in an index (``owner=uid``), oldest first."""
        return cast("tuple[T, ...]", tuple(self.select(Source.among(model, where))))

    def select(self, source: Source) -> list[Object]:
        """The objects in a source, oldest first."""
        objects = self._objects[source.kind]
        found = [objects[key] for key in self._among(source)]
        if len(found) > 1:
            found.sort(key=lambda obj: (obj.metadata.creation_timestamp, obj.namespace, obj.name))
        return found

    def parts(self, source: Source) -> Collection[Any]:
        """What the index gives of each object in a source. Costs next to nothing: no object is looked at."""
        return self._among(source).values()

    def counts(self) -> Mapping[str, int]:
        return {kind: len(objects) for kind, objects in self._objects.items()}

    def _among(self, source: Source) -> Mapping[Key, Any]:
        if (found := self._members.get(source)) is not None:
            return found
        if source.by != _ALL and source.by not in self._indexes[source.kind].by:
            raise LookupError(f"{source.kind} has no index {source.by}")
        return {}

    def _put(self, obj: Object) -> Moved | None:
        """None: it is as it was."""
        key = obj.key
        old = self._objects[key.kind].get(key)
        if old == obj:
            return None
        self._absent.discard(key)
        understood = self._opaque.pop(key, None) is not None
        self._objects[key.kind][key] = obj
        return self._moved(key, old, obj, opaque=understood)

    def _remove(self, key: Key) -> Moved | None:
        """None: it was not there."""
        opaque = self._opaque.pop(key, None) is not None
        old = self._objects[key.kind].pop(key, None)
        return None if old is None and not opaque else self._moved(key, old, None, opaque=opaque)

    def _put_opaque(self, key: Key, found: Opaque) -> Moved | None:
        """None: it is as it was."""
        if self._opaque.get(key) == found:
            return None
        self._absent.discard(key)
        self._objects[key.kind].pop(key, None)
        self._opaque[key] = found
        return self._moved(key, None, None, opaque=True)

    def _moved(self, key: Key, old: Object | None, new: Object | None, *, opaque: bool) -> Moved:
        """Keeps the indexes, and says what changed in them. ``opaque``: so did what can't be read."""
        before: _Places = self._places.pop(key, {})
        after = self._places_of(new) if new is not None else {}
        if new is not None:
            self._places[key] = after
        changes = tuple(_changes(key.kind, before, after))
        for source, was, is_ in changes:
            if is_:
                self._members.setdefault(source, {})[key] = after[source.by][source.value]
            elif was:
                self._members[source].pop(key)
                if not self._members[source]:
                    del self._members[source]
        itself = Change(Source.one(key), old is not None, new is not None)
        others = (Change(Source.opaque(key.kind), True, True),) if opaque else ()
        return Moved(key, old, new, (itself, *changes, *others))

    def _places_of(self, obj: Object) -> _Places:
        places: dict[str, Mapping[str, Any]] = {_ALL: {"": _WHOLE}}
        for index, function in self._indexes[obj.KIND].by.items():
            values = function(obj)
            places[index] = values if isinstance(values, Mapping) else dict.fromkeys(values, _WHOLE)
        return places


def _changes(kind: str, before: _Places, after: _Places) -> Iterator[Change]:
    nothing: Mapping[str, Any] = {}
    for index in before.keys() | after.keys():
        was, is_ = before.get(index, nothing), after.get(index, nothing)
        for value, part in is_.items():
            if value not in was:
                yield Change(Source(kind, index, value), False, True)
            elif part is _WHOLE or (was[value] is not part and was[value] != part):
                yield Change(Source(kind, index, value), True, True)
        for value in was.keys() - is_.keys():
            yield Change(Source(kind, index, value), True, False)
