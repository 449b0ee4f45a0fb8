"""File systems that other objects on its node give to a machine."""

from __future__ import annotations

from dataclasses import replace

from zos.api.gridnode import ENVELOPES, GridNode
from zos.api.meta import Reason
from zos.api.zmachine import ZMachine
from zos.kinds.zmachine.found import FileSystem, Found
from zos.world import shares
from zos.world.reader import Reader
from zos.world.resolution import Verdict, waiting

INDEXES = shares.INDEXES


def find_filesystems(found: Found, machine: ZMachine, world: Reader) -> tuple[Found, Verdict | None]:
    given: list[FileSystem] = []
    for wish in machine.spec.filesystems:
        share = shares.find(world, wish.kind, machine.namespace, wish.name)
        if share is None or share.node is None:
            message = shares.why_none(world, wish.kind, machine.namespace, wish.name)
            return found, waiting(Reason.DEPENDENCY_NOT_READY, message)
        if share.leaving:
            message = f"{wish.kind} {wish.name} is being deleted: apply it again when it is gone, or take it out of filesystems"
            return found, waiting(Reason.DEPENDENCY_NOT_READY, message)
        read_only = wish.read_only or share.offer.read_only
        given.append(FileSystem(wish.kind, wish.name, wish.mount_path, read_only, share.node, share))
    return replace(found, filesystems=tuple(given)), None


def apart(given: tuple[FileSystem, ...], place: str) -> Verdict | None:
    """Why they can't be given to a machine on that node."""
    for one in given:
        if one.node != place:
            message = f"{one} is on node {one.node}, the machine on {place}: make one of them anew where the other is"
            return waiting(Reason.CONFLICT, message)
    return None


def filesystems_ready(found: Found, machine: ZMachine, world: Reader) -> tuple[Found, Verdict | None]:
    for one in found.filesystems:
        if one.share.why:
            return found, waiting(Reason.DEPENDENCY_NOT_READY, f"{one} is not ready: {one.share.why}")
    if found.filesystems and world.view(GridNode, "", found.node or "", _knows) is False:
        release = ".".join(map(str, ENVELOPES))
        message = f"the agent of node {found.node} is too old to give file systems: upgrade it to {release} or later"
        return found, waiting(Reason.DEPENDENCY_NOT_READY, message)
    return found, None


def _knows(node: GridNode) -> bool:
    return node.knows_envelopes
