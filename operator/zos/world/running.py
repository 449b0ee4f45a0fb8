"""What objects may run with on their nodes: what those were asked for, and what they say that it was started with.

An object keeps what it runs with (a machine until it is restarted), so nobody else gets that before its node has said that it
let go. The same for whatever runs there, a guest or a program.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from zos.api import names
from zos.api.nodeworkload import NodeWorkload, Run
from zos.world import indexes
from zos.world.reader import Reader

INDEXES = (indexes.WORKLOADS,)


def on_node(uid: str, node: str | None, world: Reader) -> NodeWorkload | None:
    """What is asked of an object's node for it, and what that says. Whatever another node says of it is not looked at."""
    if node is None:
        return None
    place = names.node_namespace(node)
    seen = world.views(NodeWorkload, _whole, owner=uid)
    return next((workload for workload in seen if workload.namespace == place), None)


def _whole(workload: NodeWorkload) -> NodeWorkload:
    return workload


@dataclass(frozen=True)
class Running:
    """``asked`` is what the node is told to run, None where that can't be read; ``runs`` what it was started with, None where
    it does not run. Not ``settled``: the node has not said yet how it stands with what it is asked for now, so what ``runs``
    may be another."""

    asked: Run | None
    runs: Run | None
    settled: bool

    @property
    def possible(self) -> Iterator[Run]:
        """What it may run with, as far as that is known."""
        if self.asked is not None:
            yield self.asked
        if self.runs is not None:
            yield self.runs


def of(workload: NodeWorkload | None) -> Running | None:
    """None: nothing of it runs."""
    if workload is None:
        return None
    part, state = workload.spec.part, workload.status.state
    if part is not None and part.run is None:
        return None
    asked = part.run if part is not None else None
    told = state.running if state is not None else None
    running, runs = told or (False, None)
    if running and runs is None:  # the node does not tell: it runs with what is asked
        runs = asked
    condition = workload.status.condition("Ready")
    said = state is not None and condition is not None and condition.observed_generation == workload.metadata.generation
    # Of what its node only says whether it is as asked, that has to be so: else it may be as it was.
    said = said and condition is not None and (told is not None or condition.status == "True")
    return Running(asked, runs, said and asked is not None and not workload.deleting)


def may_have_disk(machine: str, disk: str, world: Reader) -> bool:
    """Whether a machine may run with a disk; both by uid."""
    found = world.views(NodeWorkload, lambda workload: _holds_disk(of(workload), disk), owner=machine)
    return any(found)


def _holds_disk(found: Running | None, disk: str) -> bool:
    return found is not None and (not found.settled or any(disk in one.disks for one in found.possible))
