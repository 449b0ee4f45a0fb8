"""Who is in a network: the machines that have an address in it, and the nodes that it spans."""

from __future__ import annotations

from dataclasses import dataclass

from zos.api.gridnode import GridNode
from zos.api.meta import Reason
from zos.api.network import Network, NetworkAddress
from zos.api.text import is_name
from zos.api.zmachine import ZMachine
from zos.kinds.network.problems import Problem, Problems, Rank
from zos.world import quarantine
from zos.world.objects import Indexes, Unreadable
from zos.world.reader import Reader


@dataclass(frozen=True)
class Machine:
    """One that is in the network or has an address there, and its node as far as it has one."""

    uid: str
    name: str
    node: str | None


def networks_of(machine: ZMachine) -> frozenset[str]:
    """Where a machine is to be, and where it is until it is restarted."""
    return frozenset(filter(None, (machine.spec.network.name, machine.status.network)))


INDEXES = (
    *quarantine.INDEXES,
    Indexes(ZMachine, {"network": lambda machine: {f"{machine.namespace}/{name}" for name in networks_of(machine)}}),
)


def machines(network: Network, world: Reader) -> tuple[tuple[Machine, ...], tuple[NetworkAddress, ...]]:
    """All machines of the network, and the addresses that are held: all but those of machines that are known to be gone, or to
    be in another network now."""
    here = world.views(ZMachine, _machine, network=f"{network.namespace}/{network.name}")
    living = {machine.uid for machine in here}
    held = tuple(entry for entry in network.status.addresses if entry.uid in living or not _left(entry, network, world))
    lingering = (Machine(entry.uid, entry.machine, entry.node) for entry in held if entry.uid not in living)
    return (*here, *lingering), held


def _machine(machine: ZMachine) -> Machine:
    return Machine(machine.uid, machine.name, machine.status.node_name)


def _left(entry: NetworkAddress, network: Network, world: Reader) -> bool:
    """Whether nobody has the address any more: its machine is gone from the node as well, or is in another network."""
    try:
        seen = world.view(ZMachine, network.namespace, entry.machine, lambda machine: (machine.uid, networks_of(machine)))
    except Unreadable:
        return False
    if seen is not None and seen[0] == entry.uid:
        return network.name not in seen[1]
    return not quarantine.lingers(entry.uid, entry.node, world)


def lives(machine: Machine, network: Network, world: Reader) -> bool:
    """Whether its object is there. One that can't be read is."""
    try:
        return world.view(ZMachine, network.namespace, machine.name, lambda found: found.uid) == machine.uid
    except Unreadable:
        return True


def nodes(network: Network, here: tuple[Machine, ...], world: Reader) -> tuple[tuple[str, ...], Problems]:
    """Names of the nodes: listed ones in their order, then those that machines brought in, in the order they came. A node that
    is being deleted goes with its last machine."""
    problems: list[Problem] = []
    listed = [node.name for node in network.spec.nodes if is_name(node.name)]
    if no_names := [node.name for node in network.spec.nodes if not is_name(node.name)]:  # from before admission looked at it
        message = f"no node can be called {', '.join(no_names)}: correct or remove it in spec.nodes"
        problems.append(Problem(Rank.MEMBERS, Reason.INVALID_SPEC, message))
    housing = dict.fromkeys(machine.node for machine in here if machine.node)
    came = [node.name for node in network.status.nodes if node.name in housing]
    found = tuple(dict.fromkeys([*listed, *came, *housing]))
    leaving = [name for name in found if name not in housing and world.view(GridNode, "", name, lambda node: node.deleting)]
    for name in leaving:
        message = f"node {name} is being deleted: take it out of spec.nodes"
        problems.append(Problem(Rank.MEMBERS, Reason.DEPENDENCY_NOT_READY, message))
    return tuple(name for name in found if name not in leaving), tuple(problems)
