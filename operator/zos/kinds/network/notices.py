"""What is told of a network's way: which nodes and laptops it has."""

from __future__ import annotations

from zos.api.meta import Reason
from zos.api.network import Network, NetworkAccessStatus, NetworkStatus
from zos.world.reader import Reader
from zos.world.resolution import Notice, Resolution


def notices(network: Network, found: Resolution, world: Reader) -> tuple[Notice, ...]:
    """What has happened since the status was written last. A node has joined when it is ready for the first time with the key
    that it has: one that was silent and is back has not left."""
    before, after = network.status, found.status
    assert isinstance(after, NetworkStatus)
    were = {node.name for node in before.nodes if node.ready}
    had = {laptop.name for laptop in before.access if _usable(laptop)}
    return (
        *(
            Notice(Reason.JOINED, f"node {node.name} with {node.subnet}", once=f"{node.name}/{node.public_key}")
            for node in after.nodes
            if node.ready and node.name not in were
        ),
        *(
            Notice(Reason.JOINED, _of_laptop(laptop), once=f"access/{laptop.name}/{laptop.public_key}")
            for laptop in after.access
            if _usable(laptop) and laptop.name not in had
        ),
    )


def _usable(laptop: NetworkAccessStatus) -> bool:
    return laptop.public_key is not None and laptop.node is not None and laptop.message is None


def _of_laptop(laptop: NetworkAccessStatus) -> str:
    file = f"; its file is in Secret {laptop.secret}" if laptop.secret is not None else ""
    return f"laptop {laptop.name} with {laptop.subnet}, through node {laptop.node}{file}"
