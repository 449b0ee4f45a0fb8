"""ZMount: which node a disk is on, and whether it fits there."""

from __future__ import annotations

from dataclasses import dataclass, replace

from zos.api import names
from zos.api.gridnode import GridNode
from zos.api.meta import BOOT_AS_IS, Reason, format_quantity, whole_quantity
from zos.api.nodeworkload import NodeWorkload
from zos.api.resources import Resources
from zos.api.zmachine import ZMachine
from zos.api.zmount import ZMount, ZMountStatus, to_reserve
from zos.kinds.zmount import source
from zos.kinds.zmount.part import MountOnNode, MountState
from zos.kinds.zmount.source import Pulled, Source
from zos.world import asking, indexes, placement, quarantine, running
from zos.world.objects import Indexes
from zos.world.reader import Reader
from zos.world.resolution import Resolution, Verdict, waiting

#: What machines are found by that ask for a disk.
BY_DISK = "disk"

INDEXES = (
    *asking.INDEXES,
    *running.INDEXES,
    *placement.INDEXES,
    *quarantine.INDEXES,
    *source.INDEXES,
    quarantine.heirs(ZMount),
    indexes.HEARTBEATS,
    Indexes(ZMachine, {BY_DISK: lambda machine: [f"{machine.namespace}/{disk.name}" for disk in machine.spec.disks]}),
    indexes.WORKLOADS,
)


def resolve(mount: ZMount, world: Reader) -> Resolution:
    user = _user(mount, world)
    held = placement.held_on(world, mount.uid, mount.status.node_name)
    if mount.deleting:
        return _deleting(mount, user, held, world)
    status = mount.status.model_copy(update={"used_by": user and user.name})
    there = mount.status.node_name or held
    reports = dict(world.views(NodeWorkload, lambda workload: (workload.namespace, _reported(workload)), owner=mount.uid))
    told = reports.get(names.node_namespace(there)) if there is not None else None  # what another node says is not asked for
    made = mount.status.size is not None or mount.status.used or (told is not None and told.size is not None)
    begins = source.find(mount, world) if not made else None
    copied = begins if isinstance(begins, Source) else None
    place = _place(mount, world, there, told, user, copied)
    if begins is None and place.node not in (None, there):
        begins = source.find(mount, world)  # elsewhere it begins anew
    if isinstance(begins, Verdict) and not place.holds_data:
        return Resolution(begins, status)
    if place.node is None or place.problem is not None:
        assert place.problem is not None
        return Resolution(place.problem, status.model_copy(update={"node_name": place.node}))
    pulled = begins if isinstance(begins, Pulled) and not place.holds_data else None
    node = place.node
    has = (told.size if told is not None and there == node else None) or (mount.status.size if there == node else None) or 0
    wanted = to_reserve(mount.spec.size, has or (copied.size if copied is not None else 0))
    hold = placement.keep(world, mount, node, Resources(storage=wanted), adopt=place.adopt, grown=_grown(mount))
    if isinstance(hold, Verdict):
        return Resolution(hold, status)
    verdict, conditions = asking.answered(world, node, running.on_node(mount.uid, node, world), "the disk stays there")
    here = reports.get(names.node_namespace(node))
    size = (here.size if here is not None and verdict.ready else None) or (mount.status.size if there == node else None)
    in_use = here.used_bytes if here is not None and here.size is not None else mount.status.used_bytes
    if place.to is not None and verdict.ready:
        verdict = waiting(
            Reason.PROGRESSING,
            f"it moves to node {place.to} if node {node} says that no machine ever had it: that is being asked",
        )
    word = mount.metadata.annotations.get(BOOT_AS_IS)
    if word not in (None, mount.uid):
        message = f"{BOOT_AS_IS} has to be the uid of the ZMount itself, {mount.uid}, and is not heard"
        verdict = _with(verdict, message)
    if size is not None and size > to_reserve(mount.spec.size, 0):
        verdict = _with(verdict, f"it has {whole_quantity(size, up=False)}, which is more than spec.size: a disk only grows")
    if mount.spec.node_name not in (None, node):
        verdict = waiting(
            Reason.CONFLICT,
            f"the disk is on node {node} and holds data: it does not move to {mount.spec.node_name}; set nodeName to {node}",
        )
    used = (
        mount.status.used
        or place.holds_data
        or (told is not None and (told.used or told.holds_data) and there == node)
        or (user is not None and user.node == node and verdict.ready)
    )
    part = MountOnNode(
        size=wanted,
        holds_data=used,
        source=copied.uid if copied is not None and not place.holds_data else None,
        image=pulled.image if pulled is not None else None,
        boots_as_it_is=word == mount.uid,
        adopt=place.adopt,
        leaving=place.to is not None,
    )
    asked = asking.asked(world, node, part, pulled.secrets if pulled is not None else ())
    if isinstance(asked, Verdict):
        return Resolution(asked, status, holds=(hold,))
    return Resolution(
        verdict=verdict,
        status=ZMountStatus(node_name=node, size=size, used_bytes=in_use, used_by=user and user.name, used=used),
        releases=(GridNode.key_of("", held),) if held and held != node else (),
        holds=(hold,),
        workloads=(asked,),
        conditions=conditions,
        recorded=(place.holds_data and not mount.status.used) or there not in (None, node),
    )


def _with(verdict: Verdict, message: str) -> Verdict:
    return replace(verdict, message=f"{verdict.message}; {message}" if verdict.message else message)


def _deleting(mount: ZMount, user: _User | None, held: str | None, world: Reader) -> Resolution:
    copies = source.copies(mount, world)
    if user is not None:
        verdict = waiting(Reason.DELETION_BLOCKED, user.hindrance)
    elif copies:
        message = f"ZMount {', '.join(copies)} is to become a copy of it: wait for that, or delete it"
        verdict = waiting(Reason.DELETION_BLOCKED, message)
    else:
        verdict = waiting(Reason.DELETING, "being erased")
    return Resolution(
        verdict=verdict,
        releases=(GridNode.key_of("", held),) if held else (),
        waits_for=(*((f"ZMachine {user.name}",) if user else ()), *(f"ZMount {name}" for name in copies)),
    )


@dataclass(frozen=True)
class _User:
    """The machine that has the disk, and its node. ``leaving``: it does not ask for it any more, but may still run with it."""

    name: str
    node: str | None
    leaving: bool = False

    @property
    def hindrance(self) -> str:
        if self.leaving:
            return f"ZMachine {self.name} runs with it until it is restarted: its condition RestartRequired says how"
        return f"ZMachine {self.name} uses it: delete the machine or take the disk out"


def _user(mount: ZMount, world: Reader) -> _User | None:
    """The machine that has the disk: who has it already, until it has let go; else the oldest that asks."""
    had = mount.status.used_by
    living: tuple[str, str | None] | None = None
    if had is not None:  # raises where it can't be read: then it is not known that it has let go
        living = world.view(ZMachine, mount.namespace, had, lambda machine: (machine.uid, machine.status.node_name))
    asking = world.views(
        ZMachine,
        lambda machine: (machine.name, machine.status.node_name, machine.deleting),
        disk=f"{mount.namespace}/{mount.name}",
    )
    current = next((_User(name, node) for name, node, _ in asking if name == had), None)
    if current is not None:
        return current
    if had is not None and living is not None and running.may_have_disk(living[0], mount.uid, world):
        return _User(had, living[1], leaving=True)
    return next((_User(name, node) for name, node, leaving in asking if not leaving), None)


@dataclass(frozen=True)
class _Place:
    """``holds_data``: the data is there already; ``adopt``: uid of the disk in quarantine that becomes this one. ``problem``:
    it can't be made or changed there for now. ``to``: where it goes when the node has said that it was never used."""

    node: str | None
    problem: Verdict | None = None
    holds_data: bool = False
    adopt: str | None = None
    to: str | None = None


def _place(
    mount: ZMount, world: Reader, there: str | None, told: _Told | None, user: _User | None, copied: Source | None
) -> _Place:
    """Where it is, unless that node itself says that it was never used: the status may be of an older state of the cluster."""
    if there is None:
        return _best(mount, world, None, user, copied)
    if placement.gone(world, there):
        return _Place(there, placement.removed(there))
    if mount.status.used or (told is not None and told.used) or (user is not None and user.node == there):
        adopt = quarantine.inherited(mount, world)
        return _Place(there, adopt=adopt.adopt if adopt is not None and adopt.node == there else None)
    best = _best(mount, world, there, user, copied)
    if best.node in (None, there) or (told is not None and told.unused):
        return best
    return _Place(there, to=best.node)


def _best(mount: ZMount, world: Reader, there: str | None, user: _User | None, copied: Source | None) -> _Place:
    """Where things of it are already, or are given to it; else where it is asked, or fits."""
    asked = mount.spec.node_name
    # What another node says of an object that is elsewhere, or is to be, is not asked for.
    places = {node for node in (there, asked) if node is not None}
    if (back := quarantine.own(mount, world)) is not None and places <= {back}:
        return _Place(back, holds_data=True)
    left = quarantine.inherited(mount, world)
    if left is not None and (left.adopt is not None or places <= {left.node}):
        return _Place(left.node if left.adopt else there, left.problem, holds_data=True, adopt=left.adopt)
    # Never used, so there is no data to keep: it goes where its first machine is.
    pinned = copied.node if copied is not None else (user.node if user is not None else None) or there
    size = to_reserve(mount.spec.size, copied.size if copied is not None else 0)
    need, what = Resources(storage=size), f"a disk of {placement.amount(mount.spec.size)}"
    node = placement.place(world, need, asked=asked, pinned=pinned, what=what)
    return _Place(None, node) if isinstance(node, Verdict) else _Place(node)


def _grown(mount: ZMount) -> str:
    """What to say where its node can't give it more."""
    if (has := mount.status.size) is None:
        return "lacks {lack}"
    return f"lacks {{lack}}; it stays as it is: set size back to {format_quantity(has)}, or free some"


@dataclass(frozen=True)
class _Told:
    """What a node says of the disk. ``used``: a guest had it; ``holds_data``: the node was told that one may have it.
    ``unused``: none ever had, said since that was asked for, so by the node as it is now."""

    size: int | None
    used_bytes: int | None
    used: bool
    unused: bool
    holds_data: bool


def _reported(workload: NodeWorkload) -> _Told:
    condition, state = workload.status.condition("Ready"), workload.state(MountState)
    part = workload.part(MountOnNode)
    current = condition is not None and condition.observed_generation == workload.metadata.generation
    asked = current and part is not None and part.leaving and not workload.deleting
    return _Told(
        size=state.size if state is not None else None,
        used_bytes=state.used_bytes if state is not None else None,
        used=state is not None and (state.used is True or (asked and state.used is None)),  # an older agent does not say
        unused=asked and state is not None and state.used is False,
        holds_data=part is not None and part.holds_data,
    )
