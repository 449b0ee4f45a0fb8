"""NodeWorkload: what one object needs on one node. Internal: the controller writes it, that node's agent carries it out."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from zos.api.meta import Model, Object, Quantity, Reason, Status
from zos.api.schema import AGE, READY, REASON, Column
from zos.api.zmachine import RunPolicy


class Owner(Model):
    """The user's object. No ownerReference: those must not cross namespaces."""

    kind: str
    namespace: str
    name: str
    uid: str


class Peer(Model):
    """A WireGuard peer."""

    public_key: str
    endpoint: str | None = None
    """``host:port`` with IPv6 in brackets. Absent: the peer connects to this node."""

    allowed_ips: tuple[str, ...] = ()
    """What the peer answers for, as CIDRs."""

    keepalive: int | None = None
    """Seconds. Absent: none is sent."""


class EgressOnNode(Model):
    """Where what runs in a network may connect to through the node, beside what the node itself knows to be closed: its own
    addresses and the networks that it is connected to."""

    deny: tuple[Annotated[str, Field(max_length=43)], ...] = Field(default=(), max_length=64)
    """Closed, CIDRs."""

    allow: tuple[Annotated[str, Field(max_length=43)], ...] = Field(default=(), max_length=64)
    """Open, CIDRs. Stands above everything."""

    public: tuple[Annotated[str, Field(max_length=31)], ...] = Field(default=(), max_length=8192)
    """What farms give to machines: open although the node is connected to it. CIDRs, or the first and the last address with a
    dash between."""


class NetworkOnNode(Model):
    ip_range: str
    """The whole network."""

    mtu: int
    subnet: str
    """This node's /24."""

    wireguard_address: str
    """100.64.b.c, interface prefix /16."""

    listen_port: int
    public_key: str
    """One of the node's prekeys; the node has the private half."""

    peers: tuple[Peer, ...] = ()
    egress: EgressOnNode = Field(default_factory=EgressOnNode)


class Nic(Model):
    """A machine's interface in a private network. Addresses are IPv4 without prefix."""

    network_uid: str
    """Tells the network's bridge."""

    mac: str
    ip: str
    prefixlen: int
    """The sub-range's, 24."""

    gateway: str
    """The node's own address in the sub-range."""

    mtu: int
    ip_range: str
    """The whole network, reached through ``gateway``."""


class PublicNic(Model):
    """A machine's interface on the segment of its farm. Nothing but its own addresses may leave through it."""

    interface: str
    """The node's bridge or NIC on that segment."""

    mac: str
    ipv4: str | None = None
    """With prefix length."""

    gateway: str | None = None
    """IPv4: the default route."""

    ipv6: str | None = None
    """With prefix length. The guest gives it to itself (SLAAC)."""


class DiskOnNode(Model):
    """A disk of a machine."""

    name: str
    """The ZMount."""

    mount_uid: str
    """The ZMount's uid names the file on the node."""

    mount_path: str
    """Directory in the guest."""


class SealedEnv(Model):
    """A variable whose value only this node can read."""

    name: str
    source: str
    """What was sealed (Secret uid/resourceVersion and node key): sealing is randomised, so the text can't be compared."""

    value: str = ""
    """Libsodium sealed box, base64."""


class MachineOnNode(Model):
    hostname: str
    image: str
    cpu: int
    memory: Quantity
    root_size: Quantity
    """Bytes, never 0."""

    nics: tuple[Nic, ...] = ()
    public_nic: PublicNic | None = None
    disks: tuple[DiskOnNode, ...] = ()
    entrypoint: tuple[str, ...] | None = None
    """Absent: the image's own."""

    env: dict[str, str] = Field(default_factory=dict)
    sealed_env: tuple[SealedEnv, ...] = ()
    """Variables from Secrets."""

    ssh_authorized_keys: tuple[str, ...] = ()
    run_policy: RunPolicy = RunPolicy.ALWAYS
    """What follows when the entrypoint ends or the guest dies."""

    restarted_at: str | None = None
    """The object's annotation of that name: a new value asks for a restart."""

    adopt: str | None = None
    """Uid of a machine of the node's quarantine whose root an administrator gives to this one."""


class MountOnNode(Model):
    size: Quantity
    """Bytes to reserve."""

    holds_data: bool = False
    """A machine has had it: it must be there already, and an empty one is not made in its place."""

    adopt: str | None = None
    """Uid of a disk of the node's quarantine that an administrator gives to this one."""


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

    erase: str | None = None
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


class MachineState(Model):
    """What the agent sees of a machine."""

    state: Literal["Pending", "Running", "Stopped", "Crashed", "Completed"] = "Pending"
    mode: Literal["container", "vm"] | None = None
    restarts: int = 0
    """Restarts that were asked for don't count."""

    started_at: str | None = None
    """RFC 3339, UTC."""

    console: str | None = None
    """Path of the console log, on the node."""

    image_digest: str | None = None
    accelerator: Literal["kvm", "tcg"] | None = None
    """What the guest was started with; ``tcg`` is emulation in software."""


class MountState(Model):
    size: Quantity
    """Bytes that are reserved."""


class NetworkState(Model):
    lost_key: str | None = None
    """The WireGuard public key of the spec whose private half this node has lost: another one is to be chosen."""


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
    def hindrance(self) -> str:
        """What its node says keeps it from being deleted; empty where nothing does but time."""
        condition = self.status.condition("Ready")
        blocked = self.deleting and condition is not None and condition.reason == Reason.DELETION_BLOCKED
        return condition.message if blocked and condition is not None else ""
