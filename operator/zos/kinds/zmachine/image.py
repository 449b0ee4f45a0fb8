"""The image that a machine is to run, and whose credentials it is fetched with."""

from __future__ import annotations

from zos.kinds.kind import Here
from zos.kinds.zmachine.part import MachineOnNode
from zos.plan import pulling
from zos.plan.items import Image


def known_as(here: Here[MachineOnNode]) -> Image:
    """As facts and operations know it: without what opens it."""
    return pulling.known_as(here.name, here.part.image, here.sealed)


def wanted(here: Here[MachineOnNode]) -> Image:
    """Raises Unknown where its credentials can't be opened."""
    return pulling.opened(known_as(here), here.secret)
