"""A machine in container mode: its image, a root disk for what it writes, the configuration that its init reads."""

from __future__ import annotations

from zos.api import names
from zos.api.meta import Reason
from zos.kinds.kind import Here
from zos.kinds.zmachine import kernel, mounted
from zos.kinds.zmachine.configuration import ROOT, configured, digest, fields_of
from zos.kinds.zmachine.guest import config_of, guest
from zos.kinds.zmachine.part import MachineOnNode
from zos.plan.facts import DomainFact, ImageFact
from zos.plan.guest import LIMIT
from zos.plan.items import ContainerBoot, Disk, File, GuestDisk, Item
from zos.plan.lowered import Lowered, Problem


def lowered(here: Here[MachineOnNode], image: tuple[Item, ...], fact: ImageFact) -> Lowered | Problem:
    """``image`` is what its tree is there by. Raises Unknown."""
    machine, facts, uid = here.part, here.facts, here.owner.uid
    if machine.root_size == 0:  # the image was a virtual machine's until now
        return Problem(Reason.PROGRESSING, "it is a container now, and waits for room for its root")
    if (foreign := mounted.foreign(here, here.part.disks)) is not None:
        return Problem(Reason.CONFLICT, f"{foreign}: take it out of disks, or take an image that boots from it")
    own = kernel.wanted(here, image, fact)
    grounds = image if own is None else (*image, own)
    ready = kernel.ready(here, own) if own is not None else None
    if isinstance(ready, Problem):
        return Lowered(grounds, ready, whole=False)
    told = configured(here, fact)
    if isinstance(told, Problem):
        return told
    text = told.render()
    if len(text) > LIMIT:
        wrong = "env, keys and entrypoint together, those of the image too, are too large: make them smaller"
        return Problem(Reason.INVALID_SPEC, wrong)
    known = facts.get(DomainFact, names.domain(uid))
    config = File(owner=here.name, path=config_of(uid), content=text)
    root = Disk(
        owner=here.name,
        name=names.kept("root", uid),
        size=machine.root_size,
        format="ext4",
        must_exist=known is not None and known.started_at is not None,  # what it has written is there
        adopt=machine.adopt or "",
        origin=here.owner,
    )
    boot = ContainerBoot(
        image=fact.digest,
        kernel=ready.release if ready is not None else "",
        init=told.init,
        root=GuestDisk(disk=root.name, serial=ROOT),
        config=config.path,
        config_digest=digest(text),
        fields=fields_of(told, facts.nameservers),
    )
    return guest(here, boot, machine.disks, (*grounds, root, config))
