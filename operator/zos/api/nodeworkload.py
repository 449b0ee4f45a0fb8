"""NodeWorkload: what one object needs on one node. Internal: the controller writes it, that node's agent carries it out.

It is an envelope: what a kind asks of a node, and what the node says of it, are models of the kind's own (`Part`, `State`), and
`envelope` puts those of all kinds together.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from functools import cache, cached_property
from typing import Any, ClassVar, Self, TypeVar, get_args

from pydantic import Field, create_model, model_validator
from pydantic.json_schema import SkipJsonSchema

from zos.api import olderform
from zos.api.gridnode import ENVELOPES
from zos.api.meta import Model, Object, Quantity, Reason, Status
from zos.api.quarantine import QuarantinedNic
from zos.api.schema import AGE, READY, REASON, Column, at_most
from zos.api.text import (
    Base64,
    Cidr,
    Count,
    Ipv4,
    Ipv6,
    KindName,
    Label,
    Line,
    Mac,
    Mtu,
    Name,
    PrefixLength,
    SecretName,
    Uid,
)


class Owner(Model):
    """The user's object. No ownerReference: those must not cross namespaces."""

    kind: KindName
    namespace: Label
    name: Name
    uid: Uid


class Nic(Model):
    """The interface of a machine or another resident in a private network. Addresses are IPv4 without prefix."""

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

    domain: Name | None = None
    """``<network>.zos``: names in it are asked for at ``gateway``. Absent: of a controller that knows of none."""


class RunningNic(Model):
    """A private interface that a guest or a program runs with."""

    network_uid: Uid
    ip: Ipv4


class RunningPublicNic(Model):
    """A public interface that a guest runs with. Addresses without prefix length."""

    mac: Mac
    ipv4: Ipv4 | None = None
    ipv6: Ipv6 | None = None


class Run(Model):
    """What a guest or a program that runs was started with."""

    cpu: Count
    memory: Quantity
    """Of the guest alone; 0 where it is no guest."""

    nics: tuple[RunningNic, ...] = Field(default=(), json_schema_extra=at_most(16))
    public_nic: RunningPublicNic | None = None
    disks: tuple[Uid, ...] = Field(default=(), json_schema_extra=at_most(64))
    """Uids of ZMounts."""


class Offer(Model):
    """A directory of an object's that a machine on the same node can be given (`zos.plan.items.GuestShare` says what the fields
    are)."""

    path: Line
    ground: Line
    mounted: bool = False
    inside: Line = ""
    read_only: bool = False
    """No machine may write there."""


class Part(Model):
    """What a kind asks of a node for one object. ``SINCE`` is the release whose agents are the first to understand it."""

    SINCE: ClassVar[tuple[int, int]] = ENVELOPES

    @property
    def since(self) -> tuple[int, int]:
        """The release whose agents are the first to understand all of it."""
        return self.SINCE

    def awaited(self) -> Part:
        """What of it the node must have carried out for the object to be Ready: all, but for what may follow."""
        return self

    def offer(self, owner: Owner) -> Offer | None:
        """What a machine can be given of it. None: nothing."""
        return None

    @property
    def in_networks(self) -> tuple[Nic, ...]:
        """Its interfaces in private networks: every `Nic` that is a field of it, or in a list that is one."""
        fields = [getattr(self, name) for name in type(self).model_fields]
        values = [value for field in fields for value in (field if isinstance(field, tuple) else (field,))]
        return tuple(value for value in values if isinstance(value, Nic))

    @property
    def run(self) -> Run | None:
        """What a guest or a program runs with that is started now. None: there is nothing in it that others make room for."""
        nics = tuple(RunningNic(network_uid=nic.network_uid, ip=nic.ip) for nic in self.in_networks)
        return Run(cpu=0, memory=0, nics=nics) if nics else None

    @property
    def rests(self) -> bool:
        """Whether nothing of it runs for now, whatever else is asked."""
        return False

    @property
    def keys(self) -> frozenset[str]:
        """WireGuard public keys whose private halves it needs, which are the node's."""
        return frozenset()

    @property
    def interfaces(self) -> tuple[QuarantinedNic, ...]:
        """Interfaces whose packets the node lets out as this object's."""
        return tuple(QuarantinedNic(mac=nic.mac, network_uid=nic.network_uid, ipv4=nic.ip) for nic in self.in_networks)


class State(Model):
    """What a node says of what it was asked for."""

    @property
    def marked(self) -> bool:
        """Whether it says itself what it is about, so that nobody goes by the generation."""
        return False

    @property
    def running(self) -> tuple[bool, Run | None] | None:
        """Whether it runs, and what it was started with, as far as the node says. None: it never says anything of that."""
        return None


P = TypeVar("P", bound=Part)
S = TypeVar("S", bound=State)


class OneOf(Model):
    """An object with at most one member, called by its kind. One that is not known here is none."""

    @cached_property
    def member(self) -> Model | None:
        return next((found for name in type(self).model_fields if (found := getattr(self, name)) is not None), None)

    @classmethod
    def of(cls, member: Model | None) -> Self:
        return cls() if member is None else cls.model_validate({_name(cls, type(member)): member})


@cache
def _name(union: type[OneOf], member: type[Model]) -> str:
    """Raises KeyError for a model that no kind has."""
    return {get_args(field.annotation)[0]: name for name, field in union.model_fields.items()}[member]


class Sealed(Model):
    """A value that only this node can read."""

    name: SecretName
    """What the kind calls it."""

    source: Line
    """What was sealed (Secret uid/resourceVersion and node key): sealing is randomised, so the text can't be compared."""

    value: Base64 = ""
    """Libsodium sealed box, base64."""


class NodeWorkloadSpec(Model):
    """What a node is to make of one object, or that nothing of it is wanted there any more."""

    owner: Owner
    """The user's object that this is for."""

    parts: OneOf = Field(default_factory=OneOf, alias="part")
    """What is asked for: exactly one member, that of the owner's kind."""

    secrets: tuple[Sealed, ...] = Field(default=(), json_schema_extra=at_most(256))
    """Values that go with it, sealed to the node's key."""

    erase: Uid | None = None
    """The owner's uid, written before the deletion: what is here is not wanted any more, data included. A deletion without this
    word lets go of what is on the node and takes nothing away: guests run on, data goes into quarantine."""

    retain: bool = False
    """With ``erase``: what holds data stays on the node, in quarantine; all else goes."""

    older: SkipJsonSchema[bool] = Field(default=False, exclude=True, repr=False)
    """Written in the form of release 0.2 (`olderform`)."""

    @model_validator(mode="before")
    @classmethod
    def _read(cls, data: Any) -> Any:
        return olderform.spec_read(data)

    def wire(self) -> dict[str, Any]:
        return olderform.spec_written(super().wire()) if self.older else super().wire()

    @property
    def unwanted(self) -> bool:
        """Whether the word to take everything away was said, and of this owner."""
        return bool(self.erase) and self.erase == self.owner.uid

    @property
    def part(self) -> Part | None:
        """None: of a kind that this version doesn't know."""
        found = self.parts.member
        return found if isinstance(found, Part) else None


class NodeWorkloadStatus(Status):
    states: OneOf = Field(default_factory=OneOf, alias="state")
    """What the agent sees of it."""

    older: SkipJsonSchema[bool] = Field(default=False, exclude=True, repr=False)
    """Written in the form of release 0.2."""

    @model_validator(mode="before")
    @classmethod
    def _read(cls, data: Any) -> Any:
        return olderform.status_read(data)

    def wire(self) -> dict[str, Any]:
        return olderform.status_written(super().wire()) if self.older else super().wire()

    @property
    def state(self) -> State | None:
        """None: the agent has said nothing, or something that this version doesn't know."""
        found = self.states.member
        return found if isinstance(found, State) else None


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

    def part(self, model: type[P]) -> P | None:
        """What is asked for, where that is of the kind with this part."""
        found = self.spec.part
        return found if isinstance(found, model) else None

    def state(self, model: type[S]) -> S | None:
        """What the node says of it, where that is of the kind with this state."""
        found = self.status.state
        return found if isinstance(found, model) else None

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

    @classmethod
    def asking(cls, owner: Owner, part: Part, secrets: tuple[Sealed, ...] = (), *, older: bool = False) -> NodeWorkloadSpec:
        """A spec for an object of one of the kinds that this model was made of."""
        spec = _annotated(cls, "spec", NodeWorkloadSpec)
        return spec(owner=owner, part=_annotated(spec, "parts", OneOf).of(part), secrets=secrets, older=older)

    def saying(self, state: State | None, **status: Any) -> NodeWorkloadStatus:
        """A status, in the form in which it was asked."""
        model = _annotated(type(self), "status", NodeWorkloadStatus)
        return model(state=_annotated(model, "states", OneOf).of(state), older=self.spec.older, **status)


M = TypeVar("M", bound=Model)


def _annotated(model: type[Model], field: str, kind: type[M]) -> type[M]:
    found = model.model_fields[field].annotation
    assert isinstance(found, type)
    assert issubclass(found, kind)
    return found


def envelope(parts: Mapping[str, type[Part]], states: Mapping[str, type[State]]) -> type[NodeWorkload]:
    """The model of NodeWorkloads for kinds by the name of their member."""
    spec = _with(NodeWorkloadSpec, parts=_one_of("Part", parts))
    status = _with(NodeWorkloadStatus, states=_one_of("State", states))
    return _with(NodeWorkload, spec=spec, status=status)


def _one_of(name: str, members: Mapping[str, type[Model]]) -> type[OneOf]:
    fields: dict[str, Any] = {member: (model | None, Field(default=None)) for member, model in members.items()}
    return create_model(name, __base__=OneOf, **fields)


def _with(model: type[M], **narrower: type[Model]) -> type[M]:
    """A subclass whose fields are of these subclasses of what they were."""
    fields: dict[str, Any] = {}
    for name, type_ in narrower.items():
        field = copy(model.model_fields[name])
        field.annotation = type_
        if not field.is_required():
            field.default_factory = type_
        fields[name] = (type_, field)
    return create_model(model.__name__, __base__=model, __doc__=model.__doc__, **fields)
