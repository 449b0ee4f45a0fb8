"""ZMachine: where a machine runs, its private address, and what its node must make of it."""

from __future__ import annotations

from zos.api.gridnode import GridNode
from zos.api.meta import Reason
from zos.api.network import Network
from zos.api.zmachine import RunPolicy, ZMachine
from zos.kinds.zmachine import applicable, disks, environment, filesystems, publicaddress
from zos.kinds.zmachine.found import Found, given
from zos.kinds.zmachine.part import MachineOnNode
from zos.kinds.zmachine.status import status
from zos.kinds.zmachine.steps import STEPS
from zos.world import asking, placement, quarantine, residents, running, shares
from zos.world.objects import Indexes
from zos.world.reader import Reader
from zos.world.resolution import Resolution, Verdict, Workload, waiting
from zos.world.usage import NodeUsage

INDEXES = (
    *asking.INDEXES,
    *disks.INDEXES,
    *environment.INDEXES,
    *filesystems.INDEXES,
    *running.INDEXES,
    *placement.INDEXES,
    *publicaddress.INDEXES,
    *quarantine.INDEXES,
    quarantine.heirs(ZMachine),
    *residents.INDEXES,
    Indexes(NodeUsage),
    Indexes(
        ZMachine,
        {
            shares.BY_SHARE: lambda machine: [
                shares.key(one.kind, machine.namespace, one.name) for one in machine.spec.filesystems
            ]
        },
    ),
    residents.indexes(
        ZMachine,
        lambda machine: (machine.spec.network.name, machine.status.network),  # until it is restarted it is where it was
        lambda machine: (machine.status.network or machine.spec.network.name, machine.status.ip),
    ),
)


def resolve(machine: ZMachine, world: Reader) -> Resolution:
    if machine.deleting:
        return _deleting(machine, world)
    found = Found.from_status(machine, world)
    for step in STEPS:
        found, problem = step(found, machine, world)
        if problem is not None:
            return _waiting(found, problem, machine, world)
    verdict, conditions = asking.answered(world, given(found.node), found.workload, "the machine may still run")
    workloads = (found.asked,) if found.asked is not None else None
    said = status(found, machine, world)
    conditions = (*conditions, *applicable.conditions(machine, said.mode))
    return Resolution(verdict, said, holds=found.holds, workloads=workloads, conditions=conditions)


def _deleting(machine: ZMachine, world: Reader) -> Resolution:
    held = placement.held_on(world, machine.uid, machine.status.node_name)
    pools = (
        Network.key_of(machine.namespace, machine.spec.network.name),
        *((GridNode.key_of("", held),) if held else ()),
    )
    return Resolution(verdict=waiting(Reason.DELETING, "being stopped and removed"), releases=pools)


def _waiting(found: Found, problem: Verdict, machine: ZMachine, world: Reader) -> Resolution:
    """What runs is left as it is, and where it is: a machine is not stopped because something it needed is gone."""
    said = status(found, machine, world)
    return Resolution(
        problem,
        said,
        holds=found.holds,
        workloads=_lessened(found, machine, world),
        conditions=(*asking.beside(found.workload), *applicable.conditions(machine, said.mode)),
    )


def _lessened(found: Found, machine: ZMachine, world: Reader) -> tuple[Workload, ...] | None:
    """To stop, to go on when the node's maintenance ends, and to do without a public address needs nothing that the machine may
    be waiting for: what was asked of the node, but for that."""
    node, workload = found.place or found.node, found.workload
    part = workload.part(MachineOnNode) if workload is not None else None
    if node is None or part is None:
        return None
    less: dict[str, object] = {}
    if machine.spec.run_policy is RunPolicy.HALTED:
        less["run_policy"] = RunPolicy.HALTED
    if part.maintenance is not (maintenance := placement.in_maintenance(world, node)):
        less["maintenance"] = maintenance
    if machine.spec.public_ip is None and part.public_nic is not None:
        less["public_nic"] = None
    if not less:
        return None
    asked = asking.asked(world, node, part.model_copy(update=less), secrets=None)
    return (asked,) if isinstance(asked, Workload) else None
