"""The node's vocabulary: the primitives that every workload is lowered to.

Items are values. Two items with the same key describe the same thing on the node; equality (without ``owner`` and
``needs``) says whether it is already right. ``netns`` is the name of a network namespace, empty for the node's own.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from zos.api.nodeworkload import Owner


@dataclass(frozen=True, kw_only=True)
class Item:
    """``owner`` is the NodeWorkload's name; ``needs`` are keys of items that must be in place first."""

    owner: str = field(default="", compare=False)
    needs: tuple[str, ...] = field(default=(), compare=False)

    #: True: what is behind it holds a user's data and is removed only for an explicit deletion.
    HOLDS_DATA: ClassVar[bool] = False
    #: True: several may want it, and it goes when nobody does and nothing stands on it, whoever it was made for.
    SHARED: ClassVar[bool] = False

    @property
    def key(self) -> str:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Netns(Item):
    """A named network namespace with loopback up and IPv4/IPv6 forwarding on."""

    name: str

    @property
    def key(self) -> str:
        return f"netns/{self.name}"


@dataclass(frozen=True, kw_only=True)
class Sysctl(Item):
    """A kernel setting, left as it is when no longer wanted. ``path`` is relative to /proc/sys. ``optional``: a kernel without
    it does as if it were so."""

    netns: str = ""
    path: str
    value: str
    optional: bool = False

    @property
    def key(self) -> str:
        return f"sysctl/{self.netns}/{self.path}"


@dataclass(frozen=True, kw_only=True)
class Bridge(Item):
    """A bridge with the given MTU, up. ``addresses`` (CIDR) are its own; ``mac`` is what it is made with, so that neighbours
    know it again after it was lost. What it finds in its place keeps its MAC."""

    netns: str = ""
    name: str
    mtu: int
    addresses: tuple[str, ...] = ()
    mac: str | None = field(default=None, compare=False)

    @property
    def key(self) -> str:
        return f"link/{self.netns}/{self.name}"


@dataclass(frozen=True, kw_only=True)
class Veth(Item):
    """A pair of Ethernet interfaces, both up. ``addresses`` (CIDR) are of the near end, ``peer_addresses`` of the far end;
    ``bridge`` names a bridge in ``netns`` that the near end is joined to, ``peer_bridge`` one in ``peer_netns`` for the far
    end."""

    netns: str = ""
    name: str
    peer_netns: str
    peer_name: str
    mtu: int
    bridge: str | None = None
    peer_bridge: str | None = None
    addresses: tuple[str, ...] = ()
    peer_addresses: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return f"link/{self.netns}/{self.name}"


@dataclass(frozen=True, kw_only=True)
class Segment(Item):
    """The Ethernet segment behind an interface of the node's that isn't ours, open for taps. A bridge is used as it is; a NIC
    becomes a port of a bridge of ours (`names.segment`) as long as it is wanted, and must have no addresses to lose."""

    interface: str

    SHARED: ClassVar[bool] = True

    @property
    def key(self) -> str:
        return f"segment/{self.interface}"


@dataclass(frozen=True, kw_only=True)
class Tap(Item):
    """A persistent tap in the node's namespace, up. It is joined to a bridge (or to the segment behind a NIC of that name), or
    to ``wired_to``, an interface of the node's namespace that gets all that comes out of it, and the other way round."""

    name: str
    bridge: str | None = None
    wired_to: str | None = None
    mtu: int

    @property
    def key(self) -> str:
        return f"link//{self.name}"


@dataclass(frozen=True, kw_only=True)
class Route(Item):
    """``destination`` is a CIDR (``0.0.0.0/0`` for the default route)."""

    netns: str
    destination: str
    device: str
    gateway: str | None = None

    @property
    def key(self) -> str:
        return f"route/{self.netns}/{self.destination}"


@dataclass(frozen=True, kw_only=True)
class Firewall(Item):
    """One nftables table, replaced atomically. ``body`` is what stands between the braces of
    ``table <family> <name> { … }``."""

    netns: str = ""
    family: Literal["inet", "bridge"] = "inet"
    name: str
    body: str

    @property
    def key(self) -> str:
        return f"firewall/{self.netns}/{self.family}/{self.name}"


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

    @property
    def key(self) -> str:
        return f"wireguard/{self.netns}/{self.name}"


@dataclass(frozen=True, kw_only=True)
class Image(Item):
    """An image unpacked into the node's cache. ``ref`` is ``oci://``, ``file://`` or ``https://`` as the user wrote it."""

    ref: str

    @property
    def key(self) -> str:
        return f"image/{self.ref}"


@dataclass(frozen=True, kw_only=True)
class Disk(Item):
    """A raw disk file of ``size`` bytes, really reserved. Grows, never shrinks. ``format`` is made only on an empty disk.

    ``must_exist``: it holds data already, so an empty one is not made in its place. ``adopt`` is the uid of an owner that is
    gone: its disk becomes this one. ``origin`` is the user's object, written down beside the disk."""

    name: str  # "mount-<uid>" or "root-<uid>"
    size: int
    format: Literal["btrfs", "ext4"]
    must_exist: bool = False
    adopt: str = ""
    origin: Owner | None = field(default=None, compare=False)

    HOLDS_DATA: ClassVar[bool] = True

    @property
    def key(self) -> str:
        return f"disk/{self.name}"

    @property
    def adopted(self) -> str:
        """Name of the disk that becomes this one; empty where none does."""
        return f"{self.name.partition('-')[0]}-{self.adopt}" if self.adopt else ""


@dataclass(frozen=True, kw_only=True)
class File(Item):
    """A file under the node's state directory; ``path`` is relative to it. Secret: mode 0600."""

    path: str
    content: str = field(repr=False)
    mode: int = 0o600

    @property
    def key(self) -> str:
        return f"file/{self.path}"


@dataclass(frozen=True, kw_only=True)
class GuestDisk:
    """A disk of a guest: the Disk item's name, and the serial under which the guest finds it (20 bytes at most)."""

    disk: str
    serial: str


@dataclass(frozen=True, kw_only=True)
class GuestNic:
    """An interface of a guest, and what its guard lets out: ``ipv4`` and ``ipv6`` without prefix length, empty for nothing of
    that family. It stands in the private network with uid ``network``, else on the segment behind the node's ``interface``. A
    guest that an earlier agent has started tells neither."""

    tap: str
    mac: str
    network: str = ""
    interface: str = ""
    mtu: int = 0
    ipv4: str = ""
    ipv6: str = ""

    @property
    def told(self) -> bool:
        return bool(self.network or self.interface)


@dataclass(frozen=True, kw_only=True)
class Domain(Item):
    """A container-mode guest under libvirt. ``running`` is what it should be now.

    ``image`` is the digest of an unpacked image (root file system, shared read-only); ``root`` the Disk that takes the
    writes; ``config`` the path of the File that the guest's init reads (network, mounts, environment, entrypoint);
    ``config_digest`` makes a changed file a changed domain, and ``fields`` are digests of what is in it by the field of the
    user's spec. ``memory`` in bytes. A guest that runs keeps what it was started with (`DomainFact.runs`); one of another
    ``incarnation`` is to be stopped first.
    """

    name: str
    uuid: str
    cpu: int
    memory: int
    image: str
    root: GuestDisk
    disks: tuple[GuestDisk, ...]
    nics: tuple[GuestNic, ...]
    config: str
    config_digest: str
    fields: tuple[tuple[str, str], ...] = ()
    running: bool
    incarnation: str = ""

    @property
    def key(self) -> str:
        return f"domain/{self.name}"

    @property
    def recipe(self) -> str:
        """A digest of all that it is started with: another one is another chance for a guest that failed."""
        whole = (self.cpu, self.memory, self.image, self.root, self.disks, self.nics, self.config_digest)
        return hashlib.sha256(repr(whole).encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Service(Item):
    """A long-running process under the node's supervisor, that outlives the agent and is restarted when it dies."""

    name: str
    argv: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()

    @property
    def key(self) -> str:
        return f"service/{self.name}"
