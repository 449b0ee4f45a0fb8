"""What is told of a machine whose disks find no room on their node, or can't be read or written there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from zos.api import names
from zos.api.meta import Condition, Reason
from zos.kinds.zmachine.part import MachineOnNode
from zos.plan.facts import DomainFact
from zos.world.resolution import Verdict, waiting


def paused(machine: MachineOnNode, fact: DomainFact | None) -> Verdict | None:
    """Why a guest that is there does not go on; None: it does, as far as its disks are concerned."""
    if fact is None or not fact.running or not fact.full:
        return None
    return waiting(
        Reason.DISK_FULL,
        f"the guest is paused: {_called(machine, fact.full)} found no room on the node's file system, which is full. Nothing "
        "is lost; free room there, and the guest goes on by itself",
    )


def conditions(machine: MachineOnNode, fact: DomainFact | None) -> Iterator[Condition]:
    if (verdict := paused(machine, fact)) is not None:
        yield Condition(type="Paused", status="True", reason=verdict.reason, message=verdict.message)
    if fact is not None and fact.faults:
        yield Condition(
            type="DiskErrors",
            status="True",
            reason=Reason.DISK_FAILING,
            message=f"{_called(machine, fact.faults)}: the node could not read or write what the guest asked for, and told it "
            "so; look at the node's kernel log and its storage. This stays until the machine is restarted",
        )


def _called(machine: MachineOnNode, disks: Iterable[str]) -> str:
    """Disks as the user knows them; one that the machine does not have any more by its name on the node."""
    known = {names.kept("mount", disk.mount_uid): f"disk {disk.name}" for disk in machine.disks}
    return " and ".join(known.get(disk, "its root" if disk.startswith("root-") else f"disk {disk}") for disk in disks)
