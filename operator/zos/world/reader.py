"""Reading the world: one object, several of them, or what an index knows of them; remembered or not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from zos.api.meta import Key, Object
from zos.world.objects import Objects, Source, Unfetched, Unreadable
from zos.world.tracking import Read, Tracking, unfetched

T = TypeVar("T", bound=Object)
V = TypeVar("V")


def _uid(obj: Object) -> str:
    return obj.uid


class Look:
    """The three ways to read. They leave no trace: for what is taken hold of at once, and choices that stay once made."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    def view(self, model: type[T], namespace: str, name: str, view: Callable[[T], V]) -> V | None:
        """What ``view`` gives of one object; None: there is no such object. Raises Unreadable, and Unfetched."""
        key = model.key_of(namespace, name)
        try:
            obj = self._objects.read(key)
        except Unreadable:
            self._remember(Source.one(key), Read())
            raise
        except Unfetched:
            self._remember(Source.one(key), Read(unfetched))
            raise
        result = None if obj is None else view(cast("T", obj))
        self._remember(Source.one(key), Read(view, result))
        return result

    def views(self, model: type[T], view: Callable[[T], V], /, **where: str) -> tuple[V, ...]:
        """What ``view`` gives of each object of a kind, or of those with a value in an index (``owner=uid``), oldest first."""
        source = Source.among(model, where)
        result = tuple([view(cast("T", obj)) for obj in self._objects.select(source)])
        self._remember(source, Read(view))
        return result

    def parts(self, model: type[Object], /, **where: str) -> tuple[Any, ...]:
        """The parts that an index gives for a value (``farm=name``), in no order. Costs next to nothing, however many."""
        source = Source.among(model, where)
        result = tuple(self._objects.parts(source))
        self._remember(source, Read())
        return result

    def indexed_by(self, index: str) -> tuple[type[Object], ...]:
        """Models of the kinds whose objects are found by an index of that name: for who asks what several kinds declare, and
        knows none of them. Is the same for as long as the controller runs."""
        return self._objects.indexed_by(index)

    def _remember(self, source: Source, read: Read) -> None:
        pass


class Reader(Look):
    """The world as one resolution sees it: it is resolved again when it would see something else.

    The less a view gives, the less often that is; and it is least work where many readers have one function as their view.
    """

    def __init__(self, objects: Objects, tracking: Tracking, key: Key) -> None:
        super().__init__(objects)
        self._tracking = tracking
        self._key = key

    @property
    def untracked(self) -> Look:
        """Looks that are not remembered."""
        return Look(self._objects)

    def lives(self, kind: str, namespace: str, name: str, uid: str) -> bool | None:
        """Whether an object is there, and is that one. None: it can't be told, as it can't be read, or is of a kind that is
        newer than this controller."""
        model = self._objects.model(kind)
        if model is None:
            return None
        try:
            return self.view(model, namespace, name, _uid) == uid
        except Unreadable:
            return None

    def unreadable(self, model: type[Object], namespace: str = "") -> tuple[Key, ...]:
        """Objects of a kind that exist and can't be read, of one namespace or of all. They are in no index: who waits for the
        last user of something does not know whether these are any."""
        self._remember(Source.opaque(model.KIND), Read())
        return tuple(key for key, _ in self._objects.opaque(model.KIND) if namespace in ("", key.namespace))

    def _remember(self, source: Source, read: Read) -> None:
        self._tracking.record(self._key, source, read)
