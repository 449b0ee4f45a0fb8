"""A container whose image brings a kernel of its own: it runs that, with the node's init."""

from __future__ import annotations

from zos.api.meta import Reason
from zos.kinds.kind import Here
from zos.kinds.zmachine.part import MachineOnNode
from zos.plan.facts import ImageFact, KernelFact, KernelProblem
from zos.plan.items import Item, Kernel
from zos.plan.lowered import Problem
from zos.plan.pulling import reason_of


def wanted(here: Here[MachineOnNode], image: tuple[Item, ...], fact: ImageFact) -> Kernel | None:
    """``image`` is what its tree is there by."""
    return Kernel(owner=here.name, needs=tuple(item.key for item in image), image=fact.digest) if fact.has_kernel else None


def ready(here: Here[MachineOnNode], kernel: Kernel) -> KernelFact | Problem:
    """What the machine boots, or why it does not yet. Raises Unknown where nobody could look."""
    fact = here.facts.get(KernelFact, kernel.image)
    if fact is None:
        told = here.facts.get(KernelProblem, kernel.image)
        if told is None:
            return Problem(Reason.PROGRESSING, "the image's kernel is made ready")
        return Problem(reason_of(told), f"image {here.part.image}: {told.why}")
    if here.part.disks and "btrfs" not in fact.formats:
        words = f"the image's kernel {fact.release} has no btrfs, which disks are formatted as"
        return Problem(Reason.INVALID_SPEC, f"{words}: take an image with another kernel, or no disks")
    return fact
