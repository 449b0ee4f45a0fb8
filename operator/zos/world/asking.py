"""What is asked of a node, in the words that its agent understands, and with secrets that only it can read."""

from __future__ import annotations

from zos.api.gridnode import GridNode
from zos.api.meta import Reason
from zos.api.nodeworkload import Part
from zos.world.objects import Indexes
from zos.world.reader import Reader
from zos.world.resolution import SecretValue, Verdict, Workload, waiting

INDEXES = (Indexes(GridNode),)


def asked(world: Reader, node: str, part: Part, secrets: tuple[SecretValue, ...] = ()) -> Workload | Verdict:
    """A workload with values for the node alone, or why they can't be sealed. Another key of the node (it has lost its own)
    seals everything anew; another agent there is asked in its own words."""
    if not secrets:
        return plainly(world, node, part)
    key = world.view(GridNode, "", node, lambda found: found.status.sealing_key)
    if key is None:
        message = f"node {node} has published no key yet to seal its secrets with"
        return waiting(Reason.DEPENDENCY_NOT_READY, message)
    return Workload(node, part, secrets, key, _older(world, node))


def plainly(world: Reader, node: str, part: Part) -> Workload:
    """A workload without secrets."""
    return Workload(node, part, older=_older(world, node))


def unchanged_secrets(world: Reader, node: str, part: Part) -> Workload:
    """A workload with those secrets that it has already."""
    return Workload(node, part, None, older=_older(world, node))


def _older(world: Reader, node: str) -> bool:
    return world.view(GridNode, "", node, lambda found: found.knows_envelopes) is False
