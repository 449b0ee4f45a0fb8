"""What is known of the node's networks."""

from __future__ import annotations

from dataclasses import dataclass

from zos.plan.facts.fact import Fact


@dataclass(frozen=True)
class ConnectedFact(Fact):
    """The networks that the node is connected to, in CIDR form. One, without a name; none: nobody could look yet."""

    networks: tuple[str, ...]


@dataclass(frozen=True)
class ShutFact(Fact):
    """What in the node's firewall stops guests: of a router, or of the guard of a public interface."""

    by: str


@dataclass(frozen=True)
class SilentFact(Fact):
    """Of a WireGuard interface: public keys of peers that were called and have never answered."""

    peers: frozenset[str]


@dataclass(frozen=True)
class LostKeyFact(Fact):
    """A WireGuard public key that a workload names and whose private half is not on this node."""
