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
import contextlib
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from zos.api.meta import Key, Object, Status, version_number
from zos.controller.parts import OWN, cause, differing, follows, pool_field, same_own, shares, with_own, with_parts, with_status
from zos.controller.refusals import Refusals
from zos.controller.sizes import Sizes
from zos.controller.waiters import Waiter, fail, failed, fulfil, waiter
from zos.controller.writing import MANAGER, Exchange, status_patch
from zos.kube.client import ApiError, Unavailable

log = logging.getLogger("zos.ledger")

#: Seconds for which shares that come back are gathered: machines go together, and nobody waits for what one of them had.
_GATHER = 0.5


class Lost(Exception):
    """The pool changed under an unwritten share: resolve again."""


class Denied(ApiError):
    """What somebody needs of a pool can't be written, for good; worded for him."""


@dataclass
class _Open:
    """A pool with unwritten changes. ``base`` is what the API server has, as far as is known: the changes are what the cache
    has otherwise. ``writing`` is what is on its way, which the watch may tell of before the answer comes. ``doubted``: parts
    among which something was refused, to be written group by group. ``urgent``: somebody waits for what is unwritten."""

    base: Object
    writing: Object | None = None
    waiters: list[Waiter] = field(default_factory=list)
    doubted: list[tuple[str, ...]] = field(default_factory=list)
    urgent: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, parts: Collection[str] | None) -> list[Waiter]:
        """Who waits for these parts (None: for any), and from now on for the write that is made of them."""
        taken = [each for each in self.waiters if parts is None or each.part in parts]
        self.waiters = [each for each in self.waiters if parts is not None and each.part not in parts]
        return taken


@dataclass(frozen=True)
class _Write:
    """A write of a pool. ``wanted`` is what it makes of the pool; ``parts`` are those that it is about, None for all that was
    unwritten; ``waiters`` rely on it."""

    key: Key
    opened: _Open
    wanted: Object
    parts: tuple[str, ...] | None
    waiters: list[Waiter]


class Ledger:
    """The exchange's ``absorb`` must come to `rebase` before anything gets into the cache; ``clock`` gives seconds. ``gather``:
    for how many what comes back waits for more of that."""

    def __init__(self, exchange: Exchange, clock: Callable[[], float], gather: float = _GATHER) -> None:
        self._client = exchange.client
        self._world = exchange.world
        self._absorb = exchange.absorb
        self._changed = exchange.changed
        self._gather = gather
        self._open: dict[Key, _Open] = {}
        self._tasks: dict[Key, asyncio.Task[None]] = {}
        self._refusals = Refusals(clock)
        self._sizes = Sizes()

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
        updated = with_status(obj, status)
        written = self._put(key, updated, OWN, key, urgent=not follows(obj, updated))
        return denied or written

    def rebase(self, key: Key, fresh: Object) -> Object:
        """What the cache should hold now that the API server has ``fresh``: always that, with the unwritten changes on top.

        They were decided on the controller's fields of `_Open.base`. As long as these are in ``fresh`` as they were, or as a
        write of ours that is on its way makes them, the decisions stand: the controller's fields stay as the cache has them,
        and the others come from ``fresh``. Otherwise somebody else has changed what they are about: they are dropped, and who
        asked for them resolves again.
        """
        opened = self._open.get(key)
        if opened is None:
            return fresh
        current = self._world.peek(key)
        known = [opened.base, *((opened.writing,) if opened.writing is not None else ())]
        if current is None or fresh.uid != opened.base.uid or not any(same_own(fresh, one) for one in known):
            self._drop(key)
            return fresh
        opened.base = fresh
        return with_own(fresh, current)

    def forget(self, key: Key) -> None:
        """The pool is gone."""
        self._refusals.forget(key)
        self._sizes.forget(key)
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
        if mine is None and not self._sizes.fits(pool, entries, entry):
            words = f"{len(entries)} objects have something of it, and there is no room to write down more: use another"
            return failed(Denied(413, "RequestEntityTooLarge", f"{pool}: {words}"))
        updated = (*others, entry) if entry is not None else others
        if mine is None:
            self._sizes.added(pool, entries, updated, entry)
        changed = with_status(obj, obj.status.model_copy(update={obj.POOL: updated}))
        return self._put(pool, changed, uid, by, urgent=entry is not None)

    def _join(self, key: Key, part: str, by: Key | None) -> asyncio.Future[None] | None:
        """Waits for what is being written already; it may be what the caller relies on."""
        opened = self._open.get(key)
        return self._wait(opened, part, by) if opened is not None else None

    def _put(self, key: Key, obj: Object, part: str, by: Key | None, *, urgent: bool) -> asyncio.Future[None]:
        """Changes a pool in the cache, and sees to it that this is written."""
        opened = self._open.get(key)
        if opened is None:
            base = self._world.peek(key)
            assert base is not None
            opened = self._open[key] = _Open(base)
        if urgent:
            opened.urgent.set()
        self._changed(self._world.put(obj) - {by})
        if key not in self._tasks:
            self._tasks[key] = asyncio.create_task(self._flush(key))
        return self._wait(opened, part, by)

    @staticmethod
    def _wait(opened: _Open, part: str, by: Key | None) -> asyncio.Future[None]:
        opened.waiters.append(waiter(part, by))
        return opened.waiters[-1].done

    async def _flush(self, key: Key) -> None:
        try:
            while key in self._open:
                opened = self._open[key]
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(opened.urgent.wait(), self._gather)
                await asyncio.sleep(0)  # let what is resolved in this turn of the loop come along
                if self._open.get(key) is not opened:
                    continue
                opened.urgent.clear()
                await self._write(key, opened)
        finally:
            del self._tasks[key]

    async def _write(self, key: Key, opened: _Open) -> None:
        """Writes what is unwritten, or the parts of it whose turn it is."""
        base: Any = opened.base
        wanted: Any = self._world.peek(key)
        parts = self._next(key, opened, wanted) if wanted is not None else None
        if parts is not None:
            wanted = with_status(wanted, with_parts(base, wanted, parts))
        waiters = opened.take(parts)
        patch = status_patch(base.status, wanted.status) if wanted is not None else {}
        if not patch:
            if parts:  # it is written differently only in memory
                opened.base = with_status(base, wanted.status)
            else:
                self._close(key)
            fulfil(waiters)
            return
        write = _Write(key, opened, wanted, parts, waiters)
        opened.writing = wanted
        body = {"metadata": {"resourceVersion": base.metadata.resource_version}, "status": patch}
        try:
            raw = await self._client.patch(type(base), key.namespace, key.name, body, subresource="status", manager=MANAGER)
        except (ApiError, Unavailable) as error:
            await self._unwritten(write, error)
        else:
            self._written(write, type(base).model_validate(raw))
        finally:
            opened.writing = None

    def _written(self, write: _Write, fresh: Object) -> None:
        """The API server has taken a write, and answered with the pool as it is now."""
        key, opened = write.key, write.opened
        current: Any = self._world.peek(key)
        wanted: Any = write.wanted
        if self._open.get(key) is opened and current is not None:
            if fresh.uid == opened.base.uid and _version(fresh) < _version(opened.base):
                fresh = opened.base  # the watch was quicker than the answer, and has told of somebody else's write since
            if current.status == wanted.status:
                self._close(key)
                self._changed(self._world.put(fresh))
            else:  # more came while this was on its way, or it was not all
                opened.base = fresh
                if write.parts is None:
                    rest = with_own(fresh, current)
                else:
                    opened.urgent.set()
                    rest = with_status(fresh, with_parts(fresh, current, differing(fresh, current)))
                self._changed(self._world.put(rest))
        self._refusals.forgive(key, write.parts or ())
        fulfil(write.waiters)

    async def _unwritten(self, write: _Write, error: ApiError | Unavailable) -> None:
        """A write did not succeed: it is refused for good, or the pool is not as it was known, or nobody knows."""
        key, opened = write.key, write.opened
        still = self._open.get(key) is opened
        if still and isinstance(error, ApiError) and error.permanent:
            self._refused(write, error)
            return
        log.info("pool %s changed meanwhile or can't be written: %s", key, error)
        fail(write.waiters, Lost(f"{key}: {error}"))
        if still:
            self._drop(key, f"{key}: {error}")
            await self._refetch(key, type(opened.base))

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

    def _refused(self, write: _Write, error: ApiError) -> None:
        """A write was refused: looks for whose part of it, or drops the one that it is."""
        key, opened, wanted, parts = write.key, write.opened, write.wanted, write.parts
        suspects = [part for part in differing(opened.base, wanted) if parts is None or part in parts]
        if len(suspects) > 1:
            half = len(suspects) // 2
            opened.doubted[:0] = [tuple(suspects[:half]), tuple(suspects[half:])]
            opened.waiters[:0] = write.waiters
            opened.urgent.set()
            return
        log.warning("pool %s: %s", key, error)
        current: Any = self._world.peek(key)
        newer = differing(wanted, current)  # asked for since: that is another try
        for part in suspects:
            what = cause(opened.base) if part == OWN else shares(wanted).get(part)
            self._refusals.note(key, part, what, error)
        dropped = [part for part in suspects if part not in newer]
        told = [each for each in write.waiters if each.part in suspects]
        told += opened.take(dropped)
        fulfil(each for each in write.waiters if each.part not in suspects)
        left = [part for part in differing(opened.base, current) if part not in dropped]
        rest = with_status(current, with_parts(opened.base, current, left))
        self._changed(self._world.put(rest) - {each.by for each in told})
        opened.urgent.set()
        if not left:
            self._close(key)
        fail(told, _said(key, error))

    def _denied(self, key: Key, part: str, what: object) -> asyncio.Future[None] | None:
        """What was refused a moment ago, and is the same still, is refused at once: it must not come and go in the cache."""
        error = self._refusals.standing(key, part, what)
        return failed(_said(key, error)) if error is not None else None

    async def _refetch(self, key: Key, model: type[Object]) -> None:
        try:
            raw = await self._client.get(model, key.namespace, key.name)
        except (ApiError, Unavailable):
            return  # the watch tells in time
        if raw is not None:  # its end is the watch's to tell
            self._absorb(key, raw)

    def _close(self, key: Key) -> None:
        """All is written."""
        fulfil(self._open.pop(key).waiters)  # who joined while the last write was on its way

    def _drop(self, key: Key, why: str = "it changed meanwhile") -> None:
        """Forgets what is unwritten."""
        opened = self._open.pop(key)
        opened.urgent.set()  # whoever takes something now does not wait for what was to come along with this
        self._changed(self._world.put(opened.base) | {key})
        fail(opened.waiters, Lost(why))


def _version(obj: Object) -> int:
    return version_number(obj.metadata.resource_version)


def _said(pool: Key, error: ApiError) -> Denied:
    return Denied(error.status, error.reason, f"{pool}: the API server refuses it: {error}")
