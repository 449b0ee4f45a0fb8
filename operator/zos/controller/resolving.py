"""What follows for an object, also where something that it needs can't be read, or where the code for it fails."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace

from zos.api.gridnode import GridNode
from zos.api.meta import Key, Object, Reason
from zos.api.nodeworkload import NodeWorkload
from zos.controller import metrics
from zos.kinds.kind import Kind, Kinds
from zos.kube.log import about
from zos.world.heartbeat import alive
from zos.world.objects import Unfetched, Unreadable
from zos.world.reader import Reader
from zos.world.resolution import Resolution, waiting
from zos.world.store import World

log = logging.getLogger("zos.controller")

#: Seconds after which an object is tried again whose code failed, while everything stays as it is.
_AFTER_A_BUG = 30.0


class Resolver:
    """``node_of`` gives the node of a namespace; ``again`` has a key resolved again, after so many seconds."""

    def __init__(self, world: World, kinds: Kinds, node_of: Callable[[str], str], again: Callable[[Key, float], None]) -> None:
        self._world = world
        self._kinds = kinds
        self._node_of = node_of
        self._again = again

    def current(self, key: Key) -> Object | None:
        """The object to resolve. None: it is gone, and nobody resolves it any more."""
        obj = self._world.peek(key)
        if obj is None:
            self._world.forget(key)
            self._world.drop_unread()
        return obj

    def resolve(self, obj: Object) -> Resolution:
        """Raises `Unfetched` where something must be fetched first, and whatever the code raises for what has no condition to
        say so, or is being deleted."""
        started = time.perf_counter()
        kind = self._kinds[obj.KIND]
        try:
            reader = self._world.reader(obj.key)
            if kind.finalized:
                self._read_for_the_executor(obj, reader)
            found = resolved(kind, obj, reader)
            self._world.drop_unread()
            return found
        except Unfetched:
            raise
        except Exception as error:
            log.exception("resolving failed", extra=about(obj.key, obj))
            metrics.resolved(obj.KIND, "broken").inc()
            if obj.deleting or not kind.finalized:
                raise
            # What there is stays as it is: a bug must not stop what runs.
            message = f"the controller could not resolve it ({type(error).__name__}: {error}): please report this"
            self._again(obj.key, _AFTER_A_BUG)
            return Resolution(waiting(Reason.FAILED, message))
        finally:
            metrics.duration(obj.KIND).observe(time.perf_counter() - started)

    def _read_for_the_executor(self, obj: Object, reader: Reader) -> None:
        """The executor goes by the coming and going of NodeWorkloads, and by what their nodes can do when the object is being
        deleted: so a change of these is a reason to resolve again."""
        owned = reader.views(NodeWorkload, lambda found: (found.key, found.hindrance, found.deleting), owner=obj.uid)
        for key, *_ in owned if obj.deleting else ():
            node = self._node_of(key.namespace)
            reader.view(GridNode, "", node, lambda found: found.knows_words)
            alive(reader, node)


def resolved(kind: Kind, obj: Object, reader: Reader) -> Resolution:
    """What follows for an object; where something that it needs can't be read, it waits and everything stays as it is. So does
    its deletion, where something can't be read that may use it."""
    try:
        found = kind.resolve(obj, reader)
    except Unreadable as error:
        found = Resolution(waiting(Reason.DEPENDENCY_NOT_READY, str(error)), waits_for=(str(error),))
    if not obj.deleting and found.status is not None:
        return replace(found, notices=(*found.notices, *kind.happened(obj, found, reader)))
    if not obj.deleting or found.waits_for:
        return found
    users = reader.indexed_by(kind.used_by) if kind.used_by else ()
    unread = [key for model in users for key in reader.unreadable(model, obj.namespace)]
    if not unread:
        return found
    some = ", ".join(map(str, unread[:5])) + (f" and {len(unread) - 5} more" if len(unread) > 5 else "")
    why = f"{some}, which may use it and can't be read by this controller: upgrade the controller, or mend what can't be read"
    return replace(found, verdict=waiting(Reason.DELETION_BLOCKED, f"waits for {why}"), waits_for=(why,))
