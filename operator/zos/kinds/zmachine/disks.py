"""A machine's disks: whether each is there and the machine's, and can be had on one node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from zos.api.meta import Reason
from zos.api.zmachine import ZMachine
from zos.api.zmount import ZMount, to_reserve
from zos.kinds.zmachine.found import Found, FoundDisk
from zos.world.objects import Indexes
from zos.world.reader import Reader
from zos.world.resolution import Verdict, waiting

INDEXES = (Indexes(ZMount),)


def find_disks(found: Found, machine: ZMachine, world: Reader) -> tuple[Found, Verdict | None]:
    disks: list[FoundDisk] = []
    for wish in machine.spec.disks:
        seen = world.view(ZMount, machine.namespace, wish.name, _seen)
        if seen is None:
            message = f"disk {wish.name} does not exist: apply a ZMount of that name"
            return found, waiting(Reason.DEPENDENCY_NOT_READY, message)
        if (problem := _not_to_be_had(wish.name, seen, machine)) is not None:
            return found, problem
        there = seen.made and seen.user == machine.name  # the disk itself decides whose it is
        disk = FoundDisk(wish.name, wish.mount_path, seen.uid, seen.node, seen.pinned, there, seen.size, seen.why, seen.stalled)
        disks.append(disk)
    return replace(found, disks=tuple(disks)), None


def disks_ready(found: Found, machine: ZMachine, world: Reader) -> tuple[Found, Verdict | None]:
    for disk in found.disks:
        if disk.node != found.node or not disk.there:
            why = f" ({disk.why})" if disk.why else ""
            message = f"disk {disk.name} is not ready on node {found.node} yet{why}"
            return found, waiting(Reason.DEPENDENCY_NOT_READY, message, stalled=disk.stalled)
    return found, None


def pinned(disks: tuple[FoundDisk, ...]) -> Mapping[str, str]:
    """Nodes that disks can't move from, with the last disk of each."""
    return {disk.node: disk.name for disk in disks if disk.pinned and disk.node}


def apart(disks: tuple[FoundDisk, ...], place: str) -> Verdict | None:
    """Why a machine can't have its disks on a node."""
    where = pinned(disks)
    if len(where) > 1:
        words = ", ".join(f"{disk} on {node}" for node, disk in where.items())
        return waiting(Reason.CONFLICT, f"its disks are on different nodes ({words}): make those anew that are elsewhere")
    for node, disk in where.items():
        if node != place:
            words = f"disk {disk} is on node {node}, the machine on {place}, and a disk does not move"
            return waiting(Reason.CONFLICT, f"{words}: make one of them anew where the other is")
    return None


@dataclass(frozen=True)
class _Seen:
    """What matters of a ZMount. ``user`` is the name of the machine that has it. ``nowhere``: it is to become a copy, on a node
    that is not its machine's to choose."""

    uid: str
    node: str | None
    pinned: bool
    nowhere: bool
    made: bool
    user: str | None
    leaving: bool
    size: int
    why: str
    stalled: bool


def _seen(mount: ZMount) -> _Seen:
    spec, status = mount.spec, mount.status
    copied = spec.source is not None and spec.source.zmount is not None
    return _Seen(
        uid=mount.uid,
        node=status.node_name or spec.node_name,
        pinned=status.used or spec.node_name is not None or copied,
        nowhere=copied and status.node_name is None,
        made=status.size is not None,
        user=status.used_by,
        leaving=mount.deleting,
        size=to_reserve(spec.size, status.size or 0),
        why=_why(mount),
        stalled=status.stalled,
    )


def _why(mount: ZMount) -> str:
    """Why a disk is not ready; empty: it is."""
    condition = mount.status.condition("Ready")
    if condition is not None and condition.status == "True":
        return ""
    return condition.reason if condition is not None else "nobody has looked at it yet"


def _not_to_be_had(name: str, seen: _Seen, machine: ZMachine) -> Verdict | None:
    if seen.leaving and seen.user != machine.name:
        message = f"disk {name} is being deleted: apply it again when it is gone, or take it out of disks"
        return waiting(Reason.DEPENDENCY_NOT_READY, message)
    if seen.nowhere and machine.status.node_name is None:
        message = f"disk {name} is to become a copy and is on no node yet{f' ({seen.why})' if seen.why else ''}"
        return waiting(Reason.DEPENDENCY_NOT_READY, message, stalled=seen.stalled)
    if seen.user is not None and seen.user != machine.name:
        rule = "a disk has one machine at a time, until that is restarted without it or deleted"
        return waiting(Reason.CONFLICT, f"disk {name} is used by ZMachine {seen.user}: {rule}")
    return None
