"""What a node has of objects without a NodeWorkload (anymore), and an administrator's word on it: parts of a GridNode."""

from __future__ import annotations

from pydantic import ConfigDict, Field

from zos.api.meta import Model, Quantity
from zos.api.resources import Resources
from zos.api.schema import Rule, at_most, label, named, rules
from zos.api.text import Count, Ipv4, KindName, Label, Mac, Name, Port, Uid


class Recipient(Model):
    """The object that gets what is in quarantine."""

    kind: KindName = Field(min_length=1)
    """Of the same kind as what it gets."""

    namespace: str = Field(min_length=1, max_length=63, json_schema_extra=rules(label("quarantine[].giveTo.namespace")))
    """Its namespace."""

    name: str = Field(min_length=1, max_length=253, json_schema_extra=rules(named("quarantine[].giveTo.name")))
    """Its name."""


class QuarantineOrder(Model):
    """An administrator's word on one thing in quarantine."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                "has(self.giveTo) != (has(self.discard) && self.discard)",
                "quarantine[] must have exactly one of giveTo and discard: true",
            )
        )
    )

    uid: str = Field(min_length=1, max_length=64)
    """As ``status.quarantine`` shows it."""

    give_to: Recipient | None = None
    """It becomes that object's."""

    discard: bool = False
    """It is erased for good."""


class QuarantinedNic(Model):
    """An interface of a guest or a program that is in quarantine."""

    mac: Mac
    """Its MAC address."""

    network_uid: Uid | None = None
    """The private network that it is in. Absent: it is on the public segment of the node's farm, or that is not known."""

    ipv4: Ipv4 | None = None
    """Its IPv4 address. Absent: it has none, or that is not known."""


class Quarantined(Model):
    """What a node has of an object without a NodeWorkload (anymore)."""

    uid: Uid
    """That object's uid."""

    kind: KindName = ""
    """Its kind. Empty, like namespace and name, where the node does not know any more."""

    namespace: Label = ""
    """Its namespace."""

    name: Name = ""
    """Its name."""

    running: bool = False
    """Something of it runs on: a guest, a program or a network."""

    cpu: Count = 0
    """Virtual CPUs of what runs."""

    memory: Quantity = 0
    """Bytes of RAM of what runs: all that an object holds for it. Agents of release 0.2 tell a guest's own."""

    storage: Quantity = 0
    """Bytes of disk."""

    listen_port: Port | None = None
    """UDP port of a network's WireGuard interface."""

    nics: tuple[QuarantinedNic, ...] = Field(default=(), json_schema_extra=at_most(17))
    """Its interfaces: nobody else gets their addresses. Of a private network they count inside the node's own sub-range only,
    on the public segment for the node's own farm only."""

    @property
    def held(self) -> Resources:
        """What it takes of the node: what an object that had it would hold."""
        return Resources(cpu=self.cpu, memory=self.memory, storage=self.storage)
