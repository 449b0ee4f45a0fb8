"""A disk that holds a virtual machine's system before any machine has it: it begins as an image's disk, or its user says so."""

from __future__ import annotations

from zos.api.meta import BOOT_AS_IS, Reason, whole_quantity
from zos.api.zmount import boot_as_it_is
from zos.kinds.kind import Here
from zos.kinds.zmount.part import MountOnNode
from zos.plan import pulling
from zos.plan.facts import DiskFact, FlistFact, ImageFact, ImageProblem
from zos.plan.items import Disk, Image, System
from zos.plan.lowered import Lowered, Problem
from zos.plan.outcome import Outcome
from zos.world.resolution import Verdict, waiting

_NO_DISK = (
    "image {ref} has no disk in it, and a disk begins as another disk: name one that is a disk image, or has exactly one of "
    "/image.raw, /image.qcow2, /disk/*.img and /disk/*.qcow2 in it, or make this ZMount anew without source and have a machine "
    "put the files there"
)
#: Nobody mounts one for a disk.
_LAZY = (
    "image {ref} is an flist, whose contents are fetched when a machine reads them, and a disk begins as a whole copy: name a "
    "disk image itself (raw, qcow2), or one in an archive or a registry"
)


def lowered(here: Here[MountOnNode], disk: Disk) -> Lowered:
    """``disk``, and what there must be on it. Raises Unknown."""
    fact = here.facts.get(DiskFact, disk.name)
    if fact is not None and fact.written is not None:
        return Lowered((disk,))
    if fact is not None and fact.holds and here.part.boots_as_it_is:
        return Lowered((disk, System(owner=here.name, needs=(disk.key,), disk=disk.name, image="", ref="")))
    if here.part.image is None or here.part.holds_data:
        return Lowered((disk,))
    if fact is not None and fact.holds:
        words = f"the disk holds {fact.holds}, and whether all of the image is there nobody knows: it is not overwritten"
        words += "; delete it and make it anew"
        owner = here.owner
        word = f", or {boot_as_it_is(owner.namespace, owner.name, owner.uid)}" if fact.partitioned else ""
        return Lowered((disk,), Problem(Reason.CONFLICT, words + word))
    return _from_image(here, disk, here.part.image)


def _from_image(here: Here[MountOnNode], disk: Disk, ref: str) -> Lowered:
    image = pulling.opened(pulling.known_as(here.name, ref, here.sealed), here.secret)
    fact = here.facts.get(ImageFact, image.name)
    if fact is None and here.facts.get(FlistFact, image.name) is not None:
        return Lowered((disk, image), Problem(Reason.IMAGE_INVALID, _LAZY.format(ref=ref)))
    if fact is None:
        told = here.facts.get(ImageProblem, image.name)
        return Lowered((disk, image), Problem(pulling.reason_of(told), told.why) if told is not None else None)
    if fact.disk is None:
        return Lowered((disk, image), Problem(Reason.IMAGE_INVALID, _NO_DISK.format(ref=ref)))
    if fact.disk.size > disk.size:
        has, needs = whole_quantity(disk.size, up=False), whole_quantity(fact.disk.size)
        words = f"the disk has {has}, and the image needs {needs}: set size to that"
        return Lowered((disk, image), Problem(Reason.INVALID_SPEC, words))
    system = System(
        owner=here.name,
        needs=(image.key, disk.key),
        disk=disk.name,
        image=fact.digest,
        ref=ref,
        firmware=fact.disk.firmware,
    )
    return Lowered((disk, image, system))


def standing(here: Here[MountOnNode], lowered: Lowered, outcome: Outcome) -> Verdict | None:
    """What it waits for; None: for nothing."""
    if lowered.problem is not None:
        return waiting(lowered.problem.reason, lowered.problem.message)
    image = next((item for item in lowered.items if isinstance(item, Image)), None)
    system = next((item for item in lowered.items if isinstance(item, System)), None)
    if image is not None and image.key in outcome.failed:
        return waiting(pulling.reason_of(here.facts.get(ImageProblem, image.name)), outcome.failed[image.key])
    if system is not None and system.key in outcome.failed:
        taken_back = f"; take the annotation {BOOT_AS_IS} off again" if not system.image else ""
        return waiting(Reason.FAILED, outcome.failed[system.key] + taken_back)
    if image is not None and (system is None or image.key in outcome.pending):
        return waiting(Reason.IMAGE_PULLING, outcome.pending.get(image.key, f"fetching {here.part.image}"))
    if system is not None and system.image:  # until the disk itself is seen to be whole
        return waiting(Reason.PROGRESSING, outcome.pending.get(system.key) or "the image is being written to the disk")
    return None
