"""What a machine's status says: what it runs with, so far as it is known."""

from __future__ import annotations

from zos.api.text import host
from zos.api.zmachine import ZMachine, ZMachineStatus
from zos.kinds.zmachine.found import Found
from zos.kinds.zmachine.part import MachineState
from zos.world import running, usage
from zos.world.reader import Reader
from zos.world.residents import Net
from zos.world.running import Running


def status(found: Found, machine: ZMachine, world: Reader) -> ZMachineStatus:
    """What the machine runs with; before that, or when it runs no more, what it is to run with as far as it has got it."""
    workload, before = found.workload, machine.status
    state = (workload.state(MachineState) if workload else None) or MachineState()
    guest = running.of(workload)
    runs = guest.runs if guest is not None else None
    ip, ipv4, ipv6 = found.ip, found.ipv4, found.ipv6
    if guest is not None and not guest.settled:
        ip = before.ip or ip
        if before.started_at is not None:
            ipv4, ipv6 = before.public_ipv4, before.public_ipv6
    elif runs is not None:
        ip = next((nic.ip for nic in runs.nics), ip)
        ipv4, ipv6 = (runs.public_nic.ipv4, runs.public_nic.ipv6) if runs.public_nic is not None else (None, None)
    return ZMachineStatus(
        node_name=found.node,
        mode=state.mode,
        kernel=state.kernel,
        network=_network(machine, guest, found.net),
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
        accelerator=state.accelerator,
        state=state.state,
        usage=usage.of_machine(world, found.node, machine.uid) if found.node is not None and runs is not None else None,
    )


def _network(machine: ZMachine, guest: Running | None, net: Net | None) -> str:
    """The network that it may be in: the one that it asks for only when it is known to be in no other."""
    asked, before = machine.spec.network.name, machine.status.network
    if guest is None or before in (None, asked):
        return asked
    uid = net.uid if net is not None else ""
    moved = guest.settled and all(nic.network_uid == uid for one in guest.possible for nic in one.nics)
    return asked if moved else before or asked
