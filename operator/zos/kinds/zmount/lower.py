"""A disk on its node: one file, really reserved, formatted when it is first made."""

from __future__ import annotations

from zos.api.meta import Reason
from zos.api.nodeworkload import MountState, NodeWorkload
from zos.kinds.kind import Report
from zos.plan.facts import Facts
from zos.plan.items import Disk
from zos.plan.lowered import Lowered
from zos.plan.outcome import Outcome
from zos.world.resolution import ready, waiting


def lower(workload: NodeWorkload, facts: Facts) -> Lowered:
    mount = workload.spec.mount
    assert mount is not None
    name = f"mount-{workload.spec.owner.uid}"
    disk = Disk(
        owner=workload.metadata.name,
        name=name,
        size=mount.size,
        format="btrfs",
        must_exist=mount.holds_data,
        adopt=mount.adopt or "",
        origin=workload.spec.owner,
    )
    return Lowered((disk,))


def report(workload: NodeWorkload, facts: Facts, lowered: Lowered, outcome: Outcome) -> Report:
    (disk,) = lowered.items
    assert isinstance(disk, Disk)
    if disk.key in outcome.failed:
        return Report(waiting(Reason.FAILED, outcome.failed[disk.key]))
    if disk.key in outcome.pending or disk.key in outcome.blocked:
        return Report(waiting(Reason.PROGRESSING, outcome.pending.get(disk.key, "waiting")))
    return Report(ready(), mount=MountState(size=disk.size, used=disk.name not in facts.unused_disks))
