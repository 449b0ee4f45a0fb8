"""The way of a machine to its node, step by step: each finds one thing that the next ones stand on, or says what is missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from zos.api import names
from zos.api.meta import RESTARTED_AT
from zos.api.resources import GUEST_OVERHEAD, NodeHold, Resources
from zos.api.zmachine import Firmware, ZMachine, minimum_root_size
from zos.kinds.zmachine import disks, environment, filesystems, publicaddress
from zos.kinds.zmachine.disks import disks_ready, find_disks, pinned
from zos.kinds.zmachine.filesystems import filesystems_ready, find_filesystems
from zos.kinds.zmachine.found import Found, Step, given
from zos.kinds.zmachine.part import DiskOnNode, FileSystemOnNode, MachineOnNode
from zos.plan.items.domain import STOP_SECONDS
from zos.world import asking, placement, pullsecrets, quarantine, residents, running
from zos.world.reader import Reader
from zos.world.resolution import SecretValue, Verdict
from zos.world.running import Running


def find_remains(found: Found, machine: ZMachine, world: Reader) -> tuple[Found, Verdict | None]:
    if found.node is not None and placement.gone(world, found.node):
        return found, placement.removed(found.node)
    left = quarantine.remains(machine, world, found.node, machine.spec.node_name)
    return (found, left) if isinstance(left, Verdict) else (replace(found, inherits=left), None)


def find_network(found: Found, machine: ZMachine, world: Reader) -> tuple[Found, Verdict | None]:
    net = residents.network(world, machine.namespace, machine.spec.network.name, machine.uid)
    return (found, net) if isinstance(net, Verdict) else (replace(found, net=net), None)


def find_public(found: Found, machine: ZMachine, world: Reader) -> tuple[Found, Verdict | None]:
    public = publicaddress.find(machine, world)
    return (found, public) if isinstance(public, Verdict) else (replace(found, public=public), None)


def choose_node(found: Found, machine: ZMachine, world: Reader) -> tuple[Found, Verdict | None]:
    """Where its root is goes first. It is not its node before it holds something there."""
    need = needs(machine)
    place = placement.place(
        world,
        need.model_copy(update={"storage": need.storage + sum(disk.size for disk in found.disks)}),
        held=found.node or (found.inherits.node if found.inherits is not None else None),
        asked=machine.spec.node_name,
        pinned=next(iter((*pinned(found.disks), *(one.node for one in found.filesystems))), None),
        preferred=given(found.net).subnets,
        farm=found.public.farm if found.public is not None else None,
    )
    if isinstance(place, Verdict):
        return found, place
    if (problem := disks.apart(found.disks, place) or filesystems.apart(found.filesystems, place)) is not None:
        return found, problem
    return replace(found, place=place, workload=running.on_node(machine.uid, place, world)), None


def find_segment(found: Found, machine: ZMachine, world: Reader) -> tuple[Found, Verdict | None]:
    """The interface of its node that its public address can be used on."""
    if (public := found.public) is None:
        return found, None
    interface = publicaddress.interface(public, given(found.place), world)
    if isinstance(interface, Verdict):
        return found, interface
    return replace(found, public_nic=public.nic(interface)), None


def hold_capacity(found: Found, machine: ZMachine, world: Reader) -> tuple[Found, Verdict | None]:
    """From here on it is on its node, with its public addresses."""
    place, public = given(found.place), found.public
    need = needs(machine, placement.holding(world, machine.uid, place), running.of(found.workload))
    adopt = found.inherits.adopt if found.inherits is not None else None
    hold = placement.keep(world, machine, place, need, adopt=adopt)
    if isinstance(hold, Verdict):
        return found, hold
    ipv4, ipv6 = (public.ipv4, public.ipv6) if public is not None else (None, None)
    return replace(found, node=place, capacity=hold, ipv4=ipv4, ipv6=ipv6), None


def hold_address(found: Found, machine: ZMachine, world: Reader) -> tuple[Found, Verdict | None]:
    node = given(found.node)
    before = machine.status.ip if machine.status.node_name == node else None
    address = residents.address(world, machine, given(found.net), node, machine.spec.network.ip, before)
    return (found, address) if isinstance(address, Verdict) else (replace(found, address=address, ip=address.ip), None)


def open_secrets(found: Found, machine: ZMachine, world: Reader) -> tuple[Found, Verdict | None]:
    secrets: tuple[SecretValue, ...] = ()
    for find in (environment.find, environment.user_data, _credentials):
        gathered = find(machine, world)
        if isinstance(gathered, Verdict):
            return found, gathered
        secrets += gathered
    return replace(found, secrets=secrets), None


def _credentials(machine: ZMachine, world: Reader) -> tuple[SecretValue, ...] | Verdict:
    return pullsecrets.find(machine, machine.spec.image, machine.spec.image_pull_secrets, world)


def ask_node(found: Found, machine: ZMachine, world: Reader) -> tuple[Found, Verdict | None]:
    node = given(found.node)
    wanted = part(found, machine, maintenance=placement.in_maintenance(world, node))
    asked = asking.asked(world, node, wanted, found.secrets)
    return (found, asked) if isinstance(asked, Verdict) else (replace(found, asked=asked), None)


_FIRMWARE: Mapping[Firmware, Literal["bios", "uefi"] | None] = {
    Firmware.AUTO: None,
    Firmware.BIOS: "bios",
    Firmware.UEFI: "uefi",
}

STEPS: tuple[Step, ...] = (
    find_remains,
    find_network,
    find_disks,
    find_filesystems,
    find_public,
    choose_node,
    find_segment,
    hold_capacity,
    hold_address,
    disks_ready,
    filesystems_ready,
    open_secrets,
    ask_node,
)


def needs(machine: ZMachine, had: NodeHold | None = None, guest: Running | None = None) -> Resources:
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
    return Resources(cpu=max(cpu), memory=max(memory), storage=_root(machine, had))


def _root(machine: ZMachine, had: NodeHold | None) -> int:
    """Bytes. A virtual machine has a root only if it had one before, as a container; as long as nobody knows which it is, there
    is room for one."""
    spec, made = machine.spec, machine.status.root_size or 0
    if machine.status.mode == "vm":
        return made
    return max(spec.root_size or minimum_root_size(spec.cpu, spec.memory), made, had.storage if had else 0)


def part(found: Found, machine: ZMachine, *, maintenance: bool) -> MachineOnNode:
    """What the node is asked for."""
    spec, address = machine.spec, given(found.address)
    return MachineOnNode(
        hostname=names.hostname(machine.name),
        image=spec.image,
        cpu=spec.cpu,
        memory=spec.memory,
        root_size=given(found.capacity).entry.storage,
        nics=(residents.nic(machine.uid, given(found.net), given(found.node), address.next or address.ip),),
        public_nic=found.public_nic,
        disks=tuple(DiskOnNode(name=disk.name, mount_uid=disk.uid, mount_path=disk.path) for disk in found.disks),
        boot_disk=spec.boot_disk.name if spec.boot_disk is not None else None,
        firmware=_FIRMWARE[spec.firmware],
        user_data=spec.user_data,
        stop_seconds=spec.stop_seconds if spec.stop_seconds != STOP_SECONDS else None,
        filesystems=tuple(
            FileSystemOnNode(
                **one.share.offer.model_dump(exclude={"read_only"}),
                kind=one.kind,
                name=one.name,
                uid=one.share.uid,
                mount_path=one.path,
                read_only=one.read_only,
            )
            for one in found.filesystems
        ),
        entrypoint=spec.entrypoint,
        env={variable.name: variable.value for variable in spec.env if variable.value is not None},
        ssh_authorized_keys=spec.ssh_authorized_keys,
        run_policy=spec.run_policy,
        maintenance=maintenance,
        restarted_at=machine.metadata.annotations.get(RESTARTED_AT),
        adopt=_adopted(found),
    )


def _adopted(found: Found) -> str | None:
    """Uid of the root in quarantine that is this machine's from now on. It stays said: the node may not have come to it yet."""
    if found.inherits is not None and found.inherits.adopt is not None:
        return found.inherits.adopt
    before = found.workload.part(MachineOnNode) if found.workload is not None else None
    return before.adopt if before is not None else None
