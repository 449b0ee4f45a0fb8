"""NodeWorkload: what one object needs on one node. Internal: the controller writes it, that node's agent carries it out."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from zos.api.meta import Model, Object, Quantity, Reason, Status
from zos.api.schema import AGE, READY, REASON, Column, at_most
from zos.api.text import (
    Argument,
    Base64,
    Cidr,
    Count,
    Digest,
    HostPort,
    Interface,
    Ipv4,
    Ipv6,
    Kind,
    Label,
    Line,
    Mac,
    Mtu,
    Name,
    Path,
    Port,
    PrefixLength,
    PublicKey,
    Range,
    SshKey,
    Time,
    Uid,
    Variable,
    host,
    only,
    otherwise,
    word,
)  # fmt: skip
from zos.api.zmachine import RunPolicy


class Owner(Model):
    """The user's object. No ownerReference: those must not cross namespaces."""

    kind: Kind
    namespace: Label
    name: Name
    uid: Uid


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


class NetworkOnNode(Model):
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


class Nic(Model):
    """A machine's interface in a private network. Addresses are IPv4 without prefix."""

    network_uid: Uid
    """Tells the network's bridge."""

    mac: Mac
    ip: Ipv4
    prefixlen: PrefixLength
    """The sub-range's, 24."""

    gateway: Ipv4
    """The node's own address in the sub-range."""

    mtu: Mtu
    ip_range: Cidr
    """The whole network, reached through ``gateway``."""


class PublicNic(Model):
    """A machine's interface on the segment of its farm. Nothing but its own addresses may leave through it."""

    interface: Interface
    """The node's bridge or NIC on that segment."""

    mac: Mac
    ipv4: Cidr | None = None
    """With prefix length."""

    gateway: Ipv4 | None = None
    """IPv4: the default route."""

    ipv6: Cidr | None = None
    """With prefix length. The guest gives it to itself (SLAAC)."""

    @property
    def ipv4_address(self) -> str | None:
        return host(self.ipv4) if self.ipv4 else None

    @property
    def ipv6_address(self) -> str | None:
        return host(self.ipv6) if self.ipv6 else None


class DiskOnNode(Model):
    """A disk of a machine."""

    name: Name
    """The ZMount."""

    mount_uid: Uid
    """The ZMount's uid names the file on the node."""

    mount_path: Path
    """Directory in the guest."""


class SealedEnv(Model):
    """A variable whose value only this node can read."""

    name: Variable
    source: Line
    """What was sealed (Secret uid/resourceVersion and node key): sealing is randomised, so the text can't be compared."""

    value: Base64 = ""
    """Libsodium sealed box, base64."""


class MachineOnNode(Model):
    hostname: Name
    image: Line
    cpu: Count
    memory: Quantity
    root_size: Quantity
    """Bytes, never 0."""

    nics: tuple[Nic, ...] = Field(default=(), json_schema_extra=at_most(16))
    public_nic: PublicNic | None = None
    disks: tuple[DiskOnNode, ...] = Field(default=(), json_schema_extra=at_most(64))
    entrypoint: tuple[Argument, ...] | None = Field(default=None, json_schema_extra=at_most(256))
    """Absent: the image's own."""

    env: dict[str, Argument] = Field(default_factory=dict, json_schema_extra={"maxProperties": 256})
    sealed_env: tuple[SealedEnv, ...] = Field(default=(), json_schema_extra=at_most(256))
    """Variables from Secrets."""

    ssh_authorized_keys: tuple[SshKey, ...] = Field(default=(), json_schema_extra=at_most(64))
    run_policy: RunPolicy = RunPolicy.ALWAYS
    """What follows when the entrypoint ends or the guest dies."""

    restarted_at: Line | None = None
    """The object's annotation of that name: a new value asks for a restart."""

    adopt: Uid | None = None
    """Uid of a machine of the node's quarantine whose root an administrator gives to this one."""


class MountOnNode(Model):
    size: Quantity
    """Bytes to reserve."""

    holds_data: bool = False
    """A machine has had it: it must be there already, and an empty one is not made in its place."""

    adopt: Uid | None = None
    """Uid of a disk of the node's quarantine that an administrator gives to this one."""

    leaving: bool = False
    """It is to be on another node if it was never used, and waits for what this node says of that from now on."""


Part = NetworkOnNode | MachineOnNode | MountOnNode


class NodeWorkloadSpec(Model):
    """Exactly one part is set, that of the owner's kind."""

    owner: Owner
    """The user's object that this is for."""

    network: NetworkOnNode | None = None
    """A Network's part on this node."""

    machine: MachineOnNode | None = None
    """A ZMachine, with everything it refers to looked up."""

    mount: MountOnNode | None = None
    """A ZMount."""

    erase: Uid | None = None
    """The owner's uid, written before the deletion: what is here is not wanted any more, data included. A deletion without this
    word lets go of what is on the node and takes nothing away: guests run on, data goes into quarantine."""

    retain: bool = False
    """With ``erase``: what holds data stays on the node, in quarantine; all else goes."""

    @property
    def unwanted(self) -> bool:
        """Whether the word to take everything away was said, and of this owner."""
        return bool(self.erase) and self.erase == self.owner.uid

    @classmethod
    def of(cls, owner: Owner, part: Part) -> NodeWorkloadSpec:
        return cls.model_validate({"owner": owner, _PARTS[type(part)]: part})

    @property
    def part(self) -> Part | None:
        """None: of a kind that this version doesn't know."""
        return next((part for name in _PARTS.values() if (part := getattr(self, name)) is not None), None)


_PARTS: dict[type[Part], str] = {NetworkOnNode: "network", MachineOnNode: "machine", MountOnNode: "mount"}


class RunningNic(Model):
    """A private interface that a guest runs with."""

    network_uid: Uid
    ip: Ipv4


class RunningPublicNic(Model):
    """A public interface that a guest runs with. Addresses without prefix length."""

    mac: Mac
    ipv4: Ipv4 | None = None
    ipv6: Ipv6 | None = None


class MachineRun(Model):
    """What a guest that runs was started with."""

    cpu: Count
    memory: Quantity
    """Of the guest alone."""

    nics: tuple[RunningNic, ...] = Field(default=(), json_schema_extra=at_most(16))
    public_nic: RunningPublicNic | None = None
    disks: tuple[Uid, ...] = Field(default=(), json_schema_extra=at_most(64))
    """Uids of ZMounts."""


class ImagePull(Model):
    seconds: Count
    """How long it took, rounded up."""

    size: Quantity = 0
    """Bytes that it has unpacked. 0: not known."""


class MachineState(Model):
    """What the agent sees of a machine."""

    state: Annotated[Literal["Pending", "Running", "Stopped", "Crashed", "Completed"], otherwise("Pending")] = "Pending"
    mode: Annotated[Literal["container", "vm"] | None, otherwise(None)] = None
    restarts: Count = 0
    """Restarts that were asked for don't count."""

    started_at: Time | None = None
    """RFC 3339, UTC."""

    console: Path | None = None
    """Path of the console log, on the node."""

    started_because: Line | None = None
    """What made it start again, in words. Absent: it is its first start, or nobody knows."""

    image_digest: Digest | None = None
    image_pull: ImagePull | None = None
    """How the image came to the node. Absent: it was there before the machine, or the agent has begun anew since."""

    accelerator: Annotated[Literal["kvm", "tcg"] | None, otherwise(None)] = None
    """What the guest was started with; ``tcg`` is emulation in software."""

    root_size: Quantity | None = None
    """Bytes that are reserved for its root. Absent: it is not there, or the node does not say."""

    runs: MachineRun | None = None
    """Absent: no guest runs. While ``state`` is ``Running``, absent: the node does not say."""


class MountState(Model):
    size: Quantity
    """Bytes that are reserved."""

    used: bool | None = None
    """Whether a guest ever had the disk, as the node itself knows. Absent: the node does not say; the disk counts as used."""


class NetworkState(Model):
    lost_key: PublicKey | None = None
    """The WireGuard public key of the spec whose private half this node has lost: another one is to be chosen."""

    silent: Annotated[tuple[PublicKey, ...], only(word)] = Field(default=(), json_schema_extra=at_most(1024))
    """Public keys of peers that were called and have never answered."""


class NodeWorkloadStatus(Status):
    network: NetworkState | None = None
    """What the agent sees of the network."""

    machine: MachineState | None = None
    """What the agent sees of the machine."""

    mount: MountState | None = None
    """What the agent sees of the disk."""


class NodeWorkload(Object):
    """What one object needs on one node. Internal: the controller writes it, that node's agent carries it out."""

    KIND: ClassVar[str] = "NodeWorkload"
    PLURAL: ClassVar[str] = "nodeworkloads"
    SHORT_NAMES = ("nw",)
    COLUMNS = (
        Column("Kind", ".spec.owner.kind"),
        Column("Owner Namespace", ".spec.owner.namespace"),
        Column("Owner", ".spec.owner.name"),
        READY,
        REASON,
        AGE,
    )
    SELECTABLE = (".spec.owner.kind", ".spec.owner.uid")

    spec: NodeWorkloadSpec
    status: NodeWorkloadStatus = Field(default_factory=NodeWorkloadStatus)

    @property
    def going(self) -> bool:
        """Whether its user has said that nothing of it is wanted on the node any more."""
        return self.deleting and self.spec.unwanted

    @property
    def hindrance(self) -> str:
        """What its node says keeps it from being deleted; empty where nothing does but time."""
        condition = self.status.condition("Ready")
        blocked = self.deleting and condition is not None and condition.reason == Reason.DELETION_BLOCKED
        return condition.message if blocked and condition is not None else ""
