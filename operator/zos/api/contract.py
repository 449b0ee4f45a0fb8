"""Contract and NameContract: what a namespace reserves of the grid. Claim: the exclusive hold behind them."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from zos.api.farm import ipv4_of
from zos.api.meta import Model, Object, Status
from zos.api.schema import AGE, READY, REASON, Column, Rule, at_most, named, rules
from zos.api.text import Count, Ipv4, KindName, Label, Line, Name, Uid


class ContractSpec(Model):
    farm: str = Field(
        min_length=1,
        max_length=253,
        json_schema_extra=rules(
            named("farm"), Rule("self == oldSelf", "farm is immutable: make a new Contract with the other farm")
        ),
    )
    """The Farm whose addresses are reserved; can't be changed."""

    public_ipv4: int = Field(
        alias="publicIPv4",
        json_schema_extra=rules(Rule("self >= 1 && self <= 4096", "publicIPv4 must be between 1 and 4096 addresses")),
    )
    """How many IPv4 addresses, from 1 to 4096. All that are missing are taken together or none; fewer gives back unused ones
    only."""


class ContractAddress(Model):
    """An address of the contract in use by a PublicIP. Guarded by the contract's resourceVersion."""

    uid: Uid
    """That PublicIP's uid: a new one of the same name is another one."""

    ip: Ipv4
    """The address, like 203.0.113.18."""

    public_ip: Name = Field(alias="publicIP")
    """The PublicIP that has it."""


class ContractStatus(Status):
    SUMS = frozenset({"free"})

    reserved: tuple[Ipv4, ...] = Field(default=(), json_schema_extra=at_most(4096))
    """The addresses that are this contract's, lowest first."""

    taking: tuple[Ipv4, ...] = Field(default=(), json_schema_extra=at_most(4096))
    """Chosen, but not yet known to be nobody else's; reserved when all of them are."""

    in_use: tuple[ContractAddress, ...] = Field(default=(), json_schema_extra=at_most(8192))
    """Which of the reserved addresses are used, and by whom."""

    free: Count | None = None
    """How many reserved addresses no PublicIP uses."""


class Contract(Object):
    """A number of public IPv4 addresses of a farm, the same ones for the contract's life."""

    KIND: ClassVar[str] = "Contract"
    PLURAL: ClassVar[str] = "contracts"
    POOL = "in_use"
    COLUMNS = (
        Column("Farm", ".spec.farm"),
        Column("Addresses", ".spec.publicIPv4", "integer"),
        Column("Free", ".status.free", "integer"),
        READY,
        REASON,
        AGE,
    )

    spec: ContractSpec
    status: ContractStatus = Field(default_factory=ContractStatus)


class NameContractSpec(Model):
    name: str = Field(
        min_length=1,
        max_length=63,
        json_schema_extra=rules(
            Rule("self.matches('^[a-zA-Z0-9_-]+$')", "name must be letters, digits, '-' and '_'"),
            Rule("self == oldSelf", "name is immutable: make a new NameContract for another name"),
        ),
    )
    """The name, like ``shop``: letters, digits, ``-`` and ``_``, upper and lower case being the same; can't be changed."""


class NameContractStatus(Status):
    claim: Name | None = None
    """The Claim that makes the name this object's. Absent: it is not, or not yet."""


class NameContract(Object):
    """A name under the gateways' domains, one holder grid-wide, compared case-insensitively."""

    KIND: ClassVar[str] = "NameContract"
    PLURAL: ClassVar[str] = "namecontracts"
    COLUMNS = (Column("Name", ".spec.name"), READY, REASON, AGE)

    spec: NameContractSpec
    status: NameContractStatus = Field(default_factory=NameContractStatus)


class ClaimHolder(Model):
    kind: KindName
    """``Contract`` or ``NameContract``."""

    namespace: Label
    name: Name
    uid: Uid
    """A new object of the same name does not hold what the old one held."""


class ClaimSpec(Model):
    holder: ClaimHolder
    """The object that has it."""

    thing: Line
    """What is held, readable: an address or a name."""

    farm: Name | None = None
    """The farm of an address. Absent for names."""


class Claim(Object):
    """Exclusive hold of a named thing. Internal: its name is the thing, so creating it is the lock."""

    KIND: ClassVar[str] = "Claim"
    PLURAL: ClassVar[str] = "claims"
    NAMESPACED: ClassVar[bool] = False
    COLUMNS = (
        Column("Thing", ".spec.thing"),
        Column("Kind", ".spec.holder.kind"),
        Column("Namespace", ".spec.holder.namespace"),
        Column("Holder", ".spec.holder.name"),
        AGE,
    )
    SELECTABLE = (".spec.holder.uid",)

    spec: ClaimSpec

    @property
    def by_farm(self) -> dict[str, int]:
        """Its farm and its address, as a number. Empty for names."""
        return {self.spec.farm: int(ipv4_of(self.spec.thing))} if self.spec.farm else {}
