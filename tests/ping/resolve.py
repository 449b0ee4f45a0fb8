"""Ping: where it runs, its address, and what its node must make of it."""

from __future__ import annotations

from functools import partial

from ping.model import Ping
from ping.part import LIMITS, WORD, PingOnNode, PingState
from zos.api.core import Secret
from zos.api.gridnode import GridNode
from zos.api.meta import Reason
from zos.api.network import Network
from zos.api.nodeworkload import NodeWorkload
from zos.api.resources import Resources
from zos.world import asking, placement, quarantine, residents, running, shares
from zos.world.objects import Indexes
from zos.world.reader import Reader
from zos.world.resolution import Hold, Resolution, SecretValue, Verdict, waiting

INDEXES = (
    *asking.INDEXES,
    *placement.INDEXES,
    *quarantine.INDEXES,
    quarantine.heirs(Ping),
    *residents.INDEXES,
    *shares.INDEXES,
    shares.givers(Ping),
    Indexes(Secret),
    residents.indexes(Ping, lambda ping: (ping.spec.network.name,), lambda ping: (ping.spec.network.name, ping.status.ip)),
)


def resolve(ping: Ping, world: Reader) -> Resolution:
    held = placement.held_on(world, ping.uid, ping.status.node_name)
    pool = Network.key_of(ping.namespace, ping.spec.network.name)
    if ping.deleting:
        pools = (pool, *((GridNode.key_of("", held),) if held else ()))
        going = waiting(Reason.DELETING, "being stopped and removed")
        return Resolution(going, releases=pools, waits_for=shares.users(world, ping))
    status = ping.status.model_copy(update={"node_name": ping.status.node_name or held})
    net = residents.network(world, ping.namespace, ping.spec.network.name, ping.uid)
    if isinstance(net, Verdict):
        return Resolution(net, status)
    left = quarantine.remains(ping, world, status.node_name, ping.spec.node_name)
    if isinstance(left, Verdict):
        return Resolution(left, status)
    need, there = Resources(memory=LIMITS.held, storage=ping.spec.size), left.node if left is not None else None
    node = placement.place(world, need, held=status.node_name or there, asked=ping.spec.node_name, preferred=net.subnets)
    if isinstance(node, Verdict):
        return Resolution(node, status)
    adopt = left.adopt if left is not None else None
    capacity = placement.keep(world, ping, node, need, adopt=adopt)
    if isinstance(capacity, Verdict):
        return Resolution(capacity, status)
    status = status.model_copy(update={"node_name": node})
    address = residents.address(world, ping, net, node, ping.spec.network.ip, ping.status.ip)
    if isinstance(address, Verdict):
        return Resolution(address, status, holds=(capacity,))
    holds = (capacity, Hold(pool, address))
    status = status.model_copy(update={"ip": address.ip})
    word = _word(ping, world)
    if isinstance(word, Verdict):
        return Resolution(word, status, holds=holds)
    workload = running.on_node(ping.uid, node, world)
    nic = residents.nic(ping.uid, net, node, address.next or address.ip)
    before = workload.part(PingOnNode) if workload is not None else None
    part = PingOnNode(
        nic=nic,
        size=ping.spec.size,
        holds_data=there == node or _has_run(workload),
        adopt=adopt or (before.adopt if before is not None else None),  # it stays said: the node may not have come to it yet
    )
    asked = asking.asked(world, node, part, (word,))
    if isinstance(asked, Verdict):
        return Resolution(asked, status, holds=holds)
    said = workload.state(PingState) if workload is not None else None
    used = said.used if said is not None else status.used
    verdict, conditions = asking.answered(world, node, workload, "the program may still run")
    return Resolution(verdict, status.model_copy(update={"used": used}), holds=holds, workloads=(asked,), conditions=conditions)


def _word(ping: Ping, world: Reader) -> SecretValue | Verdict:
    ref = ping.spec.word_from.secret_key_ref
    version = world.view(Secret, ping.namespace, ref.name, lambda secret: f"{secret.uid}/{secret.metadata.resource_version}")
    text = world.untracked.view(Secret, ping.namespace, ref.name, partial(Secret.read, key=ref.key)) if version else None
    if not isinstance(text, str):
        return waiting(Reason.DEPENDENCY_NOT_READY, f"Secret {ref.name} has no key {ref.key} with a text: add it")
    return SecretValue(WORD, f"{version}/{ref.key}", text)


def _has_run(workload: NodeWorkload | None) -> bool:
    """A node that has said how it stands has made what it keeps."""
    part = workload.part(PingOnNode) if workload is not None else None
    state = workload.state(PingState) if workload is not None else None
    return (part is not None and part.holds_data) or (state is not None and state.used is not None)
