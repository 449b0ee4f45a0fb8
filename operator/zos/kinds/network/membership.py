"""Who is in a network: what has an address in it, of whatever kind, and the nodes that it spans."""

from __future__ import annotations

from zos.api.gridnode import GridNode
from zos.api.meta import Reason
from zos.api.network import Network, NetworkAddress
from zos.api.text import is_name
from zos.kinds.network.problems import Problem, Problems, Rank
from zos.world import quarantine, residents
from zos.world.reader import Reader
from zos.world.residents import Resident

INDEXES = quarantine.INDEXES


def residents_of(network: Network, world: Reader) -> tuple[tuple[Resident, ...], tuple[NetworkAddress, ...]]:
    """All residents of the network, and the addresses that are held: all but those of residents that are known to be gone, or
    to be in another network now."""
    here = residents.living(world, network.namespace, network.name)
    living = {one.uid for one in here}
    held = tuple(entry for entry in network.status.addresses if entry.uid in living or not _left(entry, network, world))
    lingering = (
        Resident(entry.owner.kind, entry.uid, entry.owner.name, entry.node) for entry in held if entry.uid not in living
    )
    return (*here, *lingering), held


def _left(entry: NetworkAddress, network: Network, world: Reader) -> bool:
    """Whether nobody has the address any more: its owner, who does not ask for this network, is in another one, or is gone from
    the node as well."""
    lives = residents.lives(world, network.namespace, entry.owner)
    if lives is None:
        return False
    return lives or not quarantine.lingers(entry.uid, entry.node, world)


def nodes(network: Network, here: tuple[Resident, ...], world: Reader) -> tuple[tuple[str, ...], Problems]:
    """Names of the nodes: listed ones in their order, then those that residents brought in, in the order they came. A node
    that is being deleted goes with its last resident."""
    problems: list[Problem] = []
    listed = [node.name for node in network.spec.nodes if is_name(node.name)]
    if no_names := [node.name for node in network.spec.nodes if not is_name(node.name)]:  # from before admission looked at it
        message = f"no node can be called {', '.join(no_names)}: correct or remove it in spec.nodes"
        problems.append(Problem(Rank.MEMBERS, Reason.INVALID_SPEC, message))
    housing = dict.fromkeys(one.node for one in here if one.node)
    came = [node.name for node in network.status.nodes if node.name in housing]
    found = tuple(dict.fromkeys([*listed, *came, *housing]))
    leaving = [name for name in found if name not in housing and world.view(GridNode, "", name, lambda node: node.deleting)]
    for name in leaving:
        message = f"node {name} is being deleted: take it out of spec.nodes"
        problems.append(Problem(Rank.MEMBERS, Reason.DEPENDENCY_NOT_READY, message))
    return tuple(name for name in found if name not in leaving), tuple(problems)
