"""One pass of a node: observe, lower, diff, apply, observe again, judge. Knows drivers and kinds by their protocols only."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from zos.agent.execution import Execution, Executor
from zos.agent.observation import Observation
from zos.agent.registry import Registry
from zos.api.meta import Reason
from zos.api.nodeworkload import NodeWorkload
from zos.drivers import Driver
from zos.kinds import Report
from zos.plan.diff import Observed, Op, diff, quarantined
from zos.plan.facts import Facts
from zos.plan.items import Item
from zos.plan.lowered import Lowered
from zos.plan.outcome import Outcome
from zos.world.resolution import waiting

log = logging.getLogger("zos.agent")

#: Times that facts and wishes may change each other in one pass: an image, then the guest that needs it, then its state.
_ROUNDS = 5


@dataclass(frozen=True)
class Pass:
    """What one pass came to.

    reports: how each workload stands, by name. clean: names of workloads being deleted of which nothing is left here.
    quarantined: data that no known workload owns. again: there is more to do at once. wake_at: seconds on the agent's
    clock by which to pass again, None for no hurry. done, failed: operations, for the metrics.
    """

    reports: Mapping[str, Report] = field(default_factory=dict)
    clean: frozenset[str] = frozenset()
    quarantined: tuple[Observed, ...] = ()
    again: bool = False
    wake_at: float | None = None
    done: tuple[Op, ...] = ()
    failed: tuple[Op, ...] = ()


@dataclass(frozen=True)
class _Plan:
    """All workloads lowered. ``wanted`` has one item for a key; ``refused`` says, per workload, which of its items another
    workload wants differently; ``broken`` are the workloads whose lowering failed."""

    lowered: Mapping[str, Lowered]
    wanted: Mapping[str, Item]
    refused: Mapping[str, Mapping[str, str]]
    broken: frozenset[str]


class Converger:
    """``facts`` gives what lowering may know; ``clock`` seconds of any origin, ``wall`` seconds since the epoch.
    ``changed`` is called when a pass is due. ``slow_done`` hears of slow operations that ended."""

    def __init__(
        self,
        drivers: Sequence[Driver],
        registry: Registry,
        facts: Callable[[Mapping[str, NodeWorkload]], Facts],
        *,
        changed: Callable[[], None],
        slow_done: Callable[[Op, bool], None],
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._drivers = drivers
        self._registry = registry
        self._facts = facts
        self._changed = changed
        self._slow_done = slow_done
        self._clock = clock
        self._wall = wall
        self._observation = Observation(drivers, clock)
        self._executor = Executor(drivers, self._slow_finished, clock)
        self._basis: Facts | None = None  # what lowering knew last, without the time
        self._lowered: dict[str, tuple[NodeWorkload, Lowered]] = {}
        self._reports: dict[str, tuple[NodeWorkload, Lowered, Outcome, Facts, Report]] = {}
        self._wanted: Mapping[str, Item] = {}

    def watch(self) -> None:
        """Starts listening to the node."""
        for driver in self._drivers:
            driver.watch(lambda driver=driver: self._dirty(driver))  # type: ignore[misc]

    def resync(self) -> None:
        """Trusts nothing seen so far."""
        self._observation.mark_all()

    async def close(self) -> None:
        await self._executor.close()
        for driver in self._drivers:
            await driver.close()

    async def converge(self, workloads: Mapping[str, NodeWorkload], *, may_remove: bool) -> Pass:
        """One pass. ``may_remove``: the workloads are known to be all there are, and current."""
        plan = await self._look_and_plan(workloads)
        self._wanted = plan.wanted
        deleting = frozenset(name for name, workload in workloads.items() if workload.deleting)
        ops = diff(plan.wanted.values(), self._observation.seen(), deleting, plan.broken)
        if not may_remove:
            ops = [op for op in ops if op.verb != "remove"]
        execution = await self._execute(ops, plan.wanted)
        after = self._facts(workloads)
        if not may_remove:
            return Pass(wake_at=self._wake_at(plan), again=self._intern(after) is not self._basis, done=execution.done)
        seen = self._observation.seen()
        outcome = self._outcome(plan.wanted, seen, execution)
        clean = self._clean(deleting, plan.wanted, seen) if self._observation.complete else frozenset()
        return Pass(
            reports=self._report(workloads, plan, after, outcome) | self._leaving(workloads, deleting - clean),
            clean=clean,
            quarantined=quarantined(plan.wanted.values(), seen, frozenset(workloads)),
            again=self._intern(after) is not self._basis,
            wake_at=self._wake_at(plan),
            done=execution.done,
            failed=execution.failed,
        )

    async def _look_and_plan(self, workloads: Mapping[str, NodeWorkload]) -> _Plan:
        """What is wanted follows from facts, and which facts are known from what is wanted: round and round until nothing
        new comes of it. Acting on less would take down what only seems unwanted."""
        await self._observation.refresh(self._wanted.values())
        facts = self._facts(workloads)
        for _ in range(_ROUNDS):
            plan = self._lower(workloads, facts)
            self._observation.compare(plan.wanted.values())
            await self._observation.refresh(plan.wanted.values())
            facts = self._facts(workloads)
            if self._intern(facts) is self._basis:
                break
        return plan

    # -- lowering ------------------------------------------------------------------------------------------------------

    def _lower(self, workloads: Mapping[str, NodeWorkload], facts: Facts) -> _Plan:
        if self._intern(facts) is not self._basis:
            self._basis, self._lowered = _basis(facts), {}
        known = self._lowered
        self._lowered = {}
        broken: set[str] = set()
        for name, workload in workloads.items():
            if workload.deleting:
                continue
            old = known.get(name)
            if old is not None and _unchanged(old[0], workload) and (old[1].wake_at is None or old[1].wake_at > facts.now):
                self._lowered[name] = old
                continue
            lowered = self._lower_one(workload, facts)
            if lowered is None:
                broken.add(name)
            else:
                self._lowered[name] = (workload, lowered)
        wanted: dict[str, Item] = {}
        refused: dict[str, dict[str, str]] = {}
        oldest_first = sorted(self._lowered, key=lambda name: (workloads[name].metadata.creation_timestamp, name))
        for name in oldest_first:
            for item in self._lowered[name][1].items:
                owned = item if item.owner else replace(item, owner=name)
                first = wanted.setdefault(item.key, owned)
                if first != item:
                    refused.setdefault(name, {})[item.key] = f"{first.owner} wants it differently"
        return _Plan({name: lowered for name, (_, lowered) in self._lowered.items()}, wanted, refused, frozenset(broken))

    def _lower_one(self, workload: NodeWorkload, facts: Facts) -> Lowered | None:
        """None where it can't be told what the workload wants; what it has on the node stays as it is then."""
        kind = self._registry(workload)
        if kind is None:
            return None
        try:
            return kind.lower(workload, facts)
        except Exception:  # one broken workload stays its own problem
            log.exception("lowering failed", extra={"workload": workload.name})
            return None

    def _intern(self, facts: Facts) -> Facts:
        """Facts without the time; the object lowering knew, when nothing else changed."""
        basis = _basis(facts)
        return self._basis if self._basis is not None and basis == self._basis else basis

    # -- doing ---------------------------------------------------------------------------------------------------------

    async def _execute(self, ops: Sequence[Op], wanted: Mapping[str, Item]) -> Execution:
        seen = self._observation.seen()
        execution = await self._executor.execute(ops, wanted, seen, frozenset(self._observation.errors))
        for driver in execution.touched:
            self._observation.mark(driver)
        await self._observation.refresh(wanted.values())
        seen = self._observation.seen()
        for op in execution.done:
            there = seen.get(op.key)
            driver_away = self._executor.driver_of(op.key, op.item) in self._observation.errors
            if driver_away:
                continue
            if (there is not None) if op.item is None else (there is None or there.item != op.item):
                self._executor.stuck(op)
            else:
                self._executor.verified(op)
        return execution

    def _dirty(self, driver: Driver) -> None:
        self._observation.mark(driver)
        self._changed()

    def _slow_finished(self, driver: Driver, op: Op, ok: bool) -> None:
        self._slow_done(op, ok)
        self._dirty(driver)

    def _wake_at(self, plan: _Plan) -> float | None:
        now, wall = self._clock(), self._wall()
        times = [now + max(0.0, low.wake_at - wall) for low in plan.lowered.values() if low.wake_at is not None]
        times += [at for at in (self._executor.retry_at(), self._observation.retry_at()) if at is not None]
        return min(times, default=None)

    # -- judging -------------------------------------------------------------------------------------------------------

    def _outcome(self, wanted: Mapping[str, Item], seen: Mapping[str, Observed], execution: Execution) -> Outcome:
        failed = {key: failure.error for key, failure in self._executor.failures.items() if key in wanted}
        failed |= {key: f"it needs itself: {circle}" for key, circle in execution.cycles.items() if key in wanted}
        errors = self._observation.errors
        if errors:
            for key, item in wanted.items():
                driver = self._executor.driver_of(key, item)
                there = seen.get(key)
                if driver is not None and driver in errors and (there is None or there.item != item):
                    failed[key] = errors[driver]
        pending = {key: self._executor.progress(key) for key in self._executor.running if key in wanted}
        blocked = {key: need for key, need in execution.blocked.items() if key in wanted and key not in failed}
        return Outcome(failed, pending, blocked)

    def _report(self, workloads: Mapping[str, NodeWorkload], plan: _Plan, facts: Facts, outcome: Outcome) -> dict[str, Report]:
        reports: dict[str, tuple[NodeWorkload, Lowered, Outcome, Facts, Report]] = {}
        basis = self._intern(facts)
        for name, lowered in plan.lowered.items():
            workload = workloads[name]
            own = _part(outcome, lowered.items, plan.refused.get(name, {}))
            old = self._reports.get(name)
            if old is not None and _unchanged(old[0], workload) and old[1] is lowered and old[2] == own and old[3] is basis:
                reports[name] = old
            else:
                reports[name] = (workload, lowered, own, basis, self._report_one(workload, facts, lowered, own))
        self._reports = reports
        result = {name: entry[-1] for name, entry in reports.items()}
        for name in plan.broken:
            known = self._registry(workloads[name]) is not None
            what = (
                "the agent failed on it; its log says why"
                if known
                else "this node's agent is too old for this kind of workload"
            )
            result[name] = Report(waiting(Reason.FAILED, what))
        return result

    def _report_one(self, workload: NodeWorkload, facts: Facts, lowered: Lowered, outcome: Outcome) -> Report:
        kind = self._registry(workload)
        assert kind is not None
        try:
            return kind.report(workload, facts, lowered, outcome)
        except Exception:
            log.exception("reporting failed", extra={"workload": workload.name})
            return Report(waiting(Reason.FAILED, "the agent failed to report on it; its log says why"))

    def _leaving(self, workloads: Mapping[str, NodeWorkload], names: frozenset[str]) -> dict[str, Report]:
        """What keeps workloads that are to go, where it is more than the time that it takes."""
        blind = "; ".join(f"the node can't see what it has: {error}" for error in self._observation.errors.values())
        reports: dict[str, Report] = {}
        for name in names:
            said = [
                f"{failure.op.verb} {key}: {failure.error}"
                for key, failure in self._executor.failures.items()
                if failure.op.observed is not None and failure.op.observed.owner == name
            ]
            if blind or said:
                status = workloads[name].status
                verdict = waiting(Reason.DELETION_BLOCKED, "; ".join([*said, *([blind] if blind else [])]))
                reports[name] = Report(verdict, status.machine, status.mount)
        return reports

    def _clean(self, deleting: Iterable[str], wanted: Mapping[str, Item], seen: Mapping[str, Observed]) -> frozenset[str]:
        """What another workload wants as well is its from now on and holds up no deletion."""
        left = {thing.owner for key, thing in seen.items() if key not in wanted}
        left |= {op.item.owner for op in self._executor.running.values() if op.item is not None}
        return frozenset(deleting) - left


def _basis(facts: Facts) -> Facts:
    """Facts but for the time, which alone is no reason to lower again."""
    return replace(facts, now=0.0)


def _unchanged(old: NodeWorkload, new: NodeWorkload) -> bool:
    """As far as lowering sees it: the API server counts the generations of the spec."""
    return old.uid == new.uid and old.metadata.generation == new.metadata.generation


def _part(outcome: Outcome, items: Iterable[Item], refused: Mapping[str, str]) -> Outcome:
    keys = [item.key for item in items]
    return Outcome(
        {key: outcome.failed[key] for key in keys if key in outcome.failed} | dict(refused),
        {key: outcome.pending[key] for key in keys if key in outcome.pending},
        {key: outcome.blocked[key] for key in keys if key in outcome.blocked},
    )
