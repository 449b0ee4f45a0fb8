"""A machine on its node: image, root disk, configuration, taps with their guards, and the guest."""

from __future__ import annotations

from dataclasses import replace

from zos.api import names
from zos.api.meta import Reason
from zos.kinds.kind import Here
from zos.kinds.zmachine.configuration import ROOT, configured, digest, fields_of, serial, tag
from zos.kinds.zmachine.lifecycle import course
from zos.kinds.zmachine.part import MachineOnNode
from zos.kinds.zmachine.ports import nics, wired
from zos.plan.facts import DomainFact, ImageFact, ImageProblem, Unknown
from zos.plan.guest import LIMIT
from zos.plan.items import ContainerBoot, Disk, Domain, File, GuestDisk, GuestShare, Image, Item
from zos.plan.lowered import Lowered, Problem


def lower(here: Here[MachineOnNode]) -> Lowered:
    image = Image(owner=here.name, ref=here.part.image)
    try:
        return _with_image(here, image)
    except Unknown as unknown:
        return _as_it_is(image, Problem(Reason.PROGRESSING, str(unknown)))


def _as_it_is(image: Image, problem: Problem | None) -> Lowered:
    """Nothing can be said of the machine for now but the image that it needs; whatever there is of it goes on."""
    return Lowered((image,), problem, whole=False)


def _with_image(here: Here[MachineOnNode], image: Image) -> Lowered:
    machine, facts, uid, owner = here.part, here.facts, here.owner.uid, here.name
    fact = facts.get(ImageFact, machine.image)
    if fact is None:
        told = facts.get(ImageProblem, machine.image)
        return _as_it_is(image, Problem(Reason.IMAGE_INVALID, told.why) if told is not None else None)
    if fact.has_disk_image:
        wrong = "the image is a virtual machine's (/image.raw): not supported yet, take a container's"
        return _as_it_is(image, Problem(Reason.IMAGE_INVALID, wrong))
    guest = configured(here, fact)
    if isinstance(guest, Problem):
        return _as_it_is(image, guest)
    text = guest.render()
    if len(text) > LIMIT:
        wrong = "env, keys and entrypoint together, those of the image too, are too large: make them smaller"
        return _as_it_is(image, Problem(Reason.INVALID_SPEC, wrong))
    known = facts.get(DomainFact, names.domain(uid))
    path = f"machines/{uid}/config"
    config = File(owner=owner, path=path, content=text)
    root = Disk(
        owner=owner,
        name=names.kept("root", uid),
        size=machine.root_size,
        format="ext4",
        must_exist=known is not None and known.started_at is not None,  # what it has written is there
        adopt=machine.adopt or "",
        origin=here.owner,
    )
    wanted = nics(machine, uid)
    # What a guest that runs was started with is what its interfaces and their guards are for, until it has ended.
    runs = known.runs if known is not None and known.running else None
    ports = wired(runs.nics if runs is not None and all(nic.told for nic in runs.nics) else wanted, uid, owner)
    domain = Domain(
        owner=owner,
        needs=(
            image.key,
            root.key,
            config.key,
            *(tap.key for tap in ports.taps),
            *(item.key for item in ports.joined),
            *(f"disk/{names.kept('mount', disk.mount_uid)}" for disk in machine.disks),
            *(shared.ground for shared in machine.filesystems),
        ),
        name=names.domain(uid),
        uuid=uid,
        cpu=machine.cpu,
        memory=machine.memory,
        boot=ContainerBoot(
            image=fact.digest,
            root=GuestDisk(disk=root.name, serial=ROOT),
            config=path,
            config_digest=digest(text),
            fields=fields_of(guest),
        ),
        disks=tuple(
            GuestDisk(disk=names.kept("mount", disk.mount_uid), serial=serial(disk.mount_uid)) for disk in machine.disks
        ),
        shares=tuple(
            GuestShare(
                tag=tag(one), path=one.path, ground=one.ground, read_only=one.read_only, mounted=one.mounted, inside=one.inside
            )
            for one in machine.filesystems
        ),
        nics=wanted,
        running=False,
        incarnation=machine.restarted_at or "",
    )
    mended = known is not None and known.recipe not in ("", domain.recipe)
    asked = course(machine.run_policy, known, facts.now, uid, mended=mended)
    restarts = asked.running and runs is not None and runs.incarnation != domain.incarnation
    standing = Problem(Reason.PROGRESSING, "it is stopped to be started again") if restarts else asked.problem
    running = asked.running and not restarts
    domain = replace(domain, running=running, needs=domain.needs if running else ())  # to stop needs nothing
    items: tuple[Item, ...] = (image, root, config, *ports.segments, *ports.taps, *ports.joined, domain)
    return Lowered(items, standing, asked.wake_at)
