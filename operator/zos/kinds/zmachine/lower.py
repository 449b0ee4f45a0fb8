"""A machine on its node: what its image, or the disk that was written from one, makes of it."""

from __future__ import annotations

from dataclasses import replace

from zos.api.meta import Reason
from zos.kinds.kind import Here
from zos.kinds.zmachine import container, flist, virtual
from zos.kinds.zmachine.guest import halted
from zos.kinds.zmachine.image import known_as
from zos.kinds.zmachine.image import wanted as wanted_image
from zos.kinds.zmachine.part import MachineOnNode
from zos.plan.facts import ImageFact, ImageProblem, Unknown
from zos.plan.items import Item
from zos.plan.lowered import Lowered, Problem
from zos.plan.pulling import reason_of


def lower(here: Here[MachineOnNode]) -> Lowered:
    image, locked = known_as(here), None
    grounds: tuple[Item, ...] = (image,)
    try:
        image = wanted_image(here)
    except Unknown as unknown:
        locked = Problem(Reason.PROGRESSING, str(unknown))
    try:
        boot = virtual.boot_disk(here)
        if boot is not None and virtual.is_certain(here, boot):
            return _found(here, (), virtual.written(here, boot))
        if locked is not None:
            return _as_it_is(here, (), locked)
        grounds = (image,)
        fact = here.facts.get(ImageFact, image.name)
        if mounting := flist.wanted(here, image, fact):
            grounds = (image, *mounting)
            mounted = flist.mounted(here, image, mounting[-1], fact)
            grounds = (*grounds, *mounted.tree)
            if not mounted.usable:
                return replace(_as_it_is(here, grounds, mounted.problem), wake_at=mounted.wake_at)
        if fact is None:
            told = here.facts.get(ImageProblem, image.name)
            return _as_it_is(here, grounds, Problem(reason_of(told), told.why) if told is not None else None)
        if fact.disk is None:
            return _found(here, grounds, container.lowered(here, grounds, fact))
        if boot is not None and boot.written is not None:
            return _found(here, grounds, virtual.written(here, boot))
        return _found(here, grounds, virtual.from_image(here, image, fact, boot))
    except Unknown as unknown:
        return _as_it_is(here, grounds, Problem(Reason.PROGRESSING, str(unknown)))


def _found(here: Here[MachineOnNode], grounds: tuple[Item, ...], found: Lowered | Problem) -> Lowered:
    return _as_it_is(here, grounds, found) if isinstance(found, Problem) else found


def _as_it_is(here: Here[MachineOnNode], grounds: tuple[Item, ...], problem: Problem | None) -> Lowered:
    """Nothing can be said of the machine for now but the image that it needs, and whether it is to stop, which needs nothing;
    whatever else there is of it goes on."""
    halt = halted(here)
    if halt is None:
        return Lowered(grounds, problem, whole=False)
    if halt.guest is None:
        return Lowered(grounds, halt.problem, whole=False)
    return Lowered((*grounds, halt.guest), halt.problem, whole=False, certain=frozenset({halt.guest.key}))
