"""WireGuard interfaces and their peers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from zos.plan.items.item import Held, Item, Rank


@dataclass(frozen=True, kw_only=True)
class WireGuardPeer:
    """``endpoint`` is ``host:port`` (IPv6 in brackets), None where the other side calls us; ``keepalive`` in seconds."""

    public_key: str
    endpoint: str | None = None
    allowed_ips: tuple[str, ...] = ()
    keepalive: int = 0


@dataclass(frozen=True, kw_only=True)
class WireGuard(Item):
    """A WireGuard interface in ``netns`` whose UDP socket stays in the node's namespace.

    ``public_key`` selects the node's key pair. ``addresses`` are CIDRs; ``routes`` are destinations that go into it.
    ``peers`` are sorted by public key.
    """

    netns: str
    name: str
    public_key: str
    listen_port: int
    mtu: int
    addresses: tuple[str, ...]
    routes: tuple[str, ...]
    peers: tuple[WireGuardPeer, ...]

    FAMILY: ClassVar[str] = "wireguard"
    RANK: ClassVar[int] = Rank.TUNNEL

    @property
    def key(self) -> str:
        return f"{self.FAMILY}/{self.netns}/{self.name}"

    def grounds(self) -> Iterator[str]:
        yield f"netns/{self.netns}"

    def exclusives(self) -> Iterator[str]:
        yield f"port {self.listen_port}"

    @property
    def held(self) -> Held:
        ports = (self.listen_port,) if self.listen_port else ()
        return Held(alive=True, ports=ports, public_keys=(self.public_key,))
