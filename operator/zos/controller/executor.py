"""Carries resolutions out: compares with what the World holds, and writes only what differs, in an order that loses nothing.

First the finalizer, then shares of pools and claims, then other objects and Secrets, then NodeWorkloads, last the status.
Whatever is written comes back into the World at once. A write that the API server refuses for good stops nothing that does not
depend on it, and is told by the object's own condition.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from zos.api.contract import Claim
from zos.api.core import Secret
from zos.api.meta import CONTROLLER_FINALIZER, Object
from zos.api.nodeworkload import NodeWorkload
from zos.controller.applying import Applier
from zos.controller.claims import Claims
from zos.controller.deletion import Deletion
from zos.controller.farewell import Farewell
from zos.controller.ledger import Ledger
from zos.controller.nodeworkloads import NodeWorkloads
from zos.controller.patience import Patience
from zos.controller.secrets import Secrets
from zos.controller.telling import Telling
from zos.controller.writing import Exchange, attempt, every, finalizers
from zos.kinds.kind import Kinds, Writer
from zos.kube.client import ApiError
from zos.world.resolution import Resolution


class Refused(Exception):
    """The API server refuses some of an object's writes for good: nothing changes until somebody changes something."""


@dataclass(frozen=True)
class _Task:
    """One resolution on its way to the API server. ``waiters`` are the shares of pools without which nothing else may be
    written, ``status`` the one of them that is a pool's own (None: it is written already). ``claims`` are to be created;
    ``surplus``, ``strays`` and ``leavers`` (claims, Secrets, NodeWorkloads) are to go: only what the resolution saw, as what
    comes while it is carried out may be from another leader, who saw more."""

    obj: Object
    resolution: Resolution
    needs_finalizer: bool
    waiters: tuple[asyncio.Future[None], ...]
    status: asyncio.Future[None] | None
    claims: tuple[Claim, ...]
    surplus: tuple[Claim, ...]
    strays: tuple[Secret, ...]
    leavers: tuple[NodeWorkload, ...]


class Executor:
    """``secrets_of`` gives the Secrets that were made for the object with a uid; ``clock`` gives seconds.

    What an object's own resolution brought about does not resolve it again: looking twice must give the same
    (tests/golden sees to it).
    """

    def __init__(
        self,
        exchange: Exchange,
        kinds: Kinds,
        ledger: Ledger,
        secrets_of: Callable[[str], tuple[Secret, ...]],
        clock: Callable[[], float],
    ) -> None:
        self._exchange = exchange
        self._kinds = kinds
        self._ledger = ledger
        self._claims = Claims(exchange)
        self._applier = Applier(exchange.client)
        self._secrets = Secrets(exchange, secrets_of)
        self._farewell = Farewell(exchange, kinds)
        self._workloads = NodeWorkloads(exchange, kinds, self._farewell, clock)
        self._telling = Telling(exchange, clock)
        self._patience = Patience(clock)
        self._deletion = Deletion(
            ledger, self._claims, self._workloads, self._farewell, self._telling, self._patience, exchange.again
        )

    @property
    def underway(self) -> int:
        """How many objects are being written."""
        return self._patience.underway

    def carry_out(self, obj: Object, resolution: Resolution) -> Awaitable[None]:
        """The part that the next resolution must see is done before this returns; the rest is in the awaitable.

        Raises (from the awaitable) `Lost`, `Refused`, Conflict, ApiError and Unavailable: resolve again.
        """
        asked = self._workloads.as_asked(obj, resolution)
        return self._carry_out(obj, asked, self._begin(obj, asked))

    async def close(self) -> None:
        await self._telling.close()

    async def _carry_out(self, obj: Object, resolution: Resolution, rest: Callable[[], Awaitable[None]]) -> None:
        try:
            await rest()
        except ApiError as error:
            if not error.permanent or not await self._telling.stopped(obj, resolution, error):
                raise
            raise Refused(str(error)) from error

    def _begin(self, obj: Object, resolution: Resolution) -> Callable[[], Awaitable[None]]:
        """Takes in the World what the resolution takes. Gives what is left to do."""
        kind = self._kinds[obj.KIND]
        if resolution.obsolete or resolution.let_go:
            return partial(self._farewell.dismiss, obj, resolution)
        if kind.writer is Writer.CONTROLLER:  # nobody reads how it stands: it is only kept or dismissed
            return _nothing
        if obj.deleting:
            return partial(self._delete, obj, resolution)
        needs_finalizer = kind.finalized and CONTROLLER_FINALIZER not in obj.metadata.finalizers
        if needs_finalizer and obj.POOL is not None:  # its status is guarded by the version that this changes: the rest follows
            return partial(self._add_finalizer, obj)
        waiters = [self._ledger.hold(hold.pool, hold.entry, obj.key) for hold in resolution.holds]
        waiters += [self._ledger.release(pool, obj.uid) for pool in resolution.releases]
        surplus = self._claims.surplus(obj, resolution.claims)
        claims = self._claims.take(obj, resolution.claims or ())
        status = self._ledger.status(obj.key, self._telling.status(obj, resolution)) if obj.POOL is not None else None
        task = _Task(
            obj,
            resolution,
            needs_finalizer,
            waiters=tuple(waiter for waiter in (*waiters, status) if waiter is not None),
            status=status,
            claims=tuple(claims),
            surplus=tuple(surplus),
            strays=self._secrets.strays(obj, resolution.secrets),
            leavers=self._workloads.leavers(obj, resolution.workloads),
        )
        return partial(self._write, task)

    async def _write(self, task: _Task) -> None:
        with self._patience.writing():
            await self._take(task)
            refused = await self._make(task)
            await self._tell(task, refused)
        if refused:
            raise Refused("; ".join(refused))

    async def _take(self, task: _Task) -> None:
        """Everything without which nothing else may be written."""
        try:
            if task.needs_finalizer:
                await self._add_finalizer(task.obj)
            if task.waiters:
                await every(task.waiters)
        except BaseException:
            for claim in task.claims:
                self._claims.untake(claim)
            raise
        finally:
            if task.obj.POOL is not None and (task.status is None or _well(task.status)):
                self._tell_notices(task)
        await every([self._claims.write(claim) for claim in task.claims])
        if task.surplus:
            await self._claims.release(task.obj, list(task.surplus))

    async def _make(self, task: _Task) -> list[str]:
        """What the object brings about elsewhere. Gives what the API server refuses for good."""
        obj, resolution = task.obj, task.resolution
        refused: list[str] = []
        if resolution.objects:
            refused += await attempt("its namespace and rights", partial(self._applier.apply, obj, resolution))
        refused += await self._secrets.write(obj, resolution.secrets or (), task.strays)
        if resolution.recorded:
            await self._telling.write(obj, self._telling.status(obj, resolution))
            self._tell_notices(task)
        if resolution.workloads is not None:
            refused += await self._workloads.ask(obj, resolution.workloads, task.leavers)
        return refused

    async def _tell(self, task: _Task, refused: list[str]) -> None:
        obj, resolution = task.obj, task.resolution
        news = self._telling.refused(obj, refused)
        self._telling.event(obj, self._telling.verdict(obj, resolution.verdict))
        self._tell_notices(task)
        if obj.POOL is not None:
            if news:
                self._exchange.again(obj.key, 0.0)  # its status was written before it was known
            return
        pause = self._patience.pause(obj, resolution.verdict)
        if pause > 0 and not refused:
            self._exchange.again(obj.key, pause)
        else:
            await self._telling.write(obj, self._telling.status(obj, resolution))

    def _tell_notices(self, task: _Task) -> None:
        """What has happened is told (once, however often this is called) as soon as the status shows it: whatever fails after
        that, the next look would find nothing new."""
        self._telling.notices(task.obj, task.resolution.notices)

    async def _delete(self, obj: Object, resolution: Resolution) -> None:
        if CONTROLLER_FINALIZER not in obj.metadata.finalizers or not await self._deletion.go_on(obj, resolution):
            return
        for memory in (self._applier, self._patience, self._telling, self._workloads):
            memory.forget(obj)
        await finalizers(self._exchange, obj, [name for name in obj.metadata.finalizers if name != CONTROLLER_FINALIZER])

    async def _add_finalizer(self, obj: Object) -> None:
        await finalizers(self._exchange, obj, (*obj.metadata.finalizers, CONTROLLER_FINALIZER))


def _well(future: asyncio.Future[None]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


async def _nothing() -> None:
    return
