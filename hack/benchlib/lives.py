"""What machines cost the API server: its writes from the creation of one until it is gone."""

from __future__ import annotations

import asyncio
from statistics import median
from typing import Any, Protocol

from benchlib.api import Written, settled
from benchlib.progress import Progress
from benchlib.table import Row

ROUNDS = 3
#: All kinds that the life of a machine may touch. Leases are not among them: they are renewed whether it lives or not.
_RESOURCES = ("zmachines", "nodeworkloads", "networks", "gridnodes", "claims", "events", "secrets", "zmounts", "quotas")
#: Nobody writes for so long: shorter than what is told once a minute.
_QUIET = 5.0


class Cluster(Protocol):
    def kubectl(self, *words: str) -> str: ...

    def apply(self, *objects: dict[str, Any]) -> None: ...


def measure(cluster: Cluster, machine: dict[str, Any], progress: Progress) -> Row:
    """One alone, with an image that is there and a network that is: create, Ready, delete, gone. The user's own two are
    counted, and the events that are told of it."""
    lives: list[Written] = []
    name = f"zmachine/{machine['metadata']['name']}"
    for number in range(ROUNDS):
        progress(f"API writes of a machine's life, round {number + 1} of {ROUNDS}")
        before = asyncio.run(settled(cluster, _RESOURCES, _QUIET))
        cluster.apply(machine)
        cluster.kubectl("wait", name, "--for=condition=Ready", "--timeout=300s")
        cluster.kubectl("delete", name, "--timeout=120s")
        lives.append(asyncio.run(settled(cluster, _RESOURCES, _QUIET)) - before)
    totals = [float(life.total) for life in lives]
    detail = {"split": [life.split for life in lives], "refused": [life.refused for life in lives]}
    spread = (min(totals), max(totals))
    return Row("API writes of a machine's life, create → Ready → gone", median(totals), "<=", 12, detail=detail, spread=spread)
