"""The World: the controller's view of the cluster, with indexes and tracked reads.

A resolution reads through a `Reader`, which records what it looked at. When something changes, `put` and `remove` answer
with exactly the keys whose resolution looked at it, so nobody declares watches by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar, cast

from zos.api.meta import Key, Meta, Object

#: The values under which an object is found; or those with, for each, all of the object that who finds it that way looks at.
#: The second makes a change of an object with many values cheap: only readers of a value whose part changed are asked.
IndexFunction = Callable[[Any], Iterable[str] | Mapping[str, Any]]

T = TypeVar("T", bound=Object)
V = TypeVar("V")


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


class _Source(NamedTuple):
    """What was read: one object (``by`` empty) or all objects with a value in an index."""

    kind: str
    by: str
    value: str


class _Change(NamedTuple):
    """A source in which an object was, or is, or both (then something of it that matters there changed)."""

    source: _Source
    was: bool
    is_: bool


#: Stands for the whole object where an index gives no parts: any change may matter.
_WHOLE = object()
_Places = Mapping[str, Mapping[str, Any]]


class _Read(NamedTuple):
    """How it was read: through which function, and what that gave. No function: any change matters."""

    view: Callable[[Any], Any] | None
    result: Any


#: Stands for an index: what of a kind can't be read.
_OPAQUE = "?"


def _unfetched(_: Object) -> None:
    """The view of who reads again when it was fetched."""


def _uid(obj: Object) -> str:
    return obj.uid


def _object_source(key: Key) -> _Source:
    return _Source(key.kind, "", f"{key.namespace}/{key.name}")


class World:
    """All objects known, by key and by index. Not thread-safe: it lives in one event loop.

    Of kinds ``on_demand`` only those objects are held that somebody reads by name, as long as he does. Reading one raises
    `Unfetched` until it is known whether and how it is (`put`, `put_absent`, `put_unreadable`).
    """

    def __init__(self, kinds: Iterable[Indexes], on_demand: Collection[str] = ()) -> None:
        self._on_demand = frozenset(on_demand)
        self._indexes = {indexes.model.KIND: indexes for indexes in kinds}
        self._objects: dict[str, dict[Key, Object]] = {kind: {} for kind in self._indexes}
        self._opaque: dict[Key, Opaque] = {}
        self._places: dict[Key, _Places] = {}  # index → value → part, under which each object is found
        self._members: dict[_Source, dict[Key, Any]] = {}  # with the part of each
        self._readers: dict[_Source, dict[Key, list[_Read]]] = {}
        self._sources: dict[Key, set[_Source]] = {}
        self._absent: set[Key] = set()  # of what is held on demand: what is known not to be
        self._left: set[Key] = set()  # the same: what may have no readers any more

    def model(self, kind: str) -> type[Object] | None:
        """None: of a kind that is not known here, or whose objects are held on demand only."""
        known = self._indexes.get(kind)
        return known.model if known is not None and kind not in self._on_demand else None

    def peek(self, key: Key) -> Object | None:
        """An untracked read, for code that is no resolution."""
        return self._objects[key.kind].get(key)

    def opaque(self, kind: str = "", owner: str = "") -> Iterable[tuple[Key, Opaque]]:
        """Objects that exist and can't be read: of a kind, and with a label that has the value ``owner``; empty: any."""
        for key, found in self._opaque.items():
            if kind in ("", key.kind) and (not owner or owner in found.metadata.labels.values()):
                yield key, found

    def all(self, kind: str) -> Iterable[Object]:
        """Every object of a kind, untracked."""
        return tuple(self._objects[kind].values())

    def find(self, model: type[Object], index: str, value: str) -> tuple[Object, ...]:
        """The objects with ``value`` in ``index``, oldest first, untracked."""
        return tuple(self._select(_Source(model.KIND, index, value)))

    def counts(self) -> Mapping[str, int]:
        return {kind: len(objects) for kind, objects in self._objects.items()}

    def put(self, obj: Object) -> frozenset[Key]:
        """Stores a new or changed object. Gives the keys to resolve again: its own, and whoever read what changed."""
        old = self._objects[obj.KIND].get(obj.key)
        if old == obj:
            return frozenset()
        self._absent.discard(obj.key)
        understood = self._opaque.pop(obj.key, None) is not None
        before, after = self._places.get(obj.key, {}), self._places_of(obj)
        self._objects[obj.KIND][obj.key] = obj
        self._places[obj.key] = after
        changed = self._moved(obj.key, old, obj, before, after)
        return changed | self._readers_of_opaque(obj.KIND) if understood else changed

    def remove(self, key: Key) -> frozenset[Key]:
        """Forgets an object. Gives the keys to resolve again, its own among them."""
        opaque = self._opaque.pop(key, None)
        old = self._objects[key.kind].pop(key, None)
        if opaque is not None:
            return self._moved(key, None, None, {}, {}) | self._readers_of_opaque(key.kind)
        if old is None:
            return frozenset()
        return self._moved(key, old, None, self._places.pop(key), {})

    def put_unreadable(self, key: Key, metadata: Meta, why: str) -> frozenset[Key]:
        """Stores that an object exists and can't be read. Gives the keys to resolve again: whoever looks at it."""
        if (known := self._opaque.get(key)) is not None and known == Opaque(metadata, why):
            return frozenset()
        changed = self.remove(key)
        self._absent.discard(key)
        self._opaque[key] = Opaque(metadata, why)
        return (changed | self._moved(key, None, None, {}, {}) | self._readers_of_opaque(key.kind)) - {key}

    def put_absent(self, key: Key) -> frozenset[Key]:
        """Remembers that an object held on demand does not exist. Gives the keys to resolve again."""
        changed = self.remove(key)
        self._absent.add(key)
        return changed

    def lose(self, key: Key) -> frozenset[Key]:
        """What is held of an object on demand is not how it is any more. Gives who reads it: to be resolved again."""
        self._absent.discard(key)
        self.remove(key)
        return frozenset(self._readers.get(_object_source(key), ()))

    def looked_at(self, key: Key) -> bool:
        """Whether anybody's last resolution read an object."""
        return _object_source(key) in self._readers

    def unfetched(self, key: Key) -> bool:
        """Whether an object is held on demand, and it is not known whether and how it is."""
        held = key in self._objects[key.kind] or key in self._opaque or key in self._absent
        return key.kind in self._on_demand and not held

    def drop_unread(self) -> None:
        """Forgets what was held on demand for somebody who reads it no more."""
        for key in self._left:
            if not self.looked_at(key):
                self.lose(key)
        self._left.clear()

    def reader(self, key: Key) -> Reader:
        """A reader for one resolution of ``key``. What the last one read is forgotten."""
        self.forget(key)
        return Reader(self, key)

    def forget(self, key: Key) -> None:
        """Drops what is known of the reads of ``key`` (it is gone, or about to be resolved again)."""
        for source in self._sources.pop(key, ()):
            readers = self._readers.get(source)
            if readers is not None:
                readers.pop(key, None)
                if not readers:
                    del self._readers[source]
                    if not source.by and source.kind in self._on_demand:
                        namespace, _, name = source.value.partition("/")
                        self._left.add(Key(source.kind, namespace, name))

    def _readers_of_opaque(self, kind: str) -> frozenset[Key]:
        return frozenset(self._readers.get(_Source(kind, _OPAQUE, ""), ()))

    def _places_of(self, obj: Object) -> _Places:
        places: dict[str, Mapping[str, Any]] = {"*": {"": _WHOLE}}
        for index, function in self._indexes[obj.KIND].by.items():
            values = function(obj)
            places[index] = values if isinstance(values, Mapping) else dict.fromkeys(values, _WHOLE)
        return places

    def _moved(self, key: Key, old: Object | None, new: Object | None, before: _Places, after: _Places) -> frozenset[Key]:
        """Keeps the indexes; gives whom the change concerns."""
        changes = [_Change(_object_source(key), old is not None, new is not None), *_changes(key.kind, before, after)]
        for source, was, is_ in changes[1:]:
            if is_:
                self._members.setdefault(source, {})[key] = after[source.by][source.value]
            elif was:
                self._members[source].pop(key, None)
                if not self._members[source]:
                    del self._members[source]
        return frozenset({key, *self._affected(key, old, new, changes)})

    def _affected(self, key: Key, old: Object | None, new: Object | None, changes: list[_Change]) -> Iterator[Key]:
        """Readers who would see something else now. What stayed where it was is compared by itself: one change among many
        objects that many read must not cost many times many."""
        differing: dict[Callable[[Any], Any], bool] = {}  # many read through the same function
        for source, was, is_ in changes:
            for reader, reads in self._readers.get(source, {}).items():
                for read in reads:
                    if read.view is _unfetched:
                        continue
                    if read.view is None or (source.by and was is not is_):  # one more or one less is always another result
                        differs = True
                    elif old is None and new is None:
                        differs = True  # it became readable, or the reverse
                    elif was and is_:
                        if read.view not in differing:
                            differing[read.view] = read.view(old) != read.view(new)
                        differs = differing[read.view]
                    else:
                        differs = self._look(source, key, read.view) != read.result
                    if differs:
                        yield reader
                        break

    def _look(self, source: _Source, key: Key, view: Callable[[Any], Any]) -> Any:
        if source.by:
            return tuple(view(obj) for obj in self._select(source))
        obj = self._objects[key.kind].get(key)
        return None if obj is None else view(obj)

    def _select(self, source: _Source) -> list[Object]:
        objects = self._objects[source.kind]
        found = [objects[key] for key in self._members.get(source, ())]
        found.sort(key=lambda obj: (obj.metadata.creation_timestamp, obj.namespace, obj.name))
        return found

    def _record(self, reader: Key, source: _Source, read: _Read) -> None:
        self._sources.setdefault(reader, set()).add(source)
        self._readers.setdefault(source, {}).setdefault(reader, []).append(read)


@dataclass(frozen=True)
class Reader:
    """The world as one resolution sees it: every read is remembered."""

    _world: World
    _key: Key

    def get(self, model: type[T], namespace: str, name: str) -> T | None:
        """One object, or None. Any change of it resolves the reader again. Like `view`, raises Unreadable."""
        return cast("T | None", self._read_object(model, namespace, name, None))

    def view(self, model: type[T], namespace: str, name: str, view: Callable[[T], V]) -> V | None:
        """What ``view`` gives of one object (None: no such object). Only a change of that resolves the reader again."""
        return cast("V | None", self._read_object(model, namespace, name, view))

    def where(self, model: type[T], index: str, value: str) -> tuple[T, ...]:
        """The objects with ``value`` in ``index``, oldest first. Any change among them resolves the reader again."""
        source = _Source(model.KIND, index, value)
        self._world._record(self._key, source, _Read(None, None))
        return cast("tuple[T, ...]", tuple(self._world._select(source)))

    def where_view(self, model: type[T], index: str, value: str, view: Callable[[T], V]) -> tuple[V, ...]:
        """What ``view`` gives of each of them. Only a change of that resolves the reader again."""
        source = _Source(model.KIND, index, value)
        result = tuple(view(cast("T", obj)) for obj in self._world._select(source))
        self._world._record(self._key, source, _Read(view, result))
        return result

    def parts(self, model: type[T], index: str, value: str) -> tuple[Any, ...]:
        """The parts that the index gives for ``value``, in no order. Any change among them resolves the reader again."""
        self._world._record(self._key, _Source(model.KIND, index, value), _Read(None, None))
        return self.glance_parts(model, index, value)

    def glance_parts(self, model: type[T], index: str, value: str) -> tuple[Any, ...]:
        """The same, not remembered. Costs next to nothing however many there are: no object is looked at."""
        return tuple(self._world._members.get(_Source(model.KIND, index, value), {}).values())

    def glance_at(self, model: type[T], namespace: str, name: str, view: Callable[[T], V]) -> V | None:
        """What ``view`` gives of one object, not remembered: for what is taken hold of at once."""
        key = model.key_of(namespace, name)
        if (opaque := self._world._opaque.get(key)) is not None:
            raise Unreadable(key, opaque.why)
        if self._world.unfetched(key):
            raise Unfetched(key)
        obj = self._world.peek(key)
        return None if obj is None else view(cast("T", obj))

    def glance(self, model: type[T], view: Callable[[T], V]) -> tuple[V, ...]:
        """What ``view`` gives of every object of a kind, not remembered: for a choice that is kept once it is made."""
        return tuple(view(cast("T", obj)) for obj in self._world._select(_Source(model.KIND, "*", "")))

    def lives(self, kind: str, namespace: str, name: str, uid: str) -> bool | None:
        """Whether an object is there, and is that one. None: it can't be told, as it can't be read, or is of a kind that is
        newer than this controller."""
        model = self._world.model(kind)
        if model is None:
            return None
        try:
            return self.view(model, namespace, name, _uid) == uid
        except Unreadable:
            return None

    def unreadable(self, model: type[Object], namespace: str = "") -> tuple[Key, ...]:
        """Objects of a kind that exist and can't be read, of one namespace or of all. They are in no index: who waits for the
        last user of something does not know whether these are any."""
        self._world._record(self._key, _Source(model.KIND, _OPAQUE, ""), _Read(None, None))
        return tuple(key for key, _ in self._world.opaque(model.KIND) if namespace in ("", key.namespace))

    def all(self, model: type[T]) -> tuple[T, ...]:
        """Every object of a kind, oldest first."""
        return self.where(model, "*", "")

    def all_view(self, model: type[T], view: Callable[[T], V]) -> tuple[V, ...]:
        return self.where_view(model, "*", "", view)

    def _read_object(self, model: type[Object], namespace: str, name: str, view: Callable[[Any], Any] | None) -> object:
        key = model.key_of(namespace, name)
        if (opaque := self._world._opaque.get(key)) is not None:
            self._world._record(self._key, _object_source(key), _Read(None, None))
            raise Unreadable(key, opaque.why)
        if self._world.unfetched(key):
            self._world._record(self._key, _object_source(key), _Read(_unfetched, None))
            raise Unfetched(key)
        obj = self._world.peek(key)
        result = obj if view is None or obj is None else view(obj)
        self._world._record(self._key, _object_source(key), _Read(view, result if view else None))
        return result


def _changes(kind: str, before: _Places, after: _Places) -> Iterator[_Change]:
    nothing: Mapping[str, Any] = {}
    for index in before.keys() | after.keys():
        was, is_ = before.get(index, nothing), after.get(index, nothing)
        for value, part in is_.items():
            if value not in was:
                yield _Change(_Source(kind, index, value), False, True)
            elif part is _WHOLE or (was[value] is not part and was[value] != part):
                yield _Change(_Source(kind, index, value), True, True)
        for value in was.keys() - is_.keys():
            yield _Change(_Source(kind, index, value), True, False)
