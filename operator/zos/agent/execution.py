"""Carries operations out: in order, in parallel, slow ones beside the loop, failed ones again later."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from zos.drivers import Driver, DriverError
from zos.plan.diff import Observed, Op
from zos.plan.items import Item
from zos.plan.order import schedule

log = logging.getLogger("zos.agent")

#: Operations of a quick driver that run at once; keeps a large plan from starting hundreds of programs.
_PARALLEL = 16
#: Seconds after which an operation of a quick driver goes on beside the loop, like one of a slow driver: nobody waits for it.
_PATIENCE = 2.0
#: Seconds to end for operations that are called off when the agent stops. What hangs then is left behind.
_FAREWELL = 10.0
_FIRST_RETRY = 1.0
_LAST_RETRY = 300.0
#: Times that a slow operation may succeed and be asked for again at once, before it counts as one that does not stick.
_CLAIMS = 2
_NOT_THERE = "it was made, but is not there as it should be"
_STILL_THERE = "it was removed, but is still there"


@dataclass(frozen=True)
class Failure:
    """An operation that failed: what it was, why, how often in a row, and when (agent's clock) to try again."""

    op: Op
    error: str
    tries: int
    retry_at: float


@dataclass(frozen=True)
class Execution:
    """What became of one set of operations. ``touched`` are the drivers that did something; ``results`` are
    (kind of item, verb, "ok" | "failed"), for the metrics."""

    blocked: Mapping[str, str] = field(default_factory=dict)
    cycles: Mapping[str, str] = field(default_factory=dict)
    touched: frozenset[Driver] = frozenset()
    done: tuple[Op, ...] = ()
    failed: tuple[Op, ...] = ()


@dataclass
class _Running:
    op: Op
    driver: Driver
    task: asyncio.Task[None]


class Operations:
    """``finished`` is called with the driver when an operation ends that ran beside the loop; ``clock`` gives seconds, any
    origin."""

    def __init__(
        self, drivers: Iterable[Driver], finished: Callable[[Driver, Op, bool], None], clock: Callable[[], float]
    ) -> None:
        self._by_type = {item: driver for driver in drivers for item in driver.ITEMS}
        self._by_family = {item.FAMILY: driver for item, driver in self._by_type.items()}
        self._finished = finished
        self._clock = clock
        self._running: dict[str, _Running] = {}
        self._failures: dict[str, Failure] = {}
        self._claimed: dict[str, tuple[Op, int]] = {}  # slow operations that succeeded, and how often in a row
        self._slots = {driver: asyncio.Semaphore(_PARALLEL) for driver in self._by_type.values()}

    @property
    def failures(self) -> Mapping[str, Failure]:
        return self._failures

    @property
    def running(self) -> Mapping[str, Op]:
        return {key: running.op for key, running in self._running.items()}

    def progress(self, key: str) -> str:
        """What a running slow operation says of itself."""
        running = self._running[key]
        said = getattr(running.driver, "progress", None)
        return (said(key) if said is not None else "") or ("removing" if running.op.item is None else "in progress")

    def retry_at(self) -> float | None:
        """When the next failed operation is to be tried again (agent's clock)."""
        return min((failure.retry_at for failure in self._failures.values()), default=None)

    def driver_of(self, key: str, item: Item | None = None) -> Driver | None:
        return self._by_type.get(type(item)) if item is not None else self._by_family.get(key.split("/", 1)[0])

    def stuck(self, op: Op) -> None:
        """An operation that reported success but whose result is not there: treated as failed, or it would run forever."""
        self._fail(op, _NOT_THERE if op.item is not None else _STILL_THERE)

    def verified(self, op: Op) -> None:
        """The result of an operation was seen. (Its word alone ends no row of failures.)"""
        self._failures.pop(op.key, None)

    def settle(self, ops: Iterable[Op]) -> None:
        """Forgets failures of operations that are no longer asked for."""
        asked = {op.key: op for op in ops}
        self._failures = {
            key: failure
            for key, failure in self._failures.items()
            if (op := asked.get(key)) is not None and _same(op, failure.op)
        }
        self._claimed = {
            key: claim
            for key, claim in self._claimed.items()
            if key in self._running or ((op := asked.get(key)) is not None and _same(op, claim[0]))
        }

    async def execute(
        self,
        ops: Iterable[Op],
        wanted: Mapping[str, Item],
        observed: Mapping[str, Observed],
        unknown: frozenset[Driver],
        kept: Callable[[str], bool],
    ) -> Execution:
        """Runs what can run now, each operation in a task of its own that waits for those that come before it.

        Only what has succeeded within this call lets the next ones begin. What is slow, or becomes so, goes on beside the loop:
        for those that wait for it that is as if it had failed, and a later call, which sees what it made, goes on from there.

        Nothing is done through the drivers in ``unknown`` (what they have can't be seen). What runs already for an owner that
        is ``kept`` is not called off: half a restart is none.
        """
        ops = list(ops)
        self.settle(ops)
        self._cancel_unwanted(wanted, kept)
        for op in ops:
            if op.key in self._claimed and op.key not in self._running and self._driver(op) not in unknown:
                self._doubt(op)
        now = self._clock()
        waiting = {key for key, failure in self._failures.items() if failure.retry_at > now} | set(self._running)
        waiting |= {op.key for op in ops if self._driver(op) in unknown}
        due = {op.key: op for op in ops if op.key not in waiting}
        plan = schedule(due.values(), wanted, observed, frozenset(waiting))
        blocked = dict(plan.blocked)
        touched: set[Driver] = set()
        done: list[Op] = []
        failed: list[Op] = []

        async def carry_out(key: str) -> bool:
            """Whether it is done."""
            for need in sorted(plan.after[key]):
                if not await tasks[need]:
                    blocked[key] = need
                    return False
            op = due[key]
            driver = self._driver(op)
            if driver is None:
                self._fail(op, f"this agent has no driver for {key.split('/', 1)[0]}")
                return False
            if driver.SLOW:
                self._start(op, driver)
                return False
            if not await self._slot(driver):
                blocked[key] = next((other for other, run in self._running.items() if run.driver is driver), key)
                return False
            touched.add(driver)
            well = await self._quickly(op, driver)
            if well is None:
                return False
            (done if well else failed).append(op)
            return well

        tasks = {key: asyncio.create_task(carry_out(key)) for key in plan.after}
        try:
            await asyncio.gather(*tasks.values())
        finally:
            for task in tasks.values():
                task.cancel()
        return Execution(blocked, plan.cycles, frozenset(touched), tuple(done), tuple(failed))

    async def close(self) -> None:
        """Ends slow operations that can be ended; what they were at is taken up by the next agent."""
        tasks = [running.task for running in self._running.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_FAREWELL)

    def _driver(self, op: Op) -> Driver | None:
        return self.driver_of(op.key, op.item if op.item is not None else op.observed.item if op.observed else None)

    async def _slot(self, driver: Driver) -> bool:
        """Takes a slot for an operation; False: all are held by operations that don't end."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PATIENCE):
                    return await self._slots[driver].acquire()
            if sum(running.driver is driver for running in self._running.values()) >= _PARALLEL:
                return False

    async def _quickly(self, op: Op, driver: Driver) -> bool | None:
        """Whether an operation that has a slot went well; None: nobody waits any longer, and it goes on beside the loop."""
        attempt = asyncio.create_task(self._in_slot(driver, op), name=f"{op.verb} {op.key}")
        try:
            await asyncio.wait([attempt], timeout=_PATIENCE)
        except asyncio.CancelledError:
            attempt.cancel()
            raise
        if not attempt.done():
            self._start(op, driver, attempt)
            return None
        error = attempt.result()
        if error is not None:
            self._fail(op, error)
        return error is None

    async def _in_slot(self, driver: Driver, op: Op) -> str | None:
        try:
            return await _attempt(driver, op)
        finally:
            self._slots[driver].release()

    def _start(self, op: Op, driver: Driver, begun: asyncio.Task[str | None] | None = None) -> None:
        """Has an operation go on beside the loop."""

        async def work() -> None:
            ok = False
            try:
                error = await (begun if begun is not None else _attempt(driver, op))
                ok = error is None
                if error is not None:
                    self._claimed.pop(op.key, None)
                    self._fail(op, error)
                else:
                    self._claimed[op.key] = (op, self._claimed[op.key][1] + 1 if op.key in self._claimed else 1)
            finally:
                del self._running[op.key]
                self._finished(driver, op, ok)

        log.debug("%s %s begins: %s", op.verb, op.key, op, extra={"item": op.key})
        self._running[op.key] = _Running(op, driver, asyncio.create_task(work(), name=f"{op.verb} {op.key}"))

    def _doubt(self, op: Op) -> None:
        """A slow operation that has succeeded is asked for again. (Once may be chance: what it made ended at once.)"""
        claimed, times = self._claimed[op.key]
        failure = self._failures.get(op.key)
        if times >= _CLAIMS and (failure is None or failure.retry_at <= self._clock()):
            self._claimed[op.key] = (claimed, times - 1)
            self.stuck(op)

    def _cancel_unwanted(self, wanted: Mapping[str, Item], kept: Callable[[str], bool]) -> None:
        for key, running in self._running.items():
            item = running.op.item
            if item is not None and wanted.get(key) != item and not kept(item.owner):
                running.task.cancel()

    def _fail(self, op: Op, error: str) -> None:
        before = self._failures.get(op.key)
        tries = before.tries + 1 if before is not None and _same(before.op, op) else 1
        longest = float(getattr(self._driver(op), "LAST_RETRY", _LAST_RETRY))
        delay = min(longest, _FIRST_RETRY * 2 ** min(tries - 1, 20)) * random.uniform(0.8, 1.2)
        if before is None or before.error != error:
            log.warning("%s %s: %s", op.verb, op.key, error, extra={"item": op.key, "owner": _owner(op)})
        self._failures[op.key] = Failure(op, error, tries, self._clock() + delay)


async def _attempt(driver: Driver, op: Op) -> str | None:
    """The error of one operation, None when it went well."""
    try:
        await driver.apply(op)
    except DriverError as error:
        return str(error) or type(error).__name__
    except Exception as error:  # a driver's bug is that item's problem, not the node's
        log.exception("%s %s", op.verb, op.key)
        return f"{type(error).__name__}: {error}"
    return None


def _same(one: Op, other: Op) -> bool:
    return (one.verb == "remove") == (other.verb == "remove") and one.item == other.item


def _owner(op: Op) -> str:
    return op.item.owner if op.item is not None else op.observed.owner if op.observed is not None else ""
