"""Which kind's code lowers and reports on which NodeWorkload."""

from __future__ import annotations

from typing import Protocol

from zos.api.nodeworkload import NodeWorkload
from zos.kinds import Report
from zos.plan.facts import Facts
from zos.plan.lowered import Lowered
from zos.plan.outcome import Outcome


class Kind(Protocol):
    """The node's side of a workload kind: the module ``zos.kinds.<kind>.lower``."""

    def lower(self, workload: NodeWorkload, facts: Facts) -> Lowered: ...

    def report(self, workload: NodeWorkload, facts: Facts, lowered: Lowered, outcome: Outcome) -> Report: ...


class Registry(Protocol):
    def __call__(self, workload: NodeWorkload) -> Kind | None:
        """The kind of a workload; None: this agent doesn't know it (it is older than the controller)."""
