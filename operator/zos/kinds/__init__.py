"""Workload kinds: per folder ``resolve`` (the grid's question) and ``lower`` with ``report`` (the node's question)."""

from __future__ import annotations

from dataclasses import dataclass

from zos.api.meta import Condition
from zos.api.nodeworkload import MachineState, MountState, NetworkState
from zos.world.resolution import Verdict


@dataclass(frozen=True)
class Report:
    """How a NodeWorkload stands on its node: what ``report(workload, facts, lowered, outcome)`` of a kind gives.

    ``verdict`` becomes the Ready condition; ``conditions`` are further ones (type, status, reason, message; the agent fills
    in observedGeneration and lastTransitionTime). ``machine``, ``mount`` and ``network`` go into NodeWorkload.status as they
    are.
    """

    verdict: Verdict
    machine: MachineState | None = None
    mount: MountState | None = None
    network: NetworkState | None = None
    conditions: tuple[Condition, ...] = ()
