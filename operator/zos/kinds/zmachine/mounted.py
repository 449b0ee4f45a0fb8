"""Disks that somebody else's image was written to, where a machine is to mount them."""

from __future__ import annotations

from collections.abc import Iterable

from zos.api import names
from zos.kinds.kind import Here
from zos.kinds.zmachine.part import DiskOnNode, MachineOnNode
from zos.plan.facts import DiskFact, Written


def foreign(here: Here[MachineOnNode], disks: Iterable[DiskOnNode]) -> str | None:
    """What there is on the first that can't be mounted, in words; None: all can. Raises Unknown where nobody could look."""
    for disk in disks:
        fact = here.facts.get(DiskFact, names.kept("mount", disk.mount_uid)) if disk.mount_path is not None else None
        if fact is not None and fact.written is not None and not fact.mountable:
            content = fact.plain or "the system of a virtual machine"
            words = f"disk {disk.name} holds {content}{origin(fact.written)}"
            return f"{words}, and only a btrfs over the whole of a disk is mounted"
    return None


def origin(written: Written) -> str:
    """Where it came from, as far as that is known."""
    return f" (written from {written.ref})" if written.ref else ""
