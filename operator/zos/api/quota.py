"""Quota: how much each of some namespaces may hold of the grid. Cluster-scoped."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from pydantic import Field

from zos.api.meta import Model, Object, Quantity, Status, format_quantity
from zos.api.schema import AGE, READY, Column, at_most
from zos.api.selector import NamespaceSelector
from zos.api.text import MOST_COUNTED, Count, Label


class Amounts(Model):
    """What is held in a namespace."""

    cpu: Count = 0
    """Virtual CPUs."""

    memory: Quantity = 0
    """Bytes of RAM, with what running guests takes beside their own."""

    storage: Quantity = 0
    """Bytes of disk: roots of machines, ZMounts, data of services."""

    public_ipv4: Count = Field(default=0, alias="publicIPv4")
    """Public IPv4 addresses that Contracts have reserved."""

    machines: Count = 0
    """ZMachines that have a place on a node."""

    def __add__(self, other: Amounts) -> Amounts:
        return Amounts.model_construct(**{name: getattr(self, name) + getattr(other, name) for name in Amounts.model_fields})


class Limits(Model):
    """The most of each; absent: as much as there is."""

    cpu: int | None = Field(default=None, ge=0, le=MOST_COUNTED)
    """Virtual CPUs of machines, started or not."""

    memory: Quantity | None = None
    """Bytes of RAM: that of machines, 128Mi more for each, and what services may take."""

    storage: Quantity | None = None
    """Bytes of disk: roots of machines, ZMounts, data of services."""

    public_ipv4: int | None = Field(default=None, alias="publicIPv4", ge=0, le=MOST_COUNTED)
    """Public IPv4 addresses that Contracts reserve, used by machines or not."""

    machines: int | None = Field(default=None, ge=0, le=MOST_COUNTED)
    """ZMachines that have a place on a node."""

    def exceeded(self, used: Amounts, asked: Amounts) -> Iterator[str]:
        """What would be more than allowed, with the numbers. Who asks for nothing of something exceeds nothing there."""
        for name, field in Amounts.model_fields.items():
            most, has, more = getattr(self, name), getattr(used, name), getattr(asked, name)
            if most is not None and more > 0 and has + more > most:
                show = format_quantity if name in ("memory", "storage") else str
                yield f"{field.alias or name}: {show(has)} of {show(most)} used, {show(more)} asked"

    def above(self, used: Amounts) -> Iterator[str]:
        """What is held beyond, as after a limit was lowered."""
        for name, field in Amounts.model_fields.items():
            most, has = getattr(self, name), getattr(used, name)
            if most is not None and has > most:
                show = format_quantity if name in ("memory", "storage") else str
                yield f"{field.alias or name} {show(has)} of {show(most)}"


class QuotaSpec(Limits):
    namespaces: NamespaceSelector
    """Namespaces that may hold no more than this, each for itself, by their labels; ``{}`` is every namespace. One namespace is
    selected by its label ``kubernetes.io/metadata.name``. Where several Quotas select a namespace, all of them hold."""


class Used(Model):
    """One namespace."""

    namespace: Label
    """Its name."""

    used: Amounts = Field(default_factory=Amounts)
    """What is held there."""


class QuotaStatus(Status):
    matching: Count = 0
    """How many namespaces are selected."""

    hard: Limits = Field(default_factory=Limits)
    """The limits as the controller goes by them, for each of these namespaces."""

    used: tuple[Used, ...] = Field(default=(), json_schema_extra=at_most(512))
    """What is held in those of these namespaces in which something is, by name; 512 of them at most."""


class Quota(Object):
    """The most that each of some namespaces may hold of the grid. An administrator applies it; what is held already stays."""

    KIND: ClassVar[str] = "Quota"
    PLURAL: ClassVar[str] = "quotas"
    NAMESPACED: ClassVar[bool] = False
    SHORT_NAMES = ("zq",)
    SINGULAR = "zquota"  # what Kubernetes' own ResourceQuota is called for short stays its own
    COLUMNS = (
        Column("Namespaces", ".status.matching", "integer"),
        Column("CPU", ".spec.cpu"),
        Column("Memory", ".spec.memory"),
        Column("Storage", ".spec.storage"),
        Column("IPv4", ".spec.publicIPv4"),
        Column("Machines", ".spec.machines"),
        READY,
        AGE,
    )

    spec: QuotaSpec
    status: QuotaStatus = Field(default_factory=QuotaStatus)
