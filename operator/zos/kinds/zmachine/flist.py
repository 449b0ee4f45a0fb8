"""A machine whose image is an flist: the node's service that mounts it, and what that says of its blocks (ADR 0024)."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

from zos.api import names
from zos.api.meta import Reason
from zos.kinds.kind import Here
from zos.kinds.zmachine.part import MachineOnNode
from zos.plan.facts import DomainFact, Facts, FlistFact, ImageFact, ServiceFact
from zos.plan.items import Fence, Flist, Image, Readiness, Service, ServiceLimits, Shown
from zos.plan.items.flist import FLISTS
from zos.plan.lowered import Lowered, Problem
from zos.plan.standing import standing

_PROGRAM = "zos.programs.flist"
_LIMITS = ServiceLimits(memory=384 << 20, scratch=1 << 20, descriptors=256)
#: Seconds: a large flist is looked through first.
_PATIENCE = 90.0


@dataclass(frozen=True)
class Mounted:
    """``tree`` is who looks through it, once it is there. ``usable``: it is mounted and known, or there is a guest that stands
    on it, which goes on with what it has."""

    usable: bool
    tree: tuple[Flist, ...] = ()
    problem: Problem | None = None
    wake_at: float | None = None


def wanted(here: Here[MachineOnNode], image: Image, fact: ImageFact | None) -> tuple[()] | tuple[Fence, Service]:
    """What mounts the machine's image. Empty: it is no flist, or a virtual machine's, whose disk is written from a copy.
    ``fact``: what is known of its tree. Raises Unknown."""
    flist = here.facts.get(FlistFact, image.name)
    return serving(here.name, image, flist) if flist is not None and (fact is None or fact.disk is None) else ()


def mounted(here: Here[MachineOnNode], image: Image, service: Service, fact: ImageFact | None) -> Mounted:
    """How that stands. Raises Unknown."""
    flist, known = here.facts.get(FlistFact, image.name), here.facts.get(ServiceFact, service.name)
    assert flist is not None
    if known is None:  # what keeps it from being made says more
        return Mounted(usable=fact is not None and _runs(here, flist.digest))
    stands = standing(service, known, here.facts.now)
    ready = stands.problem is None
    tree = (Flist(owner=here.name, needs=(image.key, service.key), digest=flist.digest),) if ready and fact is None else ()
    usable = fact is not None and (ready or _runs(here, flist.digest))
    return Mounted(usable, tree, stands.problem, stands.wake_at)


def _runs(here: Here[MachineOnNode], digest: str) -> bool:
    guest = here.facts.get(DomainFact, names.domain(here.owner.uid))
    return guest is not None and guest.running and guest.image == digest


def serving(owner: str, image: Image, flist: FlistFact) -> tuple[Fence, Service]:
    """The same for all machines of a node."""
    fence = Fence(owner=owner, group=FLISTS)
    directories = tuple(word for directory in flist.directories for word in ("--directory", directory))
    service = Service(
        owner=owner,
        needs=(image.key, fence.key),
        name=names.flist(flist.digest),
        program=_PROGRAM,
        argv=(
            *("--flist", "{run}/image.fl", "--cache", "{run}/blocks", "--cache-size", str(flist.size)),
            *("--status", "{run}/status", *directories, "{fuse}"),
        ),
        group=FLISTS,
        shown=(Shown(name="image.fl", path=flist.file), Shown(name="blocks", path=flist.blocks, writable=True)),
        limits=_LIMITS,
        ready=Readiness(by="mount", at=flist.mount, timeout=_PATIENCE),
        mount=flist.mount,
        resumes=True,
        status="{run}/status",
        shared=True,
        stands_on=(fence.key,),
    )
    return fence, service


def trouble(image: str, lowered: Lowered, facts: Facts) -> Problem | None:
    """Why blocks of a machine's image can't be had; None: they can, or nobody has asked for any, or could look."""
    service = service_of(lowered)
    if service is None or ServiceFact in facts.unknown:
        return None
    known = facts.get(ServiceFact, service.name)
    if known is None or not known.trouble:
        return None
    return Problem(
        Reason.IMAGE_UNAVAILABLE,
        f"blocks of {without_credentials(image)} can't be had: {known.trouble}. Reading them is an I/O error until they can "
        "be had again, which is tried all the time",
    )


def unserved(lowered: Lowered, facts: Facts) -> Problem | None:
    """Why the image of a guest that runs is not served just now, as far as anybody could look."""
    service = service_of(lowered)
    if service is None or ServiceFact in facts.unknown:
        return None
    return standing(service, facts.get(ServiceFact, service.name), facts.now).problem


def service_of(lowered: Lowered) -> Service | None:
    return next((item for item in lowered.items if isinstance(item, Service) and item.program == _PROGRAM), None)


def without_credentials(url: str) -> str:
    """For many to read."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "the image"
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
