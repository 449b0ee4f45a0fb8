"""What packets pass: namespaces, links, routes, rules. ``netns`` is a network namespace's name, empty for the node's own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from zos.api import names
from zos.plan.items.item import Held, Item, Rank


@dataclass(frozen=True, kw_only=True)
class Netns(Item):
    """A named network namespace with loopback up and IPv4/IPv6 forwarding on."""

    name: str

    FAMILY: ClassVar[str] = "netns"
    RANK: ClassVar[int] = Rank.NETNS

    @property
    def key(self) -> str:
        return f"{self.FAMILY}/{self.name}"

    @property
    def held(self) -> Held:
        return Held(alive=True)


@dataclass(frozen=True, kw_only=True)
class Sysctl(Item):
    """A kernel setting, left as it is when no longer wanted. ``path`` is relative to /proc/sys. ``optional``: a kernel without
    it does as if it were so."""

    netns: str = ""
    path: str
    value: str
    optional: bool = False

    FAMILY: ClassVar[str] = "sysctl"
    RANK: ClassVar[int] = Rank.SETTING

    @property
    def key(self) -> str:
        return f"{self.FAMILY}/{self.netns}/{self.path}"

    def grounds(self) -> Iterator[str]:
        yield f"netns/{self.netns}"


@dataclass(frozen=True, kw_only=True)
class Bridge(Item):
    """A bridge with the given MTU, up. ``addresses`` (CIDR) are its own; ``mac`` is what it is made with, so that neighbours
    know it again after it was lost. What it finds in its place keeps its MAC."""

    netns: str = ""
    name: str
    mtu: int
    addresses: tuple[str, ...] = ()
    mac: str | None = field(default=None, compare=False)

    FAMILY: ClassVar[str] = "link"
    RANK: ClassVar[int] = Rank.BRIDGE

    @property
    def key(self) -> str:
        return f"{self.FAMILY}/{self.netns}/{self.name}"

    def grounds(self) -> Iterator[str]:
        yield f"netns/{self.netns}"


@dataclass(frozen=True, kw_only=True)
class Veth(Item):
    """A pair of Ethernet interfaces, both up. ``addresses`` (CIDR) are of the near end, ``peer_addresses`` of the far end;
    ``bridge`` names a bridge in ``netns`` that the near end is joined to, ``peer_bridge`` one in ``peer_netns`` for the far
    end. ``mac`` is the near end's; None: whatever it was made with."""

    netns: str = ""
    name: str
    peer_netns: str
    peer_name: str
    mtu: int
    bridge: str | None = None
    peer_bridge: str | None = None
    addresses: tuple[str, ...] = ()
    peer_addresses: tuple[str, ...] = ()
    mac: str | None = None

    FAMILY: ClassVar[str] = "link"
    RANK: ClassVar[int] = Rank.LINK

    @property
    def key(self) -> str:
        return f"{self.FAMILY}/{self.netns}/{self.name}"

    @property
    def rank(self) -> int:
        """A port goes before its guard; one that has addresses, after the routes through it, as a tunnel does."""
        if self.peer_bridge is None:
            return self.RANK
        return Rank.TUNNEL if self.addresses else Rank.PORT

    def grounds(self) -> Iterator[str]:
        yield f"netns/{self.netns}"
        yield f"netns/{self.peer_netns}"
        if self.bridge is not None:
            yield f"link/{self.netns}/{self.bridge}"
        if self.peer_bridge is not None:
            yield f"link/{self.peer_netns}/{self.peer_bridge}"
            yield f"firewall/{self.peer_netns}/bridge/{names.guard(self.peer_name)}"

    def heirs(self) -> Iterator[str]:
        yield f"{self.FAMILY}/{self.peer_netns}/{self.peer_name}"  # what comes in place of the far end

    def exclusives(self) -> Iterator[str]:
        yield from (f"address {self.netns} {address}" for address in self.addresses)
        yield from (f"address {self.peer_netns} {address}" for address in self.peer_addresses)

    @property
    def held(self) -> Held:
        return Held(macs=(self.mac,)) if self.mac else Held()


@dataclass(frozen=True, kw_only=True)
class Segment(Item):
    """The Ethernet segment behind an interface of the node's that isn't ours, open for taps. A bridge is used as it is; a NIC
    becomes a port of a bridge of ours (`names.segment`) as long as it is wanted, and must have no addresses to lose."""

    interface: str

    SHARED: ClassVar[bool] = True
    FAMILY: ClassVar[str] = "segment"
    RANK: ClassVar[int] = Rank.SEGMENT

    @property
    def key(self) -> str:
        return f"{self.FAMILY}/{self.interface}"

    def aliases(self) -> Iterator[str]:
        yield f"{self.FAMILY}/{names.segment(self.interface)}"  # all that a tap tells which nobody wants any more


@dataclass(frozen=True, kw_only=True)
class Tap(Item):
    """A persistent tap in the node's namespace, up. It is joined to a bridge (or to the segment behind a NIC of that name), or
    to ``wired_to``, an interface of the node's namespace that gets all that comes out of it, and the other way round."""

    name: str
    bridge: str | None = None
    wired_to: str | None = None
    mtu: int

    FAMILY: ClassVar[str] = "link"
    RANK: ClassVar[int] = Rank.PORT

    @property
    def key(self) -> str:
        return f"{self.FAMILY}//{self.name}"

    def grounds(self) -> Iterator[str]:
        if self.bridge is None:
            yield f"link//{self.wired_to}"
        else:
            yield from self.occupies()
            yield f"firewall//bridge/{names.guard(self.name)}"

    def occupies(self) -> Iterator[str]:
        if self.bridge is not None:
            yield f"segment/{self.bridge}"
            yield f"link//{self.bridge}"
            yield f"link//{names.way_in(self.bridge)}"


@dataclass(frozen=True, kw_only=True)
class Route(Item):
    """``destination`` is a CIDR (``0.0.0.0/0`` for the default route)."""

    netns: str
    destination: str
    device: str
    gateway: str | None = None

    FAMILY: ClassVar[str] = "route"
    RANK: ClassVar[int] = Rank.ROUTE

    @property
    def key(self) -> str:
        return f"{self.FAMILY}/{self.netns}/{self.destination}"

    def grounds(self) -> Iterator[str]:
        yield f"netns/{self.netns}"
        yield f"link/{self.netns}/{self.device}"
        yield f"wireguard/{self.netns}/{self.device}"


@dataclass(frozen=True, kw_only=True)
class Firewall(Item):
    """One nftables table, replaced atomically. ``body`` is what stands between the braces of
    ``table <family> <name> { … }``."""

    netns: str = ""
    family: Literal["inet", "bridge"] = "inet"
    name: str
    body: str

    FAMILY: ClassVar[str] = "firewall"
    RANK: ClassVar[int] = Rank.FIREWALL

    @property
    def key(self) -> str:
        return f"{self.FAMILY}/{self.netns}/{self.family}/{self.name}"

    def grounds(self) -> Iterator[str]:
        yield f"netns/{self.netns}"
