"""The image that a machine is to run, and whose credentials it is fetched with."""

from __future__ import annotations

from dataclasses import replace

from zos.api.meta import Reason
from zos.kinds.kind import Here
from zos.kinds.zmachine.part import PULL, MachineOnNode
from zos.plan.facts import ImageProblem
from zos.plan.items import Image


def known_as(here: Here[MachineOnNode]) -> Image:
    """As facts and operations know it: without what opens it."""
    access = next((name.removeprefix(PULL) for name in here.sealed if name.startswith(PULL)), "")
    return Image(owner=here.name, ref=here.part.image, access=access)


def reason_of(problem: ImageProblem | None) -> Reason:
    """In a word: whether there is something to be corrected, or only to be waited for."""
    return Reason.IMAGE_UNAVAILABLE if problem is not None and problem.passing else Reason.IMAGE_INVALID


def wanted(here: Here[MachineOnNode]) -> Image:
    """Raises Unknown where its credentials can't be opened."""
    image = known_as(here)
    return replace(image, auth=here.secret(PULL + image.access)) if image.access else image
