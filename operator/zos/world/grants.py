"""What of a node only one object can have: a UDP port, and a WireGuard key that the node has the private half of.

A hold records both (`placement.hold`), whatever kind its holder is of; what is in quarantine keeps its port.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from zos.api.gridnode import GridNode


@dataclass(frozen=True)
class Grants:
    """A node's ports and keys as one object sees them: ``ports`` and ``keys`` are those of others; ``port`` and ``key`` what
    the object holds itself, both None where it holds nothing there."""

    node: GridNode
    ports: frozenset[int]
    keys: frozenset[str]
    holds: bool
    port: int | None
    key: str | None

    @property
    def free_port(self) -> int | None:
        """The lowest of the node's range that nobody else has. None: all are used."""
        span = self.node.spec.wireguard_ports
        return next((port for port in range(span.from_, span.to + 1) if port not in self.ports), None)

    def free_key(self, fits: Callable[[str], bool]) -> str | None:
        """The first of those that the node's agent offers that nobody else has and that ``fits``. None: there is none."""
        return next((key for key in self.node.status.prekeys if key not in self.keys and fits(key)), None)


def on(node: GridNode, uid: str) -> Grants:
    """Those of a node, as the object with that uid sees them."""
    status = node.status
    others, hold = [hold for hold in status.holds if hold.uid != uid], status.by_holder.get(uid)
    ports = {other.listen_port for other in others} | {left.listen_port for left in status.quarantine if left.uid != uid}
    return Grants(
        node=node,
        ports=frozenset(port for port in ports if port is not None),
        keys=frozenset(other.public_key for other in others if other.public_key is not None),
        holds=hold is not None,
        port=hold.listen_port if hold is not None else None,
        key=hold.public_key if hold is not None else None,
    )
