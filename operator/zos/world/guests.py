"""What machines may run with on their nodes: what those were asked for, and what they say that guests were started with.

A machine keeps what it runs with until it is restarted, so nobody else gets that before its node has said that it let go.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from zos.api import names
from zos.api.nodeworkload import NodeWorkload, Run
from zos.world import indexes
from zos.world.reader import Reader

INDEXES = (indexes.WORKLOADS,)


def on_node(machine: str, node: str | None, world: Reader) -> NodeWorkload | None:
    """What is asked of its node, and what that says. Whatever another node says of the machine (a uid) is not looked at."""
    if node is None:
        return None
    place = names.node_namespace(node)
    seen = world.views(NodeWorkload, _whole, owner=machine)
    return next((workload for workload in seen if workload.namespace == place), None)


def _whole(workload: NodeWorkload) -> NodeWorkload:
    return workload


@dataclass(frozen=True)
class Guest:
    """``asked`` is what the node is told to run, None where that can't be read; ``runs`` what the guest was started with, None
    where none runs. Not ``settled``: the node has not said yet how it stands with what it is asked for now, so what ``runs``
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


def guest(workload: NodeWorkload | None) -> Guest | None:
    """None: there is no guest in it."""
    if workload is None:
        return None
    part, state = workload.spec.part, workload.status.state
    if part is not None and part.run is None:
        return None
    asked = part.run if part is not None else None
    told = state.guest if state is not None else None
    running, runs = told or (False, None)
    if running and runs is None:  # the node does not tell: it runs with what is asked
        runs = asked
    condition = workload.status.condition("Ready")
    said = state is not None and condition is not None and condition.observed_generation == workload.metadata.generation
    # Of what its node only says whether it is as asked, that has to be so: else it may be as it was.
    said = said and condition is not None and (told is not None or condition.status == "True")
    return Guest(asked, runs, said and asked is not None and not workload.deleting)


def may_have_disk(machine: str, disk: str, world: Reader) -> bool:
    """Whether a machine may run with a disk; both by uid."""
    found = world.views(NodeWorkload, lambda workload: _holds_disk(guest(workload), disk), owner=machine)
    return any(found)


def _holds_disk(found: Guest | None, disk: str) -> bool:
    return found is not None and (not found.settled or any(disk in one.disks for one in found.possible))
