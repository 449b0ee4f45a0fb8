"""One pass of a node: observe, lower, diff, apply, observe again, judge. Knows drivers and kinds by their protocols only."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from zos import __version__
from zos.agent.execution import Execution, Operations
from zos.agent.observation import Observation
from zos.api.meta import Reason
from zos.api.nodeworkload import NodeWorkload, Owner
from zos.api.quarantine import Quarantined, QuarantineOrder
from zos.drivers import Driver
from zos.kinds.kind import Here, OnNode, Report
from zos.plan import ownership
from zos.plan.diff import Observed, Op, diff
from zos.plan.facts import Facts, Unknown
from zos.plan.items import Item
from zos.plan.lowered import Lowered, Problem
from zos.plan.outcome import Outcome
from zos.world.resolution import Verdict, waiting

log = logging.getLogger("zos.agent")

#: Times that facts and wishes may change each other in one pass: an image, then the guest that needs it, then its state.
_ROUNDS = 5
#: Seconds that a pass waits for a driver to look, where a full look at hundreds of networks takes a few; and for one that hangs
#: when the agent stops.
_PATIENCE, _FAREWELL = 15.0, 5.0
#: Of a workload whose part this agent, or the API server between, does not know.
_NOT_KNOWN = (
    f"the node's agent is of release {__version__}, does not know {{kind}}, and leaves what there is of it as it is: upgrade it "
    "to the controller's release, or, if it is of that, apply the CRDs of it"
)


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


@dataclass(frozen=True)
class _Plan:
    """All workloads lowered. ``wanted`` has one item for a key; ``refused`` says, per workload, which of its items can't be
    had, and why; ``broken`` are the workloads whose lowering failed."""

    lowered: Mapping[str, Lowered]
    wanted: Mapping[str, Item]
    refused: Mapping[str, Mapping[str, str]]
    broken: frozenset[str]

    @property
    def whole(self) -> frozenset[str]:
        """Those of which all that they want is known."""
        return frozenset(name for name, lowered in self.lowered.items() if lowered.whole)


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
        self._served_by = served_by
        self._facts = facts
        self._changed = changed
        self._slow_done = slow_done
        self._clock = clock
        self._wall = wall
        self._observation = Observation(drivers, clock, patience, changed)
        self._operations = Operations(drivers, self._slow_finished, clock)
        self._basis: Facts | None = None  # what lowering knew last, without the time
        self._lowered: dict[str, tuple[NodeWorkload, Lowered, float]] = {}  # and when, by the wall clock
        self._reports: dict[str, tuple[NodeWorkload, Lowered, Outcome, Facts, float, Report[Any]]] = {}
        self._states: Mapping[str, tuple[str, Report[Any]]] = {}  # uid and last report, whatever came of lowering since
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
        ops, spared = ownership.spared(diff(wanted, before, fates.erased, fates.kept, fates.left), before)
        if not may_remove:
            ops = [op for op in ops if op.verb != "remove"]
        execution = await self._execute(ops, plan.wanted, before, fates.kept)
        after = self._facts(workloads)
        if not may_remove:
            return Pass(wake_at=self._wake_at(plan), again=self._intern(after) is not self._basis, done=execution.done)
        seen = ownership.attributed(self._observation.seen(), workloads, origins)
        outcome = self._outcome(plan.wanted, seen, execution)
        outcome = replace(outcome, failed={**outcome.failed, **refused}) if refused else outcome
        leaving = frozenset(name for name, workload in workloads.items() if workload.deleting)
        clean = self._clean({name: workloads[name] for name in leaving}, plan.wanted, seen)
        staying = {name: workload for name, workload in workloads.items() if name not in clean}
        reports = self._report(workloads, plan, after, outcome)
        return Pass(
            reports=reports | self._leaving(workloads, leaving - clean, before, spared),
            clean=clean,
            quarantine=ownership.quarantine(ownership.orphans(seen, staying, plan.wanted), origins),
            complete=self._observation.complete,
            owners=frozenset(thing.owner for thing in seen.values()),
            keys=frozenset(key for thing in seen.values() if thing.item is not None for key in thing.item.held.public_keys),
            again=self._intern(after) is not self._basis,
            wake_at=self._wake_at(plan, reports.values()),
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
            if old is not None and _unchanged(old[0], workload) and _asleep(old[1].wake_at, old[2], facts.now):
                self._lowered[name] = old
                continue
            lowered = self._lower_one(workload, facts)
            if lowered is None:
                broken.add(name)
            else:
                self._lowered[name] = (workload, lowered, facts.now)
        wanted: dict[str, Item] = {}
        refused: dict[str, dict[str, str]] = {}
        # What is whole first: it may change what is there. Then the oldest.
        ranked = sorted(
            self._lowered, key=lambda n: (not self._lowered[n][1].whole, workloads[n].metadata.creation_timestamp, n)
        )
        for name in ranked:
            for item in self._lowered[name][1].items:
                owned = item if item.owner else replace(item, owner=name)
                first = wanted.setdefault(item.key, owned)
                if first != item:
                    refused.setdefault(name, {})[item.key] = f"{first.owner} wants it differently"
        return _Plan({name: lowered for name, (_, lowered, _) in self._lowered.items()}, wanted, refused, frozenset(broken))

    def _lower_one(self, workload: NodeWorkload, facts: Facts) -> Lowered | None:
        """None where it can't be told what the workload wants; what it has on the node stays as it is then."""
        kind = self._served_by(workload)
        if kind is None:
            return None
        try:
            return kind.lower(Here.of(workload, workload.spec.part, facts))
        except Unknown as unknown:
            return Lowered(problem=Problem(Reason.PROGRESSING, str(unknown)), whole=False)
        except Exception:  # one broken workload stays its own problem
            log.exception("lowering failed", extra={"workload": workload.name})
            return None

    def _intern(self, facts: Facts) -> Facts:
        """Facts without the time; the object lowering knew, when nothing else changed."""
        basis = _basis(facts)
        return self._basis if self._basis is not None and basis == self._basis else basis

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

    def _wake_at(self, plan: _Plan, reports: Iterable[Report[Any]] = ()) -> float | None:
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

    def _report(
        self, workloads: Mapping[str, NodeWorkload], plan: _Plan, facts: Facts, outcome: Outcome
    ) -> dict[str, Report[Any]]:
        reports: dict[str, tuple[NodeWorkload, Lowered, Outcome, Facts, float, Report[Any]]] = {}
        basis = self._intern(facts)
        for name, lowered in plan.lowered.items():
            workload = workloads[name]
            own = _part(outcome, lowered.items, plan.refused.get(name, {}))
            old = self._reports.get(name)
            same = old is not None and _unchanged(old[0], workload) and old[1] is lowered and old[2] == own and old[3] is basis
            if old is not None and same and _asleep(old[-1].wake_at, old[4], facts.now):
                reports[name] = old
            else:
                report = self._report_one(workload, facts, lowered, own)
                reports[name] = (workload, lowered, own, basis, facts.now, report)
        self._reports = reports
        result = {name: entry[-1] for name, entry in reports.items()}
        for name in plan.broken:
            workload = workloads[name]
            known = self._served_by(workload) is not None
            what = "the agent failed on it; its log says why" if known else _NOT_KNOWN.format(kind=workload.spec.owner.kind)
            result[name] = self._as_before(workload, waiting(Reason.FAILED, what))
        self._states = {name: (workloads[name].uid, report) for name, report in result.items()}
        return result

    def _report_one(self, workload: NodeWorkload, facts: Facts, lowered: Lowered, outcome: Outcome) -> Report[Any]:
        kind = self._served_by(workload)
        assert kind is not None
        try:
            return kind.report(Here.of(workload, workload.spec.part, facts), lowered, outcome)
        except Unknown as unknown:
            return self._as_before(workload, waiting(Reason.PROGRESSING, str(unknown)))
        except Exception:
            log.exception("reporting failed", extra={"workload": workload.name})
            return self._as_before(workload, waiting(Reason.FAILED, "the agent failed to report on it; its log says why"))

    def _as_before(self, workload: NodeWorkload, verdict: Verdict) -> Report[Any]:
        """What could be told of it last: that nobody can say now how it stands does not mean that it is not there."""
        old = self._states.get(workload.name)
        if old is not None and old[0] == workload.uid:
            return replace(old[1], verdict=verdict)
        status = workload.status
        return Report(verdict, status.state, status.conditions)

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


def as_told(workload: NodeWorkload, verdict: Verdict) -> Report[Any]:
    """What the API server shows of it, and another verdict."""
    status = workload.status
    return Report(verdict, status.state)


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


def _asleep(wake_at: float | None, since: float, now: float) -> bool:
    """Whether there is no need to ask again. A clock that was set back says nothing about when to wake up."""
    return wake_at is None or since <= now < wake_at


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
