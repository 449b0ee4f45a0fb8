"""One pass of a node: observe, lower, diff, apply, observe again, judge. Knows drivers and kinds by their protocols only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from zos.agent.execution import Execution, Operations
from zos.agent.judging import Judging, as_told
from zos.agent.lowering import Lowering, Plan
from zos.agent.observation import Observation
from zos.api.meta import Reason
from zos.api.nodeworkload import NodeWorkload, Owner
from zos.api.quarantine import Quarantined, QuarantineOrder
from zos.drivers import Driver
from zos.kinds.kind import OnNode, Report
from zos.plan import ownership
from zos.plan.diff import Observed, Op, diff
from zos.plan.facts import Facts
from zos.plan.items import Item
from zos.plan.outcome import Outcome
from zos.world.resolution import waiting

#: Times that facts and wishes may change each other in one pass: an image, then the guest that needs it, then its state.
_ROUNDS = 5
#: Seconds that a pass waits for a driver to look, where a full look at hundreds of networks takes a few; and for one that hangs
#: when the agent stops.
_PATIENCE, _FAREWELL = 15.0, 5.0


@dataclass(frozen=True)
class Pass:
    """What one pass came to.

    reports: how each workload stands, by name. clean: names of workloads being deleted that the node is done with.
    quarantine: what is here of objects without a NodeWorkload, and stays of those that are clean. complete: all drivers could
    look, so what is in none of these is not here. owners: who has something here. keys: public keys that WireGuard runs with.
    again: there is more to do at once. wake_at: seconds on the agent's clock by which to pass again, None for no hurry. done,
    failed: operations, for the metrics.
    """

    reports: Mapping[str, Report[Any]] = field(default_factory=dict)
    clean: frozenset[str] = frozenset()
    quarantine: tuple[Quarantined, ...] = ()
    complete: bool = False
    owners: frozenset[str] = frozenset()
    keys: frozenset[str] = frozenset()
    again: bool = False
    wake_at: float | None = None
    done: tuple[Op, ...] = ()
    failed: tuple[Op, ...] = ()


class Converger:
    """``served_by`` gives whose code serves a workload (None: nobody's, this agent is older than the controller). ``facts``
    gives what lowering may know; ``clock`` seconds of any origin, ``wall`` seconds since the epoch.
    ``changed`` is called when a pass is due. ``slow_done`` hears of operations that ended beside the loop. ``patience`` is how
    many seconds a pass waits for a driver to look."""

    def __init__(
        self,
        drivers: Sequence[Driver],
        served_by: Callable[[NodeWorkload], OnNode[Any, Any] | None],
        facts: Callable[[Mapping[str, NodeWorkload]], Facts],
        *,
        changed: Callable[[], None],
        slow_done: Callable[[Op, bool], None],
        clock: Callable[[], float],
        wall: Callable[[], float],
        patience: float = _PATIENCE,
    ) -> None:
        self._drivers = drivers
        self._facts = facts
        self._changed = changed
        self._slow_done = slow_done
        self._clock = clock
        self._wall = wall
        self._observation = Observation(drivers, clock, patience, changed)
        self._operations = Operations(drivers, self._slow_finished, clock)
        self._lowering = Lowering(served_by)
        self._judging = Judging(served_by)
        self._wanted: Mapping[str, Item] = {}

    def watch(self) -> None:
        """Starts listening to the node."""
        for driver in self._drivers:
            driver.watch(lambda driver=driver: self._dirty(driver))  # type: ignore[misc]

    def resync(self) -> None:
        """Trusts nothing seen so far."""
        self._observation.mark_all()

    async def close(self) -> None:
        await self._operations.close()
        await self._observation.close(_FAREWELL)
        for driver in self._drivers:
            await driver.close()

    @property
    def underway(self) -> frozenset[str]:
        """Keys of what is being made or removed beside the loop."""
        return frozenset(self._operations.running)

    @property
    def wanted(self) -> Mapping[str, Item]:
        """What the last pass found wanted, by key."""
        return self._wanted

    def blind(self) -> Mapping[Driver, str]:
        """The drivers that could not look, and why."""
        return self._observation.blind

    async def converge(
        self,
        workloads: Mapping[str, NodeWorkload],
        *,
        may_remove: bool,
        origins: Mapping[str, Owner] | None = None,
        orders: Sequence[QuarantineOrder] = (),
    ) -> Pass:
        """One pass. ``may_remove``: the workloads are known to be all there are, and current. ``origins``: for whom the
        NodeWorkloads of these names are or were; ``orders``: what an administrator said of those that are gone."""
        origins = origins or {}
        plan = await self._look_and_plan(workloads)
        self._wanted = plan.wanted
        before = ownership.attributed(self._observation.seen(), workloads, origins)
        orphaned = ownership.orphans(before, workloads, plan.wanted)
        fates = ownership.fates(workloads, plan.whole, orphaned, origins, orders)
        refused = _refused_adoptions(plan.wanted, before, workloads)
        wanted = plan.wanted.values() if not refused else [i for key, i in plan.wanted.items() if key not in refused]
        changes = diff(wanted, before, fates.erased, fates.kept, fates.left, plan.certain)
        ops, spared = ownership.spared(changes, before)
        if not may_remove:
            ops = [op for op in ops if op.verb != "remove"]
        execution = await self._execute(ops, plan.wanted, before, fates.kept)
        after = self._facts(workloads)
        if not may_remove:
            return Pass(wake_at=self._wake_at(plan), again=not self._lowering.knows(after), done=execution.done)
        seen = ownership.attributed(self._observation.seen(), workloads, origins)
        outcome = self._outcome(plan.wanted, seen, execution)
        outcome = replace(outcome, failed={**outcome.failed, **refused}) if refused else outcome
        leaving = frozenset(name for name, workload in workloads.items() if workload.deleting)
        clean = self._clean({name: workloads[name] for name in leaving}, plan.wanted, seen)
        staying = {name: workload for name, workload in workloads.items() if name not in clean}
        reports = self._judging.reports(workloads, plan, after, self._lowering.basis(after), outcome)
        return Pass(
            reports=reports | self._leaving(workloads, leaving - clean, before, spared),
            clean=clean,
            quarantine=ownership.quarantine(ownership.orphans(seen, staying, plan.wanted), origins),
            complete=self._observation.complete,
            owners=frozenset(thing.owner for thing in seen.values()),
            keys=frozenset(key for thing in seen.values() if thing.item is not None for key in thing.item.held.public_keys),
            again=not self._lowering.knows(after),
            wake_at=self._wake_at(plan, reports.values()),
            done=execution.done,
            failed=execution.failed,
        )

    async def _look_and_plan(self, workloads: Mapping[str, NodeWorkload]) -> Plan:
        """What is wanted follows from facts, and which facts are known from what is wanted: round and round until nothing
        new comes of it. Acting on less would take down what only seems unwanted."""
        await self._observation.refresh(self._wanted.values())
        facts = self._facts(workloads)
        for _ in range(_ROUNDS):
            plan = self._lowering.lower(workloads, facts)
            self._observation.compare(plan.wanted.values())
            await self._observation.refresh(plan.wanted.values())
            facts = self._facts(workloads)
            if self._lowering.knows(facts):
                break
        return plan

    # -- doing ---------------------------------------------------------------------------------------------------------

    async def _execute(
        self, ops: Sequence[Op], wanted: Mapping[str, Item], seen: Mapping[str, Observed], kept: Callable[[str], bool]
    ) -> Execution:
        execution = await self._operations.execute(ops, wanted, seen, frozenset(self._observation.errors), kept)
        for driver in execution.touched:
            self._observation.mark(driver)
        await self._observation.refresh(wanted.values())
        seen = self._observation.seen()
        for op in execution.done:
            there = seen.get(op.key)
            driver_away = self._operations.driver_of(op.key, op.item) in self._observation.errors
            if driver_away:
                continue
            if (there is not None) if op.item is None else (there is None or there.item != op.item):
                self._operations.stuck(op)
            else:
                self._operations.verified(op)
        return execution

    def _dirty(self, driver: Driver) -> None:
        self._observation.mark(driver)
        self._changed()

    def _slow_finished(self, driver: Driver, op: Op, ok: bool) -> None:
        self._slow_done(op, ok)
        self._dirty(driver)

    def _wake_at(self, plan: Plan, reports: Iterable[Report[Any]] = ()) -> float | None:
        now, wall = self._clock(), self._wall()
        asked = (*(lowered.wake_at for lowered in plan.lowered.values()), *(report.wake_at for report in reports))
        times = [now + max(0.0, at - wall) for at in asked if at is not None]
        times += [at for at in (self._operations.retry_at(), self._observation.retry_at()) if at is not None]
        return min(times, default=None)

    # -- judging -------------------------------------------------------------------------------------------------------

    def _outcome(self, wanted: Mapping[str, Item], seen: Mapping[str, Observed], execution: Execution) -> Outcome:
        failed = {key: failure.error for key, failure in self._operations.failures.items() if key in wanted}
        failed |= {key: f"it needs itself: {circle}" for key, circle in execution.cycles.items() if key in wanted}
        pending = {key: self._operations.progress(key) for key in self._operations.running if key in wanted}
        errors = self._observation.errors
        if errors:
            for key, item in wanted.items():
                driver = self._operations.driver_of(key, item)
                there = seen.get(key)
                if driver is not None and driver in errors and (there is None or there.item != item):
                    failed.pop(key, None)
                    pending[key] = f"the node can't look at it: {errors[driver]}"
        blocked = {key: need for key, need in execution.blocked.items() if key in wanted and key not in failed}
        return Outcome(failed, pending, blocked)

    def _leaving(
        self,
        workloads: Mapping[str, NodeWorkload],
        names: frozenset[str],
        seen: Mapping[str, Observed],
        spared: Mapping[str, str],
    ) -> dict[str, Report[Any]]:
        """What keeps workloads that are to go, where it is more than the time that it takes."""
        blind = "; ".join(f"the node can't see what it has: {error}" for error in self._observation.errors.values())
        reports: dict[str, Report[Any]] = {}
        for name in names:
            said = [
                f"{failure.op.verb} {key}: {failure.error}"
                for key, failure in self._operations.failures.items()
                if failure.op.observed is not None and failure.op.observed.owner == name
            ]
            said += [
                f"{key} is in use by {user}, which the node keeps: it goes when that does"
                for key, user in spared.items()
                if seen[key].owner == name
            ]
            if blind or said:
                verdict = waiting(Reason.DELETION_BLOCKED, "; ".join([*said, *([blind] if blind else [])]))
                reports[name] = as_told(workloads[name], verdict)
        return reports

    def _clean(
        self, leaving: Mapping[str, NodeWorkload], wanted: Mapping[str, Item], seen: Mapping[str, Observed]
    ) -> frozenset[str]:
        """Those that the node lets go of without a word, and those of which nothing is left that was to go. What another
        workload wants as well is its from now on and holds up no deletion."""
        let_go = frozenset(name for name, workload in leaving.items() if ownership.released(workload))
        if not self._observation.complete or len(let_go) == len(leaving):
            return let_go
        retained = {name for name, workload in leaving.items() if workload.spec.retain}
        left = {
            thing.owner
            for key, thing in seen.items()
            if key not in wanted
            and not thing.shared
            and not (thing.holds_data and not thing.unused and thing.owner in retained)
        }
        left |= {op.item.owner for op in self._operations.running.values() if op.item is not None}
        return let_go | (leaving.keys() - left)


def _refused_adoptions(
    wanted: Mapping[str, Item], seen: Mapping[str, Observed], workloads: Mapping[str, NodeWorkload]
) -> dict[str, str]:
    """What can't take another thing over, and why: only what belongs to nobody any more is given to somebody."""
    refused: dict[str, str] = {}
    for key, item in wanted.items():
        if (old := seen.get(item.adoptee)) is not None:
            workload = workloads.get(old.owner)
            if workload is not None or old.key in wanted:
                refused[key] = (
                    f"{old.key} is not in quarantine: NodeWorkload {old.owner} has it, and keeps it until that is gone"
                )
    return refused
