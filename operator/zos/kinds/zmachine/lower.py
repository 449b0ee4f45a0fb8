"""A machine on its node: what its image, or the disk that was written from one, makes of it."""

from __future__ import annotations

from zos.api.meta import Reason
from zos.kinds.kind import Here
from zos.kinds.zmachine import container, virtual
from zos.kinds.zmachine.guest import halted
from zos.kinds.zmachine.image import known_as
from zos.kinds.zmachine.image import wanted as wanted_image
from zos.kinds.zmachine.part import MachineOnNode
from zos.plan.facts import ImageFact, ImageProblem, Unknown
from zos.plan.items import Image, Item
from zos.plan.lowered import Lowered, Problem
from zos.plan.pulling import reason_of


def lower(here: Here[MachineOnNode]) -> Lowered:
    image, locked = known_as(here), None
    try:
        image = wanted_image(here)
    except Unknown as unknown:
        locked = Problem(Reason.PROGRESSING, str(unknown))
    try:
        boot = virtual.boot_disk(here)
        if boot is not None and boot.written is not None:
            return virtual.lowered(here, boot, boot.written)
        if locked is not None:
            return _as_it_is(here, None, locked)
        fact = here.facts.get(ImageFact, image.name)
        if fact is None:
            told = here.facts.get(ImageProblem, image.name)
            return _as_it_is(here, image, Problem(reason_of(told), told.why) if told is not None else None)
        found = virtual.written(here, image, fact, boot) if fact.disk is not None else container.lowered(here, image, fact)
        return _as_it_is(here, image, found) if isinstance(found, Problem) else found
    except Unknown as unknown:
        return _as_it_is(here, image, Problem(Reason.PROGRESSING, str(unknown)))


def _as_it_is(here: Here[MachineOnNode], image: Image | None, problem: Problem | None) -> Lowered:
    """Nothing can be said of the machine for now but the image that it needs, and whether it is to stop, which needs nothing;
    whatever else there is of it goes on."""
    items: tuple[Item, ...] = (image,) if image is not None else ()
    halt = halted(here)
    if halt is None:
        return Lowered(items, problem, whole=False)
    if halt.guest is None:
        return Lowered(items, halt.problem, whole=False)
    return Lowered((*items, halt.guest), halt.problem, whole=False, certain=frozenset({halt.guest.key}))
