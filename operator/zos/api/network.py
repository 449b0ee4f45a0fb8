"""Network: a private network that spans nodes over WireGuard."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator
from pydantic.json_schema import SkipJsonSchema

from zos.api import olderform
from zos.api.meta import Model, Object, Status
from zos.api.schema import AGE, READY, REASON, Column, Rule, at_most, ipv4_range, keyed, named, rules, subrange
from zos.api.text import (
    KEY,
    NO_PAIR,
    Cidr,
    HostPort,
    Ipv4,
    KindName,
    Label,
    Line,
    Message,
    Name,
    Port,
    PublicKey,
    Uid,
    otherwise,
)

#: Where the WireGuard addresses of every network lie (RFC 6598 space, so no private range collides).
WIREGUARD_RANGE = "100.64.0.0/16"

#: Type of the condition that says what in a node's firewall keeps machines from the Internet.
EGRESS_BLOCKED = "EgressBlocked"
#: Type of the condition that says which nodes don't answer others over WireGuard.
MESH_BLOCKED = "MeshBlocked"
#: Type of the condition that says on which nodes machines can't resolve names.
NAMES_DOWN = "NamesDown"
#: Type of the condition that says that a network has more names than its resolvers are told.
NAMES_MISSING = "NamesMissing"

#: Below which all names of all networks are; nobody outside answers for it.
TOP_DOMAIN = "zos"


def wireguard_range(ip_range: str) -> IPv4Network:
    """Where those of one network lie: as ``a.b.c.0/24`` of it has 100.64.b.c, 10.20.0.0/16 has 100.64.20.0/24. So networks
    whose ranges differ in their second and third number share none."""
    network = IPv4Network(ip_range)
    _, b, c, _ = network.network_address.packed
    return IPv4Network((IPv4Address(bytes([100, 64, b, c])), network.prefixlen + 8))


class NetworkNode(Model):
    """A node that is part of the network from the start; nodes that get a machine join by themselves."""

    name: str = Field(min_length=1, max_length=253, json_schema_extra=rules(named("nodes[].name")))
    """The GridNode's name."""

    subnet: str | None = Field(default=None, max_length=18, json_schema_extra=rules(subrange("nodes[].subnet")))
    """Its sub-range, a /24 inside ``ipRange`` like 10.20.5.0/24, kept for the network's life; the node itself has the first
    address. Absent: the lowest free /24, from the third of the range on."""


class NetworkAccess(Model):
    """A laptop, or anything else outside the grid that speaks WireGuard. Its wg-quick file is put into a Secret. It can be in
    several networks at a time whose ranges differ in their second and third number, like 10.20.0.0/16 and 10.21.0.0/16: save
    each file under another name, which becomes the interface's."""

    name: str = Field(max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    """A name of your choice. The wg-quick file is key ``wg0.conf`` of Secret ``<network>-<name>-wireguard``, whose name is
    shortened where that is too long: ``status.access[].secret`` has it."""

    public_key: str | None = Field(
        default=None,
        max_length=44,
        json_schema_extra=rules(
            Rule(
                f"self.matches('{KEY}')",
                "access[].publicKey must be a WireGuard public key: 44 characters of base64, as `wg pubkey` prints it",
            ),
            Rule(
                " && ".join(f"!self.matches('{pattern}')" for pattern in NO_PAIR),
                "access[].publicKey must be the public half of a pair, as `wg pubkey` prints it: this one has no private half",
            ),
        ),
    )
    """The laptop's own WireGuard key, as ``wg pubkey`` prints it, in this network nobody else's; the file then has no private
    key. Absent: a pair is made and the file is complete."""

    node: str | None = Field(default=None, max_length=253, json_schema_extra=rules(named("access[].node")))
    """The node of this network that the laptop connects to; it needs an IPv4 endpoint. Absent: the network's relay of that
    moment, then for life. Setting it moves the laptop and rewrites its Secret."""

    subnet: str | None = Field(default=None, max_length=18, json_schema_extra=rules(subrange("access[].subnet")))
    """The laptop's sub-range, a /24 inside ``ipRange``, kept for life; its address is 100.64.b.c where that is a.b.c.0/24.
    Absent: the lowest free /24, from the third of the range on."""

    dns: bool = False
    """Whether its file names the network's resolver (``DNS = <gateway of its node>, <network>.zos``), so that the laptop
    resolves machines by name, and asks there for all other names, too, while it is connected. wg-quick needs ``resolvconf``
    for that."""


def _within(field: str) -> Rule:
    return Rule(
        f"!has(self.{field}) || !isCIDR(self.ipRange) || self.{field}.all(m, !has(m.subnet) || !isCIDR(m.subnet)"
        " || cidr(self.ipRange).containsCIDR(m.subnet))",
        f"{field}[].subnet must lie inside ipRange",
        f".{field}",
    )


def _distinct(field: str) -> Rule:
    return Rule(
        f"!has(self.{field}) || self.{field}.all(m, !has(m.subnet)"
        f" || self.{field}.exists_one(n, has(n.subnet) && n.subnet == m.subnet))",
        f"{field}[].subnet must be different for each: two must not share a sub-range",
        f".{field}",
    )


_PRIVATE = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")


class NetworkSpec(Model):
    model_config = ConfigDict(
        json_schema_extra=rules(
            _within("nodes"),
            _within("access"),
            _distinct("nodes"),
            _distinct("access"),
            Rule(
                "!has(self.nodes) || !has(self.access) || self.access.all(a, !has(a.subnet)"
                " || !self.nodes.exists(n, has(n.subnet) && n.subnet == a.subnet))",
                "access[].subnet must differ from every nodes[].subnet",
                ".access",
            ),
        )
    )

    ip_range: str = Field(
        max_length=18,
        json_schema_extra=rules(
            *ipv4_range("ipRange", "10.20.0.0/16"),
            Rule(
                "!isCIDR(self) || (cidr(self).prefixLength() >= 8 && cidr(self).prefixLength() <= 20)",
                "ipRange must be between a /8 and a /20; a /16 is the norm",
            ),
            Rule(
                "!isCIDR(self) || " + " || ".join(f"cidr('{range_}').containsCIDR(self)" for range_ in _PRIVATE),
                f"ipRange must be private: inside {', '.join(_PRIVATE[:2])} or {_PRIVATE[2]}",
            ),
            Rule("self == oldSelf", "ipRange is immutable: make a new Network for another range"),
        ),
    )
    """All private addresses of the network, like 10.20.0.0/16: a private IPv4 range from /8 to /20. Each node and laptop gets a
    /24 of it; networks may have the same range, they don't see one another."""

    nodes: tuple[NetworkNode, ...] = Field(default=(), max_length=256, json_schema_extra=keyed("name"))
    """Nodes that belong to it whether or not a machine is there. A node that gets a machine of the network joins by itself."""

    access: tuple[NetworkAccess, ...] = Field(
        default=(),
        max_length=256,
        json_schema_extra=keyed(
            "name",
            checks=(
                Rule(
                    "self.all(m, !has(m.publicKey) || self.exists_one(n, has(n.publicKey) && n.publicKey == m.publicKey))",
                    "access[].publicKey must be different for each: two laptops must not share a key, make each its own pair",
                ),
            ),
        ),
    )
    """Laptops that may join from outside."""

    relay: str | None = Field(default=None, max_length=253, json_schema_extra=rules(named("relay")))
    """The node through which hidden nodes (those without endpoint) are reached, one of the network with an IPv4 endpoint.
    Absent: one is chosen. When it dies, another takes over either way."""

    mtu: int = Field(default=1420, ge=1280, le=8920)
    """Largest packet in bytes, for machines and tunnels. 1420 fits WireGuard into the Internet's usual 1500."""


class NetworkNodeStatus(Model):
    """One node of the network: what it owns (sticky for the network's life) and how it stands."""

    name: Name
    """The GridNode's name."""

    subnet: Cidr
    """Its sub-range, a /24. The first address is the node's own, the machines' gateway."""

    public_key: PublicKey | None = None
    """Its WireGuard key in this network. Absent: the node has not offered one yet."""

    listen_port: Port | None = None
    """UDP port of its WireGuard interface for this network, the same for the network's life."""

    endpoint: HostPort | None = None
    """Where others reach it, like 203.0.113.7:52000 or [2001:db8::7]:52000. Absent: the node is hidden."""

    role: Annotated[Literal["accessible", "hidden"], otherwise("hidden")] = "hidden"
    """``accessible``: others connect to it. ``hidden``: it connects to the relay, nobody to it."""

    relay: bool = False
    """Whether it passes on traffic of others: the network's hidden nodes, or nodes with only IPv4 and nodes with only IPv6."""

    ready: bool = False
    """Whether the node has set up its part as it stands now."""

    message: Message | None = None
    """What it waits for or what went wrong. Absent: nothing."""


class NetworkAccessStatus(Model):
    """One laptop of the network."""

    name: Label
    """The laptop, as ``spec.access`` names it."""

    subnet: Cidr
    """Its sub-range a.b.c.0/24; its WireGuard address is 100.64.b.c."""

    public_key: PublicKey | None = None
    """Its WireGuard key: the given one, else that of the generated pair. Absent: there is none that is its alone."""

    node: Name | None = None
    """The access node: the one that its file names and it connects to. Absent: no node is fit for it."""

    secret: Name | None = None
    """The Secret in this namespace whose ``wg0.conf`` is its file. Absent: that Secret exists and is
    not the network's."""

    message: Message | None = None
    """What keeps it from connecting, like an access node that is down. Absent: nothing."""


class AddressOwner(Model):
    """Whose an address is: a machine, or another object of the network's namespace that runs in the network."""

    kind: KindName
    """Its kind, like ZMachine."""

    name: Name
    """Its name."""

    uid: Uid
    """Its uid: a new object of the same name is another one."""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


class NetworkAddress(Model):
    """A private address, and who has it."""

    ip: Ipv4
    """The address, inside the sub-range of ``node``."""

    owner: AddressOwner
    """Who has it."""

    node: Name
    """The GridNode that the owner is on."""

    next: Ipv4 | None = None
    """The address that it gets at its next restart, held for it already. Absent: it keeps ``ip``."""

    older: SkipJsonSchema[bool] = Field(default=False, exclude=True, repr=False)
    """Was written in the form of release 0.2 alone (`olderform`): its owner writes it anew."""

    @model_validator(mode="before")
    @classmethod
    def _read(cls, data: Any) -> Any:
        return olderform.address_read(data)

    @model_serializer(mode="wrap")
    def _written(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return olderform.address_written(plain(self))

    @property
    def uid(self) -> str:
        """The holder's, as every pool's entries have it."""
        return self.owner.uid


class NetworkStatus(Status):
    nodes: tuple[NetworkNodeStatus, ...] = Field(default=(), json_schema_extra=at_most(8192))
    """Each node that belongs to the network, listed or brought in by what runs there."""

    access: tuple[NetworkAccessStatus, ...] = Field(default=(), json_schema_extra=at_most(256))
    """Each laptop, and where its file is."""

    addresses: tuple[NetworkAddress, ...] = Field(default=(), json_schema_extra=at_most(65536))
    """Private addresses in use. None is given twice."""

    relay: Name | None = None
    """The node that serves hidden nodes, and laptops that asked for no other. Absent: nobody needs one, or none is fit."""

    ready_nodes: Line | None = None
    """Nodes that are ready, of all, like 2/3."""


class Network(Object):
    """A private IPv4 network for the machines of a namespace. It spans nodes over WireGuard, and laptops can join."""

    KIND: ClassVar[str] = "Network"
    PLURAL: ClassVar[str] = "networks"
    SHORT_NAMES = ("znet",)
    POOL = "addresses"
    COLUMNS = (
        Column("Range", ".spec.ipRange"),
        Column("Nodes", ".status.readyNodes"),
        READY,
        REASON,
        Column("Relay", ".status.relay", priority=1),
        AGE,
    )

    spec: NetworkSpec
    status: NetworkStatus = Field(default_factory=NetworkStatus)
