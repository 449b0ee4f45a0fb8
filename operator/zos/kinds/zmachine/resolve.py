"""ZMachine: where a machine runs, its private address, and what its node must make of it."""

from __future__ import annotations

from dataclasses import dataclass

from zos.api import names
from zos.api.gridnode import GUEST_OVERHEAD, GridNode, NodeHold, Resources
from zos.api.meta import RESTARTED_AT, Condition, Reason
from zos.api.network import Network, NetworkAddress
from zos.api.nodeworkload import NodeWorkload
from zos.api.text import host
from zos.api.zmachine import RunPolicy, ZMachine, ZMachineStatus, minimum_root_size
from zos.api.zmount import ZMount
from zos.kinds.zmachine import environment, publicaddress
from zos.kinds.zmachine.part import DiskOnNode, MachineOnNode, MachineState, PublicNic
from zos.kinds.zmachine.publicaddress import Public
from zos.world import asking, guests, indexes, placement, quarantine, residents
from zos.world.guests import Guest
from zos.world.heartbeat import Heartbeat
from zos.world.objects import Indexes
from zos.world.quarantine import Inheritance
from zos.world.reader import Reader
from zos.world.residents import Net
from zos.world.resolution import Hold, Resolution, SecretValue, Verdict, Workload, waiting

INDEXES = (
    *asking.INDEXES,
    *guests.INDEXES,
    *placement.INDEXES,
    *environment.INDEXES,
    *publicaddress.INDEXES,
    *quarantine.INDEXES,
    indexes.HEARTBEATS,
    *residents.INDEXES,
    Indexes(ZMount),
    indexes.WORKLOADS,
    residents.indexes(
        ZMachine,
        lambda machine: (machine.spec.network.name, machine.status.network),  # until it is restarted it is where it was
        lambda machine: (machine.status.network or machine.spec.network.name, machine.status.ip),
    ),
)


class _Waiting(Exception):
    """What the machine waits for; ends a resolution early."""

    def __init__(self, reason: Reason, message: str, *, stalled: bool = False) -> None:
        super().__init__(message)
        self.verdict = waiting(reason, message, stalled=stalled)

    @classmethod
    def because(cls, verdict: Verdict) -> _Waiting:
        return cls(verdict.reason, verdict.message, stalled=verdict.stalled)


@dataclass(frozen=True)
class _Disk:
    """A disk as the machine sees it: on ``node`` if it is somewhere, ``pinned`` if it can't move from there. ``there``: it has
    been made and is the machine's, so the machine can start with it, be it as large as is asked or not."""

    name: str
    path: str
    uid: str
    node: str | None
    pinned: bool
    there: bool
    size: int
    why: str = ""
    stalled: bool = False


def resolve(machine: ZMachine, world: Reader) -> Resolution:
    had = machine.status.node_name  # what it was told of goes before what any node says
    held = placement.held_on(world, machine.uid, had)
    network_key = Network.key_of(machine.namespace, machine.spec.network.name)
    if machine.deleting:
        pools = (network_key, *((GridNode.key_of("", held),) if held else ()))
        return Resolution(verdict=waiting(Reason.DELETING, "being stopped and removed"), releases=pools)
    node: str | None = had or held
    status = _status(machine, node, machine.status.ip, _public_before(machine), None, world)
    holds: tuple[Hold, ...] = ()
    try:
        legacy = _legacy(machine, node, world)
        network = _network(machine, world)
        disks = _disks(machine, world)
        public = _public(machine, world)
        node = _node(machine, world, node or (legacy.node if legacy else None), disks, network, public.farm if public else None)
        public_nic = _public_nic(public, node, world)
        capacity = _capacity(machine, node, legacy.adopt if legacy else None, world)
        holds = (capacity,)
        status = _status(machine, node, machine.status.ip, public, network, world)
        address = _address(machine, node, network, world)
        holds = (capacity, Hold(network_key, address))
        status = _status(machine, node, address.ip, public, network, world)
        for disk in disks:
            if disk.node != node or not disk.there:
                why = f" ({disk.why})" if disk.why else ""
                raise _Waiting(
                    Reason.DEPENDENCY_NOT_READY, f"disk {disk.name} is not ready on node {node} yet{why}", stalled=disk.stalled
                )
        secrets = _secrets(machine, world)
        part = _part(machine, node, address, network, disks).model_copy(
            update={
                "root_size": capacity.entry.storage,
                "public_nic": public_nic,
                "adopt": _adopted(machine, node, legacy, world),
            }
        )
        asked = asking.asked(world, node, part, secrets)
        if isinstance(asked, Verdict):
            raise _Waiting.because(asked)
    except _Waiting as problem:
        # What runs is left as it is, and where it is: a machine is not stopped because something it needed is gone.
        return Resolution(
            problem.verdict,
            status,
            holds=holds,
            workloads=_lessened(machine, node, world),
            conditions=_told(machine, node, world),
        )
    verdict, conditions = _judge(machine, node, world)
    return Resolution(
        verdict,
        status,
        holds=holds,
        workloads=(asked,),
        conditions=conditions,
    )


def _legacy(machine: ZMachine, node: str | None, world: Reader) -> Inheritance | None:
    """What nodes have of this machine, or of an earlier one of its name, from before its NodeWorkload was lost."""
    if node is not None and placement.gone(world, node):
        raise _Waiting.because(placement.removed(node))
    asked = machine.spec.node_name  # what another node says of a machine that is to be elsewhere is not asked for
    if (own := quarantine.own(machine, world)) is not None and node is None and asked in (None, own):
        return Inheritance(own)
    left = quarantine.inherited(machine, world)
    if node is None and left is not None and left.problem is not None and asked in (None, left.node):
        raise _Waiting.because(left.problem)
    return left if left is not None and left.adopt and node in (None, left.node) else None


def _adopted(machine: ZMachine, node: str, legacy: Inheritance | None, world: Reader) -> str | None:
    """Uid of the root in quarantine that is this machine's from now on. It stays said: the node may not have come to it yet."""
    if legacy is not None and legacy.adopt is not None:
        return legacy.adopt
    workload = _state(machine, node, world)
    part = workload.part(MachineOnNode) if workload is not None else None
    return part.adopt if part is not None else None


def _lessened(machine: ZMachine, node: str | None, world: Reader) -> tuple[Workload, ...] | None:
    """To stop, and to do without a public address, needs nothing that the machine may be waiting for: what was asked of the
    node, but for that."""
    workload = _state(machine, node, world)
    part = workload.part(MachineOnNode) if workload is not None else None
    if node is None or part is None:
        return None
    less: dict[str, object] = {}
    if machine.spec.run_policy is RunPolicy.HALTED:
        less["run_policy"] = RunPolicy.HALTED
    if machine.spec.public_ip is None and part.public_nic is not None:
        less["public_nic"] = None
    return (asking.unchanged_secrets(world, node, part.model_copy(update=less)),) if less else None


def _public_before(machine: ZMachine) -> tuple[str | None, str | None]:
    return (machine.status.public_ipv4, machine.status.public_ipv6) if machine.spec.public_ip is not None else (None, None)


def _network(machine: ZMachine, world: Reader) -> Net:
    found = residents.network(world, machine.namespace, machine.spec.network.name, machine.uid)
    if isinstance(found, Verdict):
        raise _Waiting.because(found)
    return found


def _disks(machine: ZMachine, world: Reader) -> tuple[_Disk, ...]:
    found: list[_Disk] = []
    for wish in machine.spec.disks:
        seen = world.view(
            ZMount,
            machine.namespace,
            wish.name,
            lambda mount: (
                mount.uid,
                mount.status.node_name,
                mount.status.used or mount.spec.node_name is not None,
                _standing(mount),
                mount.status.used_by,
                mount.deleting,
                mount.spec.size,
                mount.spec.node_name,
                mount.status.size is not None,
                mount.status.stalled,
            ),
        )
        if seen is None:
            raise _Waiting(Reason.DEPENDENCY_NOT_READY, f"disk {wish.name} does not exist: apply a ZMount of that name")
        uid, node, pinned, done, user, leaving, size, asked, made, stalled = seen
        if leaving and user != machine.name:
            raise _Waiting(Reason.DEPENDENCY_NOT_READY, f"disk {wish.name} is being deleted")
        if user is not None and user != machine.name:
            raise _Waiting(
                Reason.CONFLICT,
                f"disk {wish.name} is used by ZMachine {user}: a disk has one machine at a time, until that is restarted "
                "without it or deleted",
            )
        mine = user == machine.name  # the disk itself decides whose it is
        found.append(_Disk(wish.name, wish.mount_path, uid, node or asked, pinned, made and mine, size, done, stalled))
    return tuple(found)


def _standing(mount: ZMount) -> str:
    """Why a disk is not ready; empty: it is."""
    condition = mount.status.condition("Ready")
    if condition is not None and condition.status == "True":
        return ""
    return condition.reason if condition is not None else "nobody has looked at it yet"


def _public(machine: ZMachine, world: Reader) -> Public | None:
    found = publicaddress.find(machine, world)
    if isinstance(found, Verdict):
        raise _Waiting.because(found)
    return found


def _public_nic(public: Public | None, node: str, world: Reader) -> PublicNic | None:
    if public is None:
        return None
    interface = publicaddress.interface(public, node, world)
    if isinstance(interface, Verdict):
        raise _Waiting.because(interface)
    return public.nic(interface)


def _node(machine: ZMachine, world: Reader, held: str | None, disks: tuple[_Disk, ...], network: Net, farm: str | None) -> str:
    pinned = {disk.node: disk.name for disk in disks if disk.pinned and disk.node}
    need = _need(machine)
    need = need.model_copy(update={"storage": need.storage + sum(disk.size for disk in disks)})
    pinned_to = next(iter(pinned), None)
    chosen = placement.place(
        world, need, held=held, asked=machine.spec.node_name, pinned=pinned_to, preferred=network.subnets, farm=farm
    )
    if isinstance(chosen, Verdict):
        raise _Waiting.because(chosen)
    if len(pinned) > 1:
        where = ", ".join(f"{disk} on {node}" for node, disk in pinned.items())
        raise _Waiting(Reason.CONFLICT, f"its disks are on different nodes ({where}): a machine needs all on one")
    for node, disk in pinned.items():
        if node != chosen:
            raise _Waiting(Reason.CONFLICT, f"disk {disk} is on node {node}, the machine on {chosen}: a disk does not move")
    return chosen


def _need(machine: ZMachine, had: NodeHold | None = None, guest: Guest | None = None) -> Resources:
    """What the machine takes of its node, now or after its restart, whichever is more. Disks count for themselves; a root never
    shrinks, as little as a disk does."""
    spec = machine.spec
    cpu, memory = [spec.cpu], [spec.memory + GUEST_OVERHEAD]
    if guest is not None:
        for one in guest.possible:
            cpu.append(one.cpu)
            memory.append(one.memory + GUEST_OVERHEAD)
        if had is not None and not guest.settled:
            cpu.append(had.cpu)
            memory.append(had.memory)
    root = spec.root_size or minimum_root_size(spec.cpu, spec.memory)
    return Resources(
        cpu=max(cpu), memory=max(memory), storage=max(root, machine.status.root_size or 0, had.storage if had else 0)
    )


def _capacity(machine: ZMachine, node: str, adopt: str | None, world: Reader) -> Hold:
    need = _need(machine, placement.holding(world, machine.uid, node), guests.guest(_state(machine, node, world)))
    found = placement.keep(world, machine, node, need, adopt=adopt)
    if isinstance(found, Verdict):
        raise _Waiting.because(found)
    return found


def _address(machine: ZMachine, node: str, network: Net, world: Reader) -> NetworkAddress:
    before = machine.status.ip if machine.status.node_name == node else None
    found = residents.address(world, machine, network, node, machine.spec.network.ip, before)
    if isinstance(found, Verdict):
        raise _Waiting.because(found)
    return found


def _secrets(machine: ZMachine, world: Reader) -> tuple[SecretValue, ...]:
    found = environment.find(machine, world)
    if isinstance(found, Verdict):
        raise _Waiting.because(found)
    return found


def _part(machine: ZMachine, node: str, address: NetworkAddress, network: Net, disks: tuple[_Disk, ...]) -> MachineOnNode:
    spec = machine.spec
    nic = residents.nic(machine.uid, network, node, address.next or address.ip)
    return MachineOnNode(
        hostname=names.hostname(machine.name),
        image=spec.image,
        cpu=spec.cpu,
        memory=spec.memory,
        root_size=machine.spec.root_size,
        nics=(nic,),
        disks=tuple(DiskOnNode(name=disk.name, mount_uid=disk.uid, mount_path=disk.path) for disk in disks),
        entrypoint=spec.entrypoint,
        env={variable.name: variable.value for variable in spec.env if variable.value is not None},
        ssh_authorized_keys=spec.ssh_authorized_keys,
        run_policy=spec.run_policy,
        restarted_at=machine.metadata.annotations.get(RESTARTED_AT),
    )


def _state(machine: ZMachine, node: str | None, world: Reader) -> NodeWorkload | None:
    return guests.on_node(machine.uid, node, world)


def _status(
    machine: ZMachine,
    node: str | None,
    ip: str | None,
    public: Public | tuple[str | None, str | None] | None,
    network: Net | None,
    world: Reader,
) -> ZMachineStatus:
    """What the machine runs with; before that, or when it runs no more, what it is to run with (``ip``, ``public``)."""
    workload = _state(machine, node, world)
    state = (workload.state(MachineState) if workload else None) or MachineState()
    before, guest = machine.status, guests.guest(workload)
    runs = guest.runs if guest is not None else None
    ipv4, ipv6 = public if isinstance(public, tuple) else (public.ipv4, public.ipv6) if public else (None, None)
    if guest is not None and not guest.settled:
        ip = before.ip or ip
        if before.started_at is not None:
            ipv4, ipv6 = before.public_ipv4, before.public_ipv6
    elif runs is not None:
        ip = next((nic.ip for nic in runs.nics), ip)
        ipv4, ipv6 = (runs.public_nic.ipv4, runs.public_nic.ipv6) if runs.public_nic is not None else (None, None)
    return ZMachineStatus(
        node_name=node,
        mode=state.mode,
        network=_network_of(machine, guest, network),
        ip=ip,
        public_ipv4=ipv4 and host(ipv4),
        public_ipv6=ipv6 and host(ipv6),
        cpu=runs.cpu if runs is not None else None,
        memory=runs.memory if runs is not None else None,
        root_size=state.root_size or before.root_size,
        console=state.console,
        image_digest=state.image_digest,
        restarts=state.restarts,
        started_at=state.started_at,
        state=state.state,
    )


def _network_of(machine: ZMachine, guest: Guest | None, network: Net | None) -> str:
    """The network that it may be in: the one that it asks for only when it is known to be in no other."""
    asked, before = machine.spec.network.name, machine.status.network
    if guest is None or before in (None, asked):
        return asked
    uid = network.uid if network is not None else ""
    moved = guest.settled and all(nic.network_uid == uid for one in guest.possible for nic in one.nics)
    return asked if moved else before or asked


def _told(machine: ZMachine, node: str | None, world: Reader) -> tuple[Condition, ...]:
    """What the node says of the machine beside whether it is as asked."""
    workload = _state(machine, node, world)
    return tuple(
        Condition(type=other.type, status=other.status, reason=other.reason, message=other.message)
        for other in (workload.status.conditions if workload is not None else ())
        if other.type not in ("Ready", "Reconciling", "Stalled")
    )


def _judge(machine: ZMachine, node: str, world: Reader) -> tuple[Verdict, tuple[Condition, ...]]:
    if world.view(Heartbeat, "", node, lambda heartbeat: heartbeat.alive) is False:
        message = f"the agent of node {node} does not answer; the machine may still run"
        return waiting(Reason.NODE_UNREACHABLE, message), ()
    workload = _state(machine, node, world)
    condition = workload.status.condition("Ready") if workload else None
    if workload is None or condition is None or condition.observed_generation != workload.metadata.generation:
        return waiting(Reason.PROGRESSING, f"node {node} is making it"), ()
    further = _told(machine, node, world)
    if condition.status == "True":
        return Verdict(True, Reason.read(condition.reason), condition.message), further
    return waiting(Reason.read(condition.reason), condition.message), further
