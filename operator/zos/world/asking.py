"""What is asked of a node, in its agent's words and with secrets that only it can read, and how that stands."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from zos.api.gridnode import GridNode
from zos.api.meta import Condition, Reason
from zos.api.nodeworkload import NodeWorkload, Part
from zos.world import indexes
from zos.world.heartbeat import alive
from zos.world.objects import Indexes
from zos.world.reader import Reader
from zos.world.resolution import SecretValue, Verdict, Workload, waiting

#: How an object stands, and further conditions of it.
Answer = tuple[Verdict, tuple[Condition, ...]]

INDEXES = (Indexes(GridNode), indexes.HEARTBEATS)


def asked(world: Reader, node: str, part: Part, secrets: tuple[SecretValue, ...] | None = ()) -> Workload | Verdict:
    """A workload, with values for the node alone (None: with those that it has already); or why the node can't be asked.

    Another key of the node (it has lost its own) seals everything anew; another agent there is asked in its own words. Whatever
    is asked of a node is asked here, since an agent may become older than what its node was asked for.
    """
    understands, envelopes = world.view(GridNode, "", node, _understood(part.since)) or (True, True)
    if not understands:
        release = ".".join(map(str, part.since))
        message = f"the agent of node {node} is too old for this: upgrade it to {release} or later"
        return waiting(Reason.DEPENDENCY_NOT_READY, message)
    if not secrets:
        return Workload(node, part, secrets, older=not envelopes)
    key = world.view(GridNode, "", node, _sealing_key)
    if key is None:
        message = f"node {node} has published no key yet to seal its secrets with: is its agent running?"
        return waiting(Reason.DEPENDENCY_NOT_READY, message)
    return Workload(node, part, secrets, key, older=not envelopes)


def answered(world: Reader, node: str, workload: NodeWorkload | None, meanwhile: str) -> Answer:
    """How an object stands whose node is asked for all of it, as the node says, and what it says beside. ``workload``: what it
    is asked for; ``meanwhile``: how it may stand while its node can't be heard."""
    if alive(world, node) is False:
        message = f"the agent of node {node} does not answer; {meanwhile}"
        return waiting(Reason.NODE_UNREACHABLE, message), ()
    condition = workload.status.condition("Ready") if workload is not None else None
    if workload is None or condition is None or condition.observed_generation != workload.metadata.generation:
        return waiting(Reason.PROGRESSING, f"node {node} is making it"), ()
    reason, message = Reason.read(condition.reason), condition.message
    if reason is Reason.FAILED:  # to be looked into, so there
        message = f"node {node}: {message}"
    return Verdict(condition.status == "True", reason, message), beside(workload)


def beside(workload: NodeWorkload | None) -> tuple[Condition, ...]:
    """What the node says of an object beside whether it is as asked."""
    return tuple(
        Condition(type=other.type, status=other.status, reason=other.reason, message=other.message)
        for other in (workload.status.conditions if workload is not None else ())
        if other.type not in ("Ready", "Reconciling", "Stalled")
    )


# Every object on a node looks at that through these: as one function each, they are asked once for all.


@cache
def _understood(release: tuple[int, int]) -> Callable[[GridNode], tuple[bool, bool]]:
    """Whether a node's agent understands what agents of a release are the first to, and whether it does in today's form."""
    return lambda node: (node.is_of(release), node.knows_envelopes)


def _sealing_key(node: GridNode) -> str | None:
    return node.status.sealing_key
