"""What a Network asks of a node, and what the node says of it."""

from __future__ import annotations

import hashlib
from typing import Annotated, ClassVar

from pydantic import Field

from zos.api.meta import Model
from zos.api.nodeworkload import Part, State
from zos.api.schema import at_most
from zos.api.text import Cidr, HostPort, Ipv4, Mtu, Name, Port, PublicKey, Range, only, word

#: As many as a node's resolver is told; what is beyond has no name.
MOST_NAMES = 8192


class Peer(Model):
    """A WireGuard peer."""

    public_key: PublicKey
    endpoint: HostPort | None = None
    """``host:port`` with IPv6 in brackets. Absent: the peer connects to this node."""

    allowed_ips: tuple[Cidr, ...] = Field(default=(), json_schema_extra=at_most(16384))
    """What the peer answers for, as CIDRs."""

    keepalive: Port | None = None
    """Seconds. Absent: none is sent."""


class EgressOnNode(Model):
    """Where what runs in a network may connect to through the node, beside what the node itself knows to be closed: its own
    addresses and the networks that it is connected to."""

    deny: tuple[Cidr, ...] = Field(default=(), max_length=64)
    """Closed, CIDRs."""

    allow: tuple[Cidr, ...] = Field(default=(), max_length=64)
    """Open, CIDRs. Stands above everything."""

    public: tuple[Range, ...] = Field(default=(), max_length=8192)
    """What farms give to machines: open although the node is connected to it. CIDRs, or the first and the last address with a
    dash between."""


class NameOnNode(Model):
    """What has a name in the network."""

    name: Name
    """Without the network's domain."""

    ip: Ipv4


class NamesOnNode(Model):
    """What a network's resolver answers for."""

    domain: Name
    """``<network>.zos``."""

    names: tuple[NameOnNode, ...] = Field(default=(), json_schema_extra=at_most(MOST_NAMES))
    """All of the network, sorted."""


class NetworkOnNode(Part):
    """A Network's part on this node."""

    SINCE: ClassVar[tuple[int, int]] = (0, 1)

    ip_range: Cidr
    """The whole network."""

    mtu: Mtu
    subnet: Cidr
    """This node's /24."""

    wireguard_address: Ipv4
    """100.64.b.c, in the interface's prefix (`zos.api.network.wireguard_range`)."""

    listen_port: Port
    public_key: PublicKey
    """One of the node's prekeys; the node has the private half."""

    peers: tuple[Peer, ...] = Field(default=(), json_schema_extra=at_most(8192))
    egress: EgressOnNode = Field(default_factory=EgressOnNode)
    names: NamesOnNode | None = None
    """Absent: nobody asks this node."""

    @property
    def keys(self) -> frozenset[str]:
        return frozenset({self.public_key})

    def awaited(self) -> NetworkOnNode:
        """Machines come and go, and their names with them, without its being less of a network."""
        return self.model_copy(update={"names": None})

    @property
    def mark(self) -> str:
        """Of what is awaited of it: for a node to say which it has carried out."""
        return hashlib.sha256(self.awaited().model_dump_json().encode()).hexdigest()[:16]


class NetworkState(State):
    """What the agent sees of the network."""

    done: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$", max_length=16)] | None = None
    """The mark of the part that the node has carried out, whatever names are in it."""

    lost_key: PublicKey | None = None
    """The WireGuard public key of the spec whose private half this node has lost: another one is to be chosen."""

    silent: Annotated[tuple[PublicKey, ...], only(word)] = Field(default=(), json_schema_extra=at_most(1024))
    """Public keys of peers that were called and have never answered."""

    @property
    def marked(self) -> bool:
        return self.done is not None
