"""Farm: who owns public addresses, and which. Cluster-scoped."""

from __future__ import annotations

import builtins
from collections.abc import Collection, Iterable, Iterator
from functools import cached_property, lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field

from zos.api.meta import Model, Object, Status
from zos.api.schema import AGE, READY, REASON, Column, Rule, at_most, ipv4, ipv4_range, rules
from zos.api.selector import NamespaceSelector
from zos.api.text import Count, Ip


class PublicIPv4Range(Model):
    """Addresses that the farm's router routes to its nodes. Network, broadcast, gateway, ``exclude`` and the endpoints of the
    farm's own nodes are never given."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                "!isCIDR(self.range) || !isIP(self.gateway) || (cidr(self.range).containsIP(self.gateway)"
                " && (cidr(self.range).prefixLength() > 30 || self.gateway != string(cidr(self.range).masked().ip())))",
                "publicIPv4[].gateway must be an address inside its range, and not the network address",
                ".gateway",
            ),
            Rule(
                "!has(self.exclude) || !isCIDR(self.range) || self.exclude.all(e, !isIP(e) || cidr(self.range).containsIP(e))",
                "publicIPv4[].exclude must lie inside its range",
                ".exclude",
            ),
        )
    )

    range: str = Field(
        max_length=18,
        json_schema_extra=rules(
            *ipv4_range("publicIPv4[].range", "203.0.113.16/28"),
            Rule(
                "!isCIDR(self) || cidr(self).prefixLength() >= 16",
                "publicIPv4[].range must be a /16 or smaller: split larger ones",
            ),
        ),
    )
    """An IPv4 range like 203.0.113.16/28, /16 or smaller. No farm may have an address of another's."""

    gateway: str = Field(max_length=15, json_schema_extra=rules(ipv4("publicIPv4[].gateway")))
    """Address of the farm's router inside the range, like 203.0.113.17: the default route of machines. Never given away."""

    exclude: tuple[Annotated[str, Field(max_length=15)], ...] = Field(
        default=(),
        max_length=256,
        json_schema_extra=rules(
            Rule("self.all(e, isIP(e) && ip(e).family() == 4)", "publicIPv4[].exclude must be IPv4 addresses")
        ),
    )
    """Single addresses of the range that are never given, because something else has them. One that is held already stays with
    its holder."""

    @cached_property
    def network(self) -> IPv4Network:
        return IPv4Network(self.range, strict=False)

    @cached_property
    def numbers(self) -> builtins.range:
        """All of its addresses, as numbers."""
        first = int(self.network.network_address)
        return builtins.range(first, first + self.network.num_addresses)

    @cached_property
    def reserved(self) -> frozenset[int]:
        """Addresses inside the range that are nobody's to have, as numbers."""
        ends = {self.numbers[0], self.numbers[-1]} if self.network.prefixlen < 31 else set()
        return frozenset(ends.union(int(IPv4Address(address)) for address in (self.gateway, *self.exclude)))

    @property
    def size(self) -> int:
        """How many addresses may be given."""
        return len(self.numbers) - sum(1 for number in self.reserved if number in self.numbers)


class PublicIPv6Prefix(Model):
    """A /64 in which the farm's router advertises itself; machines take their address by SLAAC (RFC 4862)."""

    prefix: str = Field(
        max_length=43,
        json_schema_extra=rules(
            Rule(
                "isCIDR(self) && cidr(self).ip().family() == 6",
                "publicIPv6[].prefix must be an IPv6 prefix like 2001:db8:1::/64",
            ),
            Rule(
                "!isCIDR(self) || cidr(self).prefixLength() == 64",
                "publicIPv6[].prefix must be exactly a /64: SLAAC works with no other length",
            ),
            Rule(
                "!isCIDR(self) || self == string(cidr(self).masked())",
                "publicIPv6[].prefix must be written in its shortest form with zero host bits, like 2001:db8:1::/64",
            ),
        ),
    )
    """A /64 in its shortest form, like 2001:db8:1::/64."""

    @cached_property
    def network(self) -> IPv6Network:
        return IPv6Network(self.prefix, strict=False)


#: Source: IANA IPv4 Special-Purpose Address Registry, and multicast and reserved space.
NON_GLOBAL_IPV4 = (
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
    "192.0.2.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3",
)  # fmt: skip


class FarmSpec(Model):
    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                "(has(self.allowNonGlobal) && self.allowNonGlobal) || !has(self.publicIPv4)"
                " || self.publicIPv4.all(r, !isCIDR(r.range) || !["
                + ", ".join(f"'{r}'" for r in NON_GLOBAL_IPV4)
                + "].exists(n, cidr(n).containsCIDR(r.range)))",
                "publicIPv4[].range must be globally routable (set allowNonGlobal: true for a lab)",
                ".publicIPv4",
            ),
            Rule(
                "(has(self.allowNonGlobal) && self.allowNonGlobal) || !has(self.publicIPv6)"
                " || self.publicIPv6.all(p, !isCIDR(p.prefix) || (cidr('2000::/3').containsCIDR(p.prefix)"
                " && !cidr('2001:db8::/32').containsCIDR(p.prefix)))",
                "publicIPv6[].prefix must be globally routable (set allowNonGlobal: true for a lab)",
                ".publicIPv6",
            ),
            Rule(
                "!has(self.publicIPv4) || self.publicIPv4.all(r, !isCIDR(r.range) || self.publicIPv4.exists_one(o,"
                " isCIDR(o.range) && (cidr(o.range).containsCIDR(r.range) || cidr(r.range).containsCIDR(o.range))))",
                "publicIPv4[].range must not overlap another range of the same farm",
                ".publicIPv4",
            ),
            Rule(
                "!has(self.publicIPv6) || self.publicIPv6.all(p, self.publicIPv6.exists_one(o, o.prefix == p.prefix))",
                "publicIPv6[].prefix must not be listed twice",
                ".publicIPv6",
            ),
        )
    )

    public_ipv4: tuple[PublicIPv4Range, ...] = Field(default=(), alias="publicIPv4", max_length=64)
    """Ranges that contracts reserve addresses of. One that is removed goes on serving the addresses that are held."""

    public_ipv6: tuple[PublicIPv6Prefix, ...] = Field(default=(), alias="publicIPv6", max_length=16)
    """Prefixes of the public segment. New addresses are in the first; those given before stay where they are."""

    allowed_namespaces: NamespaceSelector | None = None
    """Namespaces whose contracts may take addresses, by their labels; what is reserved already stays. Absent or empty: every
    namespace."""

    allow_non_global: bool = False
    """Admits ranges that the Internet does not route, like 10.0.0.0/8 or 203.0.113.0/24: for a lab."""

    @cached_property
    def size(self) -> int:
        """How many IPv4 addresses may be given."""
        return sum(range_.size for range_ in self.public_ipv4)

    def numbers(self) -> Iterator[int]:
        """Every IPv4 address that may be given, lowest first, as a number."""
        for range_ in sorted(self.public_ipv4, key=lambda range_: range_.network):
            yield from (number for number in range_.numbers if number not in range_.reserved)

    def gives(self, address: IPv4Address) -> bool:
        return bool(self.given([int(address)]))

    def given(self, numbers: Collection[int]) -> set[int]:
        """Those of some IPv4 addresses that may be given. Numbers, as thousands are looked at for each decision."""
        found: set[int] = set()
        for range_ in self.public_ipv4:
            inside, reserved = range_.numbers, range_.reserved
            found.update(number for number in numbers if number in inside and number not in reserved)
        return found

    def among(self, addresses: Iterable[str]) -> set[int]:
        """Those of some addresses, of either family, that may be given, as numbers."""
        return self.given([int(address) for text in addresses if (address := ip_address(text)).version == 4])

    def overlaps(self, other: FarmSpec) -> Iterator[tuple[str, str]]:
        """Pairs (range of this farm, range of the other) that share addresses."""
        yield from (
            (mine.range, theirs.range)
            for mine in self.public_ipv4
            for theirs in other.public_ipv4
            if mine.network.overlaps(theirs.network)
        )
        yield from (
            (mine.prefix, theirs.prefix)
            for mine in self.public_ipv6
            for theirs in other.public_ipv6
            if mine.network.overlaps(theirs.network)
        )

    def range_of(self, address: IPv4Address) -> PublicIPv4Range | None:
        """The range that an address lies in, whether it may be given or not."""
        return next((range_ for range_ in self.public_ipv4 if address in range_.network), None)


@lru_cache(maxsize=2**16)
def ipv4_of(text: str) -> IPv4Address:
    """Parsed once: the same addresses are looked at again and again. Raises ValueError."""
    return IPv4Address(text)


class AddressCount(Model):
    total: Count = 0
    """Addresses that may be given: all ranges without network, broadcast and gateway addresses and ``exclude``."""

    held: Count = 0
    """Addresses that contracts have, those of ``outOfRange`` included."""

    free: Count = 0
    """Addresses that a contract could take now."""


class PrefixCount(Model):
    """How many /64 there are and how many addresses are held in them; they do not run out."""

    prefixes: Count = 0
    """How many /64 the farm has."""

    held: Count = 0
    """Addresses that PublicIPs have."""


class FarmStatus(Status):
    ipv4: AddressCount = Field(default_factory=AddressCount)
    """How the farm's IPv4 addresses are spent."""

    ipv6: PrefixCount = Field(default_factory=PrefixCount)
    """How the farm's prefixes are used; they do not run out."""

    out_of_range: tuple[Ip, ...] = Field(default=(), json_schema_extra=at_most(65536))
    """Addresses that are held but that no range or prefix gives any more. They go on working until they are released."""


class Farm(Object):
    """Who owns public addresses: which ones there are, and which namespaces may reserve them. An administrator applies it."""

    KIND: ClassVar[str] = "Farm"
    PLURAL: ClassVar[str] = "farms"
    NAMESPACED: ClassVar[bool] = False
    COLUMNS = (
        Column("IPv4 Total", ".status.ipv4.total", "integer"),
        Column("Held", ".status.ipv4.held", "integer"),
        Column("Free", ".status.ipv4.free", "integer"),
        Column("IPv6 Held", ".status.ipv6.held", "integer"),
        READY,
        REASON,
        AGE,
    )

    spec: FarmSpec
    status: FarmStatus = Field(default_factory=FarmStatus)
