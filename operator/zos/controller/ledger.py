"""The ledger: shares of pools, taken in memory at once and written to the pool's status before anyone relies on them.

A pool is an object whose status records who holds what of it (GridNode, Network, Contract). The cached copy shows a share
as soon as it is taken, so the next resolution can't take the same; one guarded write then carries all that came together.
When the pool turns out to have changed meanwhile, everything unwritten is dropped and its askers resolve again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from zos.api.meta import Key, Object, Status, version_number
from zos.controller.registry import KINDS
from zos.kube.client import ApiError, Client, Conflict, NotFound, Raw, Unavailable
from zos.world.store import World

log = logging.getLogger("zos.ledger")


class Lost(Exception):
    """The pool changed under an unwritten share: resolve again."""


@dataclass
class _Open:
    """A pool with unwritten changes. ``base`` is what the API server has; ``writing`` what is on its way to it, which the
    watch may tell of before the answer comes."""

    base: Object
    writing: Object | None = None
    waiters: list[asyncio.Future[None]] = field(default_factory=list)


class Ledger:
    """``absorb`` puts what the API server has into the cache, through `rebase`, unless the cache has something newer;
    ``changed`` gets the keys that a change in the cache calls for."""

    def __init__(
        self,
        client: Client,
        world: World,
        absorb: Callable[[Key, Raw | None], None],
        changed: Callable[[frozenset[Key]], None],
        manager: str,
    ) -> None:
        self._client = client
        self._world = world
        self._absorb = absorb
        self._changed = changed
        self._manager = manager
        self._open: dict[Key, _Open] = {}
        self._tasks: dict[Key, asyncio.Task[None]] = {}

    def hold(self, pool: Key, entry: Any, by: Key | None = None) -> asyncio.Future[None] | None:
        """Takes a share; None if it is recorded already, else done when it is written (raises `Lost`). ``by``: whose
        resolution asks for it, which needs no second look to see it there."""
        return self._set(pool, entry.uid, entry, by)

    def release(self, pool: Key, uid: str) -> asyncio.Future[None] | None:
        """Gives a share back; None if there is none."""
        return self._set(pool, uid, None)

    def status(self, key: Key, status: Status) -> asyncio.Future[None] | None:
        """A pool's own new status, resolved from the cached copy as it is now. None if nothing changes."""
        obj: Any = self._world.peek(key)
        if obj is None or obj.status == status:
            return self._join(key)
        return self._put(key, obj.model_copy(update={"status": status}))

    def rebase(self, key: Key, fresh: Object) -> Object:
        """What the cache should hold now that the API server has ``fresh``: unwritten changes on top, or ``fresh`` itself
        where somebody else changed what they are about."""
        opened = self._open.get(key)
        if opened is None:
            return fresh
        ours = KINDS[key.kind]
        current: Any = self._world.peek(key)
        base: Any = opened.base
        new: Any = fresh
        fields = [name for name in type(new.status).model_fields if name not in ours.shared]
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
        if key in self._open:
            self._drop(key)

    def _set(self, pool: Key, uid: str, entry: Any | None, by: Key | None = None) -> asyncio.Future[None] | None:
        obj: Any = self._world.peek(pool)
        name = KINDS[pool.kind].pool
        if obj is None or name is None:
            return None
        entries = getattr(obj.status, name)
        mine = next((other for other in entries if other.uid == uid), None)
        if mine == entry:
            return self._join(pool) if entry is not None else None
        others = tuple(other for other in entries if other.uid != uid)
        updated = {name: (*others, entry) if entry is not None else others}
        return self._put(pool, obj.model_copy(update={"status": obj.status.model_copy(update=updated)}), by)

    def _join(self, key: Key) -> asyncio.Future[None] | None:
        """Waits for what is being written already; it may be what the caller relies on."""
        opened = self._open.get(key)
        return self._waiter(opened) if opened is not None else None

    def _put(self, key: Key, obj: Object, by: Key | None = None) -> asyncio.Future[None]:
        opened = self._open.get(key)
        if opened is None:
            base = self._world.peek(key)
            assert base is not None
            opened = self._open[key] = _Open(base)
        self._changed(self._world.put(obj) - {by})
        if key not in self._tasks:
            self._tasks[key] = asyncio.create_task(self._flush(key))
        return self._waiter(opened)

    @staticmethod
    def _waiter(opened: _Open) -> asyncio.Future[None]:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        opened.waiters.append(waiter)
        return waiter

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
        waiters, opened.waiters = opened.waiters, []
        patch = status_patch(base.status, wanted.status) if wanted is not None else {}
        try:
            if not patch:
                self._close(key)
                _settle(waiters)
                return
            opened.writing = wanted
            body = {"metadata": {"resourceVersion": base.metadata.resource_version}, "status": patch}
            raw = await self._client.patch(
                type(base), key.namespace, key.name, body, subresource="status", manager=self._manager
            )
        except (Conflict, NotFound, ApiError, Unavailable) as error:
            log.info("pool %s changed meanwhile or can't be written: %s", key, error)
            _fail(waiters, f"{key}: {error}")
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
            else:  # more came while this was on its way
                opened.base = fresh
                fields = [name for name in type(fresh.status).model_fields if name not in KINDS[key.kind].shared]
                status = fresh.status.model_copy(update={name: getattr(current.status, name) for name in fields})
                self._changed(self._world.put(fresh.model_copy(update={"status": status})))
        _settle(waiters)

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
        _fail(opened.waiters, why)


def _version(obj: Object) -> int:
    return version_number(obj.metadata.resource_version)


def _fail(waiters: list[asyncio.Future[None]], why: str) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_exception(Lost(why))
            waiter.exception()  # who asked may have failed before it came to wait


def _settle(waiters: list[asyncio.Future[None]]) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)


def status_patch(before: Status, after: Status) -> dict[str, Any]:
    """A JSON merge patch (RFC 7386) from one status to the other."""
    return _merge_patch(before.wire(), after.wire())


def _merge_patch(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    patch: dict[str, Any] = {}
    for name in sorted(old.keys() | new.keys()):
        was, is_ = old.get(name), new.get(name)
        if was != is_:
            patch[name] = _merge_patch(was, is_) if isinstance(was, dict) and isinstance(is_, dict) else is_
    return patch
