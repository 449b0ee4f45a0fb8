"""Who is in networks, and the addresses that they have there: the same for whatever runs in one, a guest or a program.

A kind whose objects have an address in a network declares `indexes` for its model, and says in ``status.nodeName`` where an
object is: that node then joins the network. Resolving an object goes through `network`, `address` and `nic`, in that order.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Any, TypeVar

from zos.api import names
from zos.api.meta import Key, Object, Reason
from zos.api.network import AddressOwner, Network, NetworkAddress
from zos.api.nodeworkload import Nic, RunningNic
from zos.world import quarantine, running
from zos.world.objects import Indexes
from zos.world.reader import Reader
from zos.world.resolution import Verdict, waiting

INDEXES = (Indexes(Network), *running.INDEXES, *quarantine.INDEXES)

#: What objects of every kind of residents are found by: the network, and an address there.
BY_NETWORK, BY_ADDRESS = "network", "address"

T = TypeVar("T", bound=Object)


def indexes(
    model: type[T], networks: Callable[[T], Iterable[str | None]], runs_with: Callable[[T], tuple[str, str | None]]
) -> Indexes:
    """How residents of a kind are found. ``networks`` names those that an object is to be in, or may be in still;
    ``runs_with`` is the network and the address of which its own status says that it has it."""

    def by_network(obj: T) -> set[str]:
        return {f"{obj.namespace}/{name}" for name in networks(obj) if name}

    def by_address(obj: T) -> dict[str, str]:
        network, ip = runs_with(obj)
        return {f"{obj.namespace}/{network}/{ip}": obj.uid} if ip else {}

    return Indexes(model, {BY_NETWORK: by_network, BY_ADDRESS: by_address})


@dataclass(frozen=True)
class Resident:
    """One that is in a network or has an address there, and its node as far as it has one."""

    kind: str
    uid: str
    name: str
    node: str | None

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


def living(world: Reader, namespace: str, network: str) -> tuple[Resident, ...]:
    """All that are to be in a network, or may be in it still; kind by kind, oldest first."""
    key = f"{namespace}/{network}"
    models = world.indexed_by(BY_NETWORK)
    return tuple(one for model in models for one in world.views(model, _resident, network=key))


def _resident(obj: Any) -> Resident:
    return Resident(obj.KIND, obj.uid, obj.name, obj.status.node_name)


def lives(world: Reader, namespace: str, owner: Resident | AddressOwner) -> bool | None:
    """Whether there is such a resident. None: it can't be told."""
    if owner.kind not in [model.KIND for model in world.indexed_by(BY_NETWORK)]:
        return None
    return world.lives(owner.kind, namespace, owner.name, owner.uid)


@dataclass(frozen=True)
class Net:
    """A network as its residents see it. ``subnets`` by node, of those that have joined."""

    key: Key
    uid: str
    ip_range: str
    mtu: int
    subnets: Mapping[str, str]
    addresses: tuple[NetworkAddress, ...]
    stalled: bool


def network(world: Reader, namespace: str, name: str, uid: str) -> Net | Verdict:
    """The network that an object (``uid``) asks for, or why it has to wait for it."""
    found = world.view(Network, namespace, name, _net)
    if found is None:
        return waiting(Reason.DEPENDENCY_NOT_READY, f"network {name} does not exist in this namespace: apply it")
    leaving, net = found
    if leaving and not any(entry.uid == uid for entry in net.addresses):
        return waiting(Reason.DEPENDENCY_NOT_READY, f"network {name} is being deleted: apply it again when it is gone")
    return net


def _net(found: Network) -> tuple[bool, Net]:
    status = found.status
    subnets = {node.name: node.subnet for node in status.nodes if node.public_key}
    spec = found.spec
    return found.deleting, Net(found.key, found.uid, spec.ip_range, spec.mtu, subnets, status.addresses, status.stalled)


def address(
    world: Reader, obj: Object, net: Net, node: str, asked: str | None = None, before: str | None = None
) -> NetworkAddress | Verdict:
    """The address of an object on its node, to be held at once: what it has, what it asks for, or the lowest free one.

    What it may run with stays its own until its node has said otherwise; what it asks for instead is held beside that.
    ``before`` is what its status says that it had on this node, for a network that was made anew.
    """
    name = net.key.name
    if node not in net.subnets:
        how = "its own conditions say why" if net.stalled else "it joins by itself"
        message = f"network {name} is not on node {node} yet: {how}"
        return waiting(Reason.DEPENDENCY_NOT_READY, message, stalled=net.stalled)
    subnet = IPv4Network(net.subnets[node])
    entry = next((entry for entry in net.addresses if entry.uid == obj.uid and entry.node == node), None)
    had = entry.ip if entry is not None else None
    keeps = entry is not None and asked in (None, entry.ip, entry.next)
    left = frozenset[str]() if keeps else quarantine.private_addresses(node, net.uid, obj.uid, world)
    taken = _taken(net, obj.uid)
    owner = AddressOwner(kind=obj.KIND, name=obj.name, uid=obj.uid)
    if asked is not None:
        if (problem := _problem(asked, net, subnet, node, taken, left)) is not None:
            return problem
        if had is not None and had != asked and _may_run_with(obj.uid, node, net, had, world):
            return NetworkAddress(ip=had, owner=owner, node=node, next=asked)
    used = taken.keys() | left
    if had is None and _free(before, obj, net, subnet, used, world):
        had = before
    hosts = (str(subnet[number]) for number in range(2, subnet.num_addresses - 1))
    ip = asked or had or next((host for host in hosts if _free(host, obj, net, subnet, used, world)), None)
    if ip is None:
        some = f", {len(left)} of them in quarantine there" if left else ""
        message = f"all 253 addresses of {subnet} (network {name}, node {node}) are used{some}: free some, or use another node"
        return waiting(Reason.INSUFFICIENT_CAPACITY, message)
    return NetworkAddress(ip=ip, owner=owner, node=node)


def nic(uid: str, net: Net, node: str, ip: str) -> Nic:
    """The interface that an object (``uid``) has with this address on that node."""
    subnet = IPv4Network(net.subnets[node])
    return Nic(
        network_uid=net.uid,
        mac=names.mac(f"{uid}/{net.uid}"),
        ip=ip,
        prefixlen=subnet.prefixlen,
        gateway=str(subnet[1]),
        mtu=net.mtu,
        ip_range=net.ip_range,
        domain=names.domain_name(net.key.name),
    )


def _taken(net: Net, uid: str) -> dict[str, NetworkAddress]:
    others = (entry for entry in net.addresses if entry.uid != uid)
    return {ip: entry for entry in others for ip in (entry.ip, entry.next) if ip is not None}


def _problem(
    asked: str, net: Net, subnet: IPv4Network, node: str, taken: Mapping[str, NetworkAddress], left: Container[str]
) -> Verdict | None:
    """Why nobody, or nobody else, can have the address that is asked for."""
    others = f"take another of {subnet[2]} to {subnet[-2]}, or leave it out"
    if IPv4Address(asked) not in subnet:
        message = f"network.ip {asked} is outside {subnet}, the sub-range of {net.key.name} on node {node}: {others}"
        return waiting(Reason.INVALID_SPEC, message)
    if asked in (str(subnet[0]), str(subnet[1]), str(subnet[-1])):
        return waiting(Reason.INVALID_SPEC, f"network.ip {asked} is the network's own: {others}")
    if asked in taken:
        return waiting(Reason.CONFLICT, f"network.ip {asked} is taken by {taken[asked].owner}: {others}")
    if asked in left:
        message = (
            f"what is in quarantine on node {node} runs with network.ip {asked}: an administrator decides in "
            f"spec.quarantine of GridNode {node}"
        )
        return waiting(Reason.CONFLICT, message)
    return None


def _may_run_with(uid: str, node: str, net: Net, ip: str, world: Reader) -> bool:
    there = running.of(running.on_node(uid, node, world))
    if there is None:
        return False
    held = RunningNic(network_uid=net.uid, ip=ip)
    return not there.settled or any(held in one.nics for one in there.possible)


def _free(ip: str | None, obj: Object, net: Net, subnet: IPv4Network, used: Container[str], world: Reader) -> bool:
    """Whether an object may take an address: nobody holds it, and no other runs with it that the network does not know yet."""
    if ip is None or ip in used or IPv4Address(ip) not in subnet:
        return False
    key = f"{net.key.namespace}/{net.key.name}/{ip}"
    runs = (uid for model in world.indexed_by(BY_ADDRESS) for uid in world.untracked.parts(model, address=key))
    return all(uid == obj.uid for uid in runs)
