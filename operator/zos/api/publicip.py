"""PublicIP: the public addresses of one machine."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network
from typing import ClassVar

from pydantic import ConfigDict, Field

from zos.api.meta import Model, Object, Status
from zos.api.schema import AGE, READY, REASON, Column, Rule, named, rules
from zos.api.text import Cidr, Ipv4, Mac, Name, Uid, host


class PublicIPSpec(Model):
    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule("self.ipv4 || self.ipv6", "at least one of ipv4 and ipv6 must be true", ".ipv4"),
        )
    )

    contract: str = Field(
        min_length=1,
        max_length=253,
        json_schema_extra=rules(
            named("contract"), Rule("self == oldSelf", "contract is immutable: make a new PublicIP with the other contract")
        ),
    )
    """A Contract of the same namespace. Its farm gives the addresses; can't be changed."""

    ipv4: bool = True
    """Whether to take an IPv4 address of the contract, the lowest that no other PublicIP uses, and keep it."""

    ipv6: bool = True
    """Whether to have an IPv6 address in the farm's prefix. It counts against nothing."""


class PublicAddress(Model):
    """An address of the machine's public interface."""

    address: Cidr
    """With prefix length, like 203.0.113.18/28 or 2001:db8:1::7/64."""

    gateway: Ipv4 | None = None
    """The default route. Absent for IPv6: the machine learns it from router advertisements."""

    @property
    def ip(self) -> str:
        """Without prefix length."""
        return host(self.address)


class PublicIPStatus(Status):
    farm: Name | None = None
    """The farm of its contract. Machines that use it run on nodes of that farm."""

    mac: Mac | None = None
    """MAC address of the machine's public interface, the same for the object's life, whatever machine uses it."""

    ipv4: PublicAddress | None = None
    """The IPv4 address. Absent: not asked for, or none is free."""

    ipv6: PublicAddress | None = None
    """The IPv6 address: the farm's prefix and what SLAAC makes of ``mac``. Absent: not asked for, or the farm has no prefix."""

    machine: Name | None = None
    """The one ZMachine that has it: the first that named it in ``spec.publicIP``. Absent: none does."""

    machine_uid: Uid | None = None
    """That ZMachine's uid: a new machine of the same name is another one."""


class PublicIP(Object):
    """The public addresses of one machine. They stay with this object when the machine is replaced or moves."""

    KIND: ClassVar[str] = "PublicIP"
    PLURAL: ClassVar[str] = "publicips"
    SHORT_NAMES = ("pip",)
    COLUMNS = (
        Column("Contract", ".spec.contract"),
        Column("IPv4", ".status.ipv4.address"),
        Column("IPv6", ".status.ipv6.address"),
        Column("Machine", ".status.machine"),
        READY,
        REASON,
        AGE,
    )

    spec: PublicIPSpec
    status: PublicIPStatus = Field(default_factory=PublicIPStatus)


def slaac(prefix: IPv6Network, mac: str) -> IPv6Address:
    """The address that a host with this MAC gives itself in a /64 (RFC 4862, modified EUI-64 of RFC 4291 appendix A)."""
    octets = bytes.fromhex(mac.replace(":", ""))
    interface = bytes([octets[0] ^ 0x02, *octets[1:3], 0xFF, 0xFE, *octets[3:]])
    return prefix[int.from_bytes(interface, "big")]
