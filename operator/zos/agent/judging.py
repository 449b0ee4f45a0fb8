"""How workloads stand after a pass, as their kinds tell it; and what is told of those of which nothing can be said just now."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from zos import __version__
from zos.agent.lowering import Plan, asleep, unchanged
from zos.api.meta import Reason
from zos.api.nodeworkload import NodeWorkload
from zos.kinds.kind import Here, OnNode, Report
from zos.plan.facts import Facts, Unknown
from zos.plan.items import Item
from zos.plan.lowered import Lowered
from zos.plan.outcome import Outcome
from zos.world.resolution import Verdict, waiting

log = logging.getLogger("zos.agent")

#: Of a workload whose part this agent, or the API server between, does not know.
_NOT_KNOWN = (
    f"the node's agent is of release {__version__}, does not know {{kind}}, and leaves what there is of it as it is: "
    "upgrade it to the controller's release, or, if it is of that, apply the CRDs of it"
)


class Judging:
    """Asks again only where something has changed. ``served_by`` gives whose code serves a workload (None: nobody's, this agent
    is older than the controller)."""

    def __init__(self, served_by: Callable[[NodeWorkload], OnNode[Any, Any] | None]) -> None:
        self._served_by = served_by
        self._reports: dict[str, tuple[NodeWorkload, Lowered, Outcome, Facts, float, Report[Any]]] = {}
        self._states: Mapping[str, tuple[str, Report[Any]]] = {}  # uid and last report, whatever came of lowering since

    def reports(
        self, workloads: Mapping[str, NodeWorkload], plan: Plan, facts: Facts, basis: Facts, outcome: Outcome
    ) -> dict[str, Report[Any]]:
        """By name; ``basis`` is `Lowering.basis` of the facts."""
        reports: dict[str, tuple[NodeWorkload, Lowered, Outcome, Facts, float, Report[Any]]] = {}
        for name, lowered in plan.lowered.items():
            workload = workloads[name]
            own = _part(outcome, lowered.items, plan.refused.get(name, {}))
            old = self._reports.get(name)
            same = old is not None and unchanged(old[0], workload) and old[1] is lowered and old[2] == own and old[3] is basis
            if old is not None and same and asleep(old[-1].wake_at, old[4], facts.now):
                reports[name] = old
            else:
                report = self._one(workload, facts, lowered, own)
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

    def _one(self, workload: NodeWorkload, facts: Facts, lowered: Lowered, outcome: Outcome) -> Report[Any]:
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


def as_told(workload: NodeWorkload, verdict: Verdict) -> Report[Any]:
    """What the API server shows of it, and another verdict."""
    status = workload.status
    return Report(verdict, status.state)


def _part(outcome: Outcome, items: Iterable[Item], refused: Mapping[str, str]) -> Outcome:
    keys = [item.key for item in items]
    return Outcome(
        {key: outcome.failed[key] for key in keys if key in outcome.failed} | dict(refused),
        {key: outcome.pending[key] for key in keys if key in outcome.pending},
        {key: outcome.blocked[key] for key in keys if key in outcome.blocked},
    )
