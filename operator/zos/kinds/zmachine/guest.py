"""What every machine has on its node, however it boots: taps with their guards, and the guest."""

from __future__ import annotations

from dataclasses import dataclass, replace

from zos.api import names
from zos.api.meta import Reason
from zos.kinds.kind import Here
from zos.kinds.zmachine.configuration import serial, tag
from zos.kinds.zmachine.lifecycle import course
from zos.kinds.zmachine.part import DiskOnNode, MachineOnNode
from zos.kinds.zmachine.ports import nics, wired
from zos.plan.facts import DomainFact
from zos.plan.items import ContainerBoot, DiskBoot, Domain, GuestDisk, GuestShare, Item
from zos.plan.items.domain import STOP_SECONDS
from zos.plan.lowered import Lowered, Problem


def config_of(uid: str) -> str:
    """Path of the file that says what the guest is told."""
    return f"machines/{uid}/config"


def disk_of(disk: DiskOnNode) -> GuestDisk:
    return GuestDisk(disk=names.kept("mount", disk.mount_uid), serial=serial(disk.mount_uid))


@dataclass(frozen=True)
class Halt:
    """A machine that is not to run, whatever else is not known of it. ``guest``: it runs, and as this it is to be stopped."""

    problem: Problem
    guest: Domain | None


def halted(here: Here[MachineOnNode]) -> Halt | None:
    """None: it may run, or nobody can tell whether it does."""
    machine, uid = here.part, here.owner.uid
    if DomainFact in here.facts.unknown:
        return None
    known = here.facts.get(DomainFact, names.domain(uid))
    asked = course(machine.run_policy, known, here.facts.now, uid, maintenance=machine.maintenance)
    if asked.problem is None or asked.problem.reason not in (Reason.NODE_MAINTENANCE, Reason.SUSPENDED):
        return None
    runs = known.runs if known is not None and known.running else None
    stops = machine.stop_seconds or STOP_SECONDS
    stopped = runs and replace(runs, owner=here.name, needs=(), running=False, stop_seconds=stops)
    return Halt(asked.problem, stopped)


def guest(
    here: Here[MachineOnNode], boot: ContainerBoot | DiskBoot, disks: tuple[DiskOnNode, ...], grounds: tuple[Item, ...]
) -> Lowered:
    """``disks`` are those beside the one that it boots from; ``grounds`` what there must be for it, in this order. Raises
    Unknown."""
    machine, uid, owner = here.part, here.owner.uid, here.name
    known = here.facts.get(DomainFact, names.domain(uid))
    wanted = nics(machine, uid)
    # What a guest that runs was started with is what its interfaces and their guards are for, until it has ended.
    runs = known.runs if known is not None and known.running else None
    ports = wired(runs.nics if runs is not None and all(nic.told for nic in runs.nics) else wanted, uid, owner)
    attached = tuple(disk_of(disk) for disk in disks)
    domain = Domain(
        owner=owner,
        needs=tuple(
            dict.fromkeys(
                (
                    *(item.key for item in grounds),
                    *(tap.key for tap in ports.taps),
                    *(item.key for item in ports.joined),
                    *(f"disk/{disk.disk}" for disk in (boot.root, *attached)),
                    *(shared.ground for shared in machine.filesystems),
                )
            )
        ),
        name=names.domain(uid),
        uuid=uid,
        cpu=machine.cpu,
        memory=machine.memory,
        boot=boot,
        disks=attached,
        shares=tuple(
            GuestShare(
                tag=tag(one), path=one.path, ground=one.ground, read_only=one.read_only, mounted=one.mounted, inside=one.inside
            )
            for one in machine.filesystems
        ),
        nics=wanted,
        running=False,
        # Only a new word restarts it: a tool that takes back what is not in its repository takes the old one back, too.
        incarnation=machine.restarted_at or (runs.incarnation if runs is not None else ""),
        stop_seconds=machine.stop_seconds or STOP_SECONDS,
    )
    mended = known is not None and known.recipe not in ("", domain.recipe)
    asked = course(machine.run_policy, known, here.facts.now, uid, mended=mended, maintenance=machine.maintenance)
    restarts = asked.running and runs is not None and runs.incarnation != domain.incarnation
    standing = Problem(Reason.PROGRESSING, "it is stopped to be started again") if restarts else asked.problem
    running = asked.running and not restarts
    domain = replace(domain, running=running, needs=domain.needs if running else ())  # to stop needs nothing
    return Lowered((*grounds, *ports.segments, *ports.taps, *ports.joined, domain), standing, asked.wake_at)
