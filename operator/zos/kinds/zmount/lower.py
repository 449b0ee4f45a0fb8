"""A disk on its node: one file, really reserved, formatted when it is first made."""

from __future__ import annotations

from zos.api import names
from zos.api.meta import Reason
from zos.kinds.kind import Here, Report
from zos.kinds.zmount import system
from zos.kinds.zmount.part import MountOnNode, MountState
from zos.plan.facts import DiskUseFact, UnusedDiskFact
from zos.plan.items import Disk
from zos.plan.lowered import Lowered
from zos.plan.outcome import Outcome
from zos.world.resolution import ready, waiting


def lower(here: Here[MountOnNode]) -> Lowered:
    mount = here.part
    disk = Disk(
        owner=here.name,
        name=names.kept("mount", here.owner.uid),
        size=mount.size,
        format="btrfs",
        must_exist=mount.holds_data,
        adopt=mount.adopt or "",
        source=names.kept("mount", mount.source) if mount.source is not None else "",
        origin=here.owner,
    )
    return system.lowered(here, disk) if mount.image is not None or mount.boots_as_it_is else Lowered((disk,))


def report(here: Here[MountOnNode], lowered: Lowered, outcome: Outcome) -> Report[MountState]:
    disk = next((item for item in lowered.items if isinstance(item, Disk)), None)
    if disk is None:  # nobody could look
        assert lowered.problem is not None
        return Report(waiting(lowered.problem.reason, lowered.problem.message))
    if disk.key in outcome.failed:
        return Report(waiting(Reason.FAILED, outcome.failed[disk.key]))
    if disk.key in outcome.pending or disk.key in outcome.blocked:
        return Report(waiting(Reason.PROGRESSING, outcome.pending.get(disk.key, f"waits for {outcome.blocked.get(disk.key)}")))
    if (verdict := system.standing(here, lowered, outcome)) is not None:
        return Report(verdict)
    use = here.facts.get(DiskUseFact, disk.name)
    return Report(
        ready(),
        MountState(
            size=disk.size,
            used_bytes=use and use.used,
            used=here.facts.get(UnusedDiskFact, disk.name) is None,
        ),
    )
