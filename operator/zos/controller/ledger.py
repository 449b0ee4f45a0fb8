"""The ledger: shares of pools, taken in memory at once and written to the pool's status before anyone relies on them.

A pool is an object whose status records who holds what of it (GridNode, Network, Contract). The cached copy shows a share
as soon as it is taken, so the next resolution can't take the same; one guarded write then carries all that came together.
When the pool turns out to have changed meanwhile, everything unwritten is dropped and its askers resolve again.

What the API server refuses for good must not keep the rest from being written. A write has parts: the pool's own status, and
the share of each holder. One that is refused is cut in halves until it is known whose part it is; that part is dropped, its
asker gets the API server's words, and from then on it is tried on its own, less and less often.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from zos.api.meta import Key, Model, Object, Status, version_number
from zos.controller.parts import OWN, cause, differing, own_fields, pool_field, shares, with_parts
from zos.controller.refusals import Refusals
from zos.kube.client import ApiError, Client, Conflict, NotFound, Raw, Unavailable
from zos.world.store import World

log = logging.getLogger("zos.ledger")

#: Bytes that all shares of a pool may have: etcd takes 1.5 MiB, and the pool must still be able to say how it stands. As many
#: shares as can't have more are not measured.
_ROOM, _SURELY_FIT = 2**20, 1500


class Lost(Exception):
    """The pool changed under an unwritten share: resolve again."""


class Denied(ApiError):
    """What somebody needs of a pool can't be written, for good; worded for him."""


class _Waiter(NamedTuple):
    """Somebody who relies on a part being written. ``by``: whose resolution asked for it."""

    part: str
    by: Key | None
    done: asyncio.Future[None]


@dataclass
class _Open:
    """A pool with unwritten changes. ``base`` is what the API server has; ``writing`` what is on its way to it, which the
    watch may tell of before the answer comes. ``doubted``: parts among which something was refused, to be written group by
    group."""

    base: Object
    writing: Object | None = None
    waiters: list[_Waiter] = field(default_factory=list)
    doubted: list[tuple[str, ...]] = field(default_factory=list)


class Ledger:
    """``absorb`` puts what the API server has into the cache, through `rebase`, unless the cache has something newer;
    ``changed`` gets the keys that a change in the cache calls for; ``clock`` gives seconds."""

    def __init__(
        self,
        client: Client,
        world: World,
        absorb: Callable[[Key, Raw | None], None],
        changed: Callable[[frozenset[Key]], None],
        manager: str,
        clock: Callable[[], float],
    ) -> None:
        self._client = client
        self._world = world
        self._absorb = absorb
        self._changed = changed
        self._manager = manager
        self._open: dict[Key, _Open] = {}
        self._tasks: dict[Key, asyncio.Task[None]] = {}
        self._refusals = Refusals(clock)
        self._sizes: dict[Key, tuple[object, int]] = {}  # of a pool's shares: what was measured, and its bytes

    def hold(self, pool: Key, entry: Any, by: Key | None = None) -> asyncio.Future[None] | None:
        """Takes a share; None if it is recorded already, else done when it is written. Raises `Lost`, and `Denied` where it
        can't be for good. ``by``: whose resolution asks for it, which needs no second look to see it there."""
        return self._set(pool, entry.uid, entry, by)

    def release(self, pool: Key, uid: str) -> asyncio.Future[None] | None:
        """Gives a share back; None if there is none."""
        return self._set(pool, uid, None)

    def status(self, key: Key, status: Status) -> asyncio.Future[None] | None:
        """A pool's own new status, resolved from the cached copy as it is now. None if nothing changes."""
        obj: Any = self._world.peek(key)
        if obj is None or obj.status == status:
            return self._join(key, OWN, key)
        denied = self._denied(key, OWN, cause(obj))
        if denied is not None:  # whose share is over does not have to wait for that
            name = pool_field(obj)
            status = obj.status.model_copy(update={name: getattr(status, name)})
            if status == obj.status:
                return denied
        written = self._put(key, obj.model_copy(update={"status": status}), OWN, key)
        return denied or written

    def rebase(self, key: Key, fresh: Object) -> Object:
        """What the cache should hold now that the API server has ``fresh``: unwritten changes on top, or ``fresh`` itself
        where somebody else changed what they are about."""
        opened = self._open.get(key)
        if opened is None:
            return fresh
        current: Any = self._world.peek(key)
        base: Any = opened.base
        new: Any = fresh
        fields = own_fields(fresh)
        known = [base, *((opened.writing,) if opened.writing is not None else ())]
        if (
            current is None
            or fresh.uid != opened.base.uid
            or not any(all(getattr(new.status, name) == getattr(one.status, name) for name in fields) for one in known)
        ):
            self._drop(key)
            return fresh
        opened.base = fresh
        status = new.status.model_copy(update={name: getattr(current.status, name) for name in fields})
        merged: Object = new.model_copy(update={"status": status})
        return merged

    def forget(self, key: Key) -> None:
        """The pool is gone."""
        self._refusals.forget(key)
        self._sizes.pop(key, None)
        if key in self._open:
            self._drop(key)

    def _set(self, pool: Key, uid: str, entry: Any | None, by: Key | None = None) -> asyncio.Future[None] | None:
        obj: Any = self._world.peek(pool)
        if obj is None or obj.POOL is None:
            return None
        entries = getattr(obj.status, obj.POOL)
        mine = next((other for other in entries if other.uid == uid), None)
        if mine == entry:
            if entry is None:
                self._refusals.forgive(pool, (uid,))
                return None
            return self._join(pool, uid, by)
        if (denied := self._denied(pool, uid, entry)) is not None:
            return denied
        others = tuple(other for other in entries if other.uid != uid)
        if mine is None and not self._fits(pool, entries, entry):
            words = f"{len(entries)} objects have something of it, and there is no room to write down more: use another"
            return _failed(Denied(413, "RequestEntityTooLarge", f"{pool}: {words}"))
        updated = {obj.POOL: (*others, entry) if entry is not None else others}
        if mine is None and (known := self._sizes.get(pool)) is not None and known[0] is entries:
            self._sizes[pool] = updated[obj.POOL], known[1] + _size(entry)
        return self._put(pool, obj.model_copy(update={"status": obj.status.model_copy(update=updated)}), uid, by)

    def _join(self, key: Key, part: str, by: Key | None) -> asyncio.Future[None] | None:
        """Waits for what is being written already; it may be what the caller relies on."""
        opened = self._open.get(key)
        return self._waiter(opened, part, by) if opened is not None else None

    def _put(self, key: Key, obj: Object, part: str, by: Key | None) -> asyncio.Future[None]:
        opened = self._open.get(key)
        if opened is None:
            base = self._world.peek(key)
            assert base is not None
            opened = self._open[key] = _Open(base)
        self._changed(self._world.put(obj) - {by})
        if key not in self._tasks:
            self._tasks[key] = asyncio.create_task(self._flush(key))
        return self._waiter(opened, part, by)

    @staticmethod
    def _waiter(opened: _Open, part: str, by: Key | None) -> asyncio.Future[None]:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        opened.waiters.append(_Waiter(part, by, done))
        return done

    async def _flush(self, key: Key) -> None:
        try:
            while key in self._open:
                await asyncio.sleep(0)  # let what is resolved in this turn of the loop come along
                opened = self._open.get(key)
                if opened is None:
                    return
                await self._write(key, opened)
        finally:
            del self._tasks[key]

    async def _write(self, key: Key, opened: _Open) -> None:
        wanted: Any = self._world.peek(key)
        base: Any = opened.base
        parts = self._next(key, opened, wanted) if wanted is not None else None
        if parts is not None:
            wanted = wanted.model_copy(update={"status": with_parts(base, wanted, parts)})
            waiters = [waiter for waiter in opened.waiters if waiter.part in parts]
            opened.waiters = [waiter for waiter in opened.waiters if waiter.part not in parts]
        else:
            waiters, opened.waiters = opened.waiters, []
        patch = status_patch(base.status, wanted.status) if wanted is not None else {}
        try:
            if not patch:
                if parts:  # it is written differently only in memory
                    opened.base = base.model_copy(update={"status": wanted.status})
                else:
                    self._close(key)
                _settle(waiters)
                return
            opened.writing = wanted
            body = {"metadata": {"resourceVersion": base.metadata.resource_version}, "status": patch}
            raw = await self._client.patch(
                type(base), key.namespace, key.name, body, subresource="status", manager=self._manager
            )
        except (Conflict, NotFound, ApiError, Unavailable) as error:
            if isinstance(error, ApiError) and error.permanent:
                if self._open.get(key) is opened:
                    self._refused(key, opened, wanted, parts, waiters, error)
                else:
                    _fail(waiters, Lost(f"{key}: {error}"))
                return
            log.info("pool %s changed meanwhile or can't be written: %s", key, error)
            _fail(waiters, Lost(f"{key}: {error}"))
            if self._open.get(key) is opened:
                self._drop(key, f"{key}: {error}")
                await self._refetch(key, type(base))
            return
        finally:
            opened.writing = None
        fresh: Any = type(base).model_validate(raw)
        still = self._open.get(key)
        current: Any = self._world.peek(key)
        if still is opened and current is not None:
            if fresh.uid == opened.base.uid and _version(fresh) < _version(opened.base):
                fresh = opened.base  # the watch was quicker than the answer, and has told of somebody else's write since
            if current.status == wanted.status:
                self._close(key)
                self._changed(self._world.put(fresh))
            else:  # more came while this was on its way, or it was not all
                opened.base = fresh
                if parts is None:
                    status = fresh.status.model_copy(update={name: getattr(current.status, name) for name in own_fields(fresh)})
                else:
                    status = with_parts(fresh, current, differing(fresh, current))
                self._changed(self._world.put(fresh.model_copy(update={"status": status})))
        self._refusals.forgive(key, parts or ())
        _settle(waiters)

    # -- what is refused for good

    def _next(self, key: Key, opened: _Open, wanted: Object) -> tuple[str, ...] | None:
        """The parts to write now; None: all of them, as nothing is known against any. Who is under suspicion goes first, or
        would wait for as long as others keep coming; what was refused before goes alone."""
        known = self._refusals.of(key)
        if not known and not opened.doubted:
            return None
        pending = differing(opened.base, wanted)
        groups = [tuple(part for part in group if part in pending) for group in opened.doubted]
        opened.doubted = [group for group in groups if group]
        if opened.doubted:
            return opened.doubted.pop(0)
        return next(((part,) for part in pending if part in known), pending)

    def _refused(
        self,
        key: Key,
        opened: _Open,
        wanted: Object,
        parts: tuple[str, ...] | None,
        waiters: list[_Waiter],
        error: ApiError,
    ) -> None:
        """A write was refused: looks for whose part of it, or drops the one that it is."""
        suspects = [part for part in differing(opened.base, wanted) if parts is None or part in parts]
        if len(suspects) > 1:
            half = len(suspects) // 2
            opened.doubted[:0] = [tuple(suspects[:half]), tuple(suspects[half:])]
            opened.waiters[:0] = waiters
            return
        log.warning("pool %s: %s", key, error)
        current: Any = self._world.peek(key)
        newer = differing(wanted, current)  # asked for since: that is another try
        for part in suspects:
            what = cause(opened.base) if part == OWN else shares(wanted).get(part)
            self._refusals.note(key, part, what, error)
        dropped = [part for part in suspects if part not in newer]
        told = [waiter for waiter in waiters if waiter.part in suspects]
        told += [waiter for waiter in opened.waiters if waiter.part in dropped]
        opened.waiters = [waiter for waiter in opened.waiters if waiter.part not in dropped]
        _settle([waiter for waiter in waiters if waiter.part not in suspects])
        left = [part for part in differing(opened.base, current) if part not in dropped]
        rest = current.model_copy(update={"status": with_parts(opened.base, current, left)})
        self._changed(self._world.put(rest) - {waiter.by for waiter in told})
        if not left:
            self._close(key)
        _fail(told, _said(key, error))

    def _denied(self, key: Key, part: str, what: object) -> asyncio.Future[None] | None:
        """What was refused a moment ago, and is the same still, is refused at once: it must not come and go in the cache."""
        error = self._refusals.standing(key, part, what)
        return _failed(_said(key, error)) if error is not None else None

    def _fits(self, pool: Key, entries: Any, entry: Any) -> bool:
        """Whether there is room for another share."""
        if len(entries) < _SURELY_FIT:
            return True
        measured, size = self._sizes.get(pool, (None, 0))
        if measured is not entries:
            size = sum(map(_size, entries))
            self._sizes[pool] = entries, size
        return size + _size(entry) <= _ROOM

    async def _refetch(self, key: Key, model: type[Object]) -> None:
        try:
            raw = await self._client.get(model, key.namespace, key.name)
        except (ApiError, Unavailable):
            return  # the watch tells in time
        if raw is not None:  # its end is the watch's to tell
            self._absorb(key, raw)

    def _close(self, key: Key) -> None:
        opened = self._open.pop(key)
        if opened.waiters:  # joined while the last write was on its way
            _settle(opened.waiters)

    def _drop(self, key: Key, why: str = "it changed meanwhile") -> None:
        opened = self._open.pop(key)
        self._changed(self._world.put(opened.base) | {key})
        _fail(opened.waiters, Lost(why))


def _size(entry: Any) -> int:
    """Bytes that a share takes in the status."""
    return len(json.dumps(entry.wire(), ensure_ascii=False, separators=(",", ":")).encode()) + 1


def _version(obj: Object) -> int:
    return version_number(obj.metadata.resource_version)


def _said(pool: Key, error: ApiError) -> Denied:
    return Denied(error.status, error.reason, f"{pool}: the API server refuses it: {error}")


def _failed(error: Denied) -> asyncio.Future[None]:
    waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    _fail([_Waiter(OWN, None, waiter)], error)
    return waiter


def _fail(waiters: list[_Waiter], why: Exception) -> None:
    for waiter in waiters:
        if not waiter.done.done():
            waiter.done.set_exception(why)
            waiter.done.exception()  # who asked may have failed before it came to wait


def _settle(waiters: list[_Waiter]) -> None:
    for waiter in waiters:
        if not waiter.done.done():
            waiter.done.set_result(None)


def status_patch(before: Model, after: Model) -> dict[str, Any]:
    """A JSON merge patch (RFC 7386) from a status as it was read to the next one. What was not there is no 0: a count that
    nobody ever wrote is shown as nothing. What neither of them names is not written: it may be somebody else's field."""
    patch: dict[str, Any] = {}
    whole: set[str] = set()
    for name, field_ in type(after).model_fields.items():
        was, is_ = getattr(before, name), getattr(after, name)
        if isinstance(was, Model) and isinstance(is_, Model):
            if inner := status_patch(was, is_):
                patch[field_.alias or name] = inner
            continue
        named = name in after.model_fields_set - before.model_fields_set and is_ is not None and is_ != ()
        if was != is_ or named:
            whole.add(name)
            patch[field_.alias or name] = None
    return patch | after.model_dump(mode="json", by_alias=True, exclude_none=True, include=whole)
