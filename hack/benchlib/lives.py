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
    """With an image that is there and a network that is: create, Ready, delete, gone; ``machine`` gives one of a name.
    All writes are counted; and of these the ones that keep the state of the grid: its user's two and events are not of them."""
    for many in (1, _MANY):
        lives: list[Written] = []
        names = [f"life-{number}" for number in range(many)]
        for number in range(ROUNDS):
            progress(f"API writes of a machine's life, {many} at once, round {number + 1} of {ROUNDS}")
            before = asyncio.run(settled(cluster, _RESOURCES, _QUIET))
            cluster.apply(*(machine(name) for name in names))
            cluster.kubectl("wait", "zmachine", *names, "--for=condition=Ready", "--timeout=300s")
            cluster.kubectl("delete", "zmachine", *names, "--timeout=120s")
            lives.append(asyncio.run(settled(cluster, _RESOURCES, _QUIET)) - before)
        detail = {"split": [life.split for life in lives], "refused": [life.refused for life in lives]}
        who = "one alone" if many == 1 else f"each of {many} at once"
        for what, totals, bound in (
            (f"API writes of a machine's life, create → Ready → gone, {who}", [life.total / many for life in lives], 0.0),
            (f"... without its user's two and events, {who}", [_kept(life) / many for life in lives], 12.0 * (many > 1)),
        ):
            yield Row(what, median(totals), "<=" if bound else "", bound, detail=detail, spread=(min(totals), max(totals)))


def _kept(life: Written) -> int:
    users = (("POST", "zmachines", ""), ("DELETE", "zmachines", ""))
    return life.total - sum(number for write, number in life.taken.items() if write in users or write[1] == "events")
