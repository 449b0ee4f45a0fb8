"""What machines cost the API server: its writes from the creation of one until it is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any, Protocol

from benchlib.api import Written, settled
from benchlib.progress import Progress
from benchlib.table import Row

ROUNDS = 3
#: At once, for what they share.
_MANY = 8
#: All kinds that the life of a machine may touch. Leases are not among them: they are renewed whether it lives or not.
_RESOURCES = ("zmachines", "nodeworkloads", "networks", "gridnodes", "claims", "events", "secrets", "zmounts", "quotas")
#: Nobody writes for so long: shorter than what is told once a minute.
_QUIET = 5.0


class Cluster(Protocol):
    def kubectl(self, *words: str) -> str: ...

    def apply(self, *objects: dict[str, Any]) -> None: ...


def measure(cluster: Cluster, machine: Callable[[str], dict[str, Any]], progress: Progress) -> Iterator[Row]:
    """With an image that is there and a network that is: create, Ready, delete, gone; ``machine`` gives one of a name. The
    user's own two writes are counted, and the events that are told of it."""
    for many, bound in ((1, 0.0), (_MANY, 12.0)):
        lives: list[Written] = []
        names = [f"life-{number}" for number in range(many)]
        for number in range(ROUNDS):
            progress(f"API writes of a machine's life, {many} at once, round {number + 1} of {ROUNDS}")
            before = asyncio.run(settled(cluster, _RESOURCES, _QUIET))
            cluster.apply(*(machine(name) for name in names))
            cluster.kubectl("wait", "zmachine", *names, "--for=condition=Ready", "--timeout=300s")
            cluster.kubectl("delete", "zmachine", *names, "--timeout=120s")
            lives.append(asyncio.run(settled(cluster, _RESOURCES, _QUIET)) - before)
        totals = [life.total / many for life in lives]
        detail = {"split": [life.split for life in lives], "refused": [life.refused for life in lives]}
        who = "one alone" if many == 1 else f"each of {many} at once"
        what = f"API writes of a machine's life, create → Ready → gone, {who}"
        yield Row(what, median(totals), "<=" if bound else "", bound, detail=detail, spread=(min(totals), max(totals)))
