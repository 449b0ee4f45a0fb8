"""What users write."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from zos.api.meta import Model, Object, Quantity, Status
from zos.api.schema import AGE, READY, REASON, Column, Rule, at_least, named, rules
from zos.api.zmachine import EnvSource, MachineNetwork


class PingSpec(Model):
    network: MachineNetwork = Field(
        json_schema_extra=rules(
            Rule("self.name == oldSelf.name", "network.name is immutable: make a new Ping in the other network")
        )
    )
    """Where it is reached."""

    word_from: EnvSource
    """The word that it knows."""

    size: Quantity = Field(default=64 << 20, json_schema_extra=rules(at_least("size", "16Mi")))
    """What it may keep."""

    node_name: str | None = Field(default=None, max_length=253, json_schema_extra=rules(named("nodeName")))
    """Absent: where it fits best."""


class PingStatus(Status):
    node_name: str | None = None
    """Its node."""

    ip: str | None = None
    """Its address in the network."""

    used: Quantity | None = None
    """Bytes that it keeps, about."""


class Ping(Object):
    """A program that answers."""

    KIND: ClassVar[str] = "Ping"
    PLURAL: ClassVar[str] = "pings"
    COLUMNS = (Column("Node", ".status.nodeName"), Column("IP", ".status.ip"), READY, REASON, AGE)

    spec: PingSpec
    status: PingStatus = Field(default_factory=PingStatus)
