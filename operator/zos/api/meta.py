"""What every kind shares: object metadata, conditions, references, quantities."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_CEILING, Decimal, InvalidOperation
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, PlainValidator, WithJsonSchema
from pydantic.alias_generators import to_camel

from zos.api.schema import AGE, READY, Column, Rule, at_most
from zos.api.text import ConditionType, Count, Message, ReasonWord, Time, otherwise

GROUP = "zos.grid.tf"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
CATEGORY = "zos"

#: Held by the controller on what users write, until every node has let go of it.
CONTROLLER_FINALIZER = f"{GROUP}/controller"
#: Like ``kubectl rollout restart``: a new value (a time) restarts a machine.
RESTARTED_AT = f"{GROUP}/restartedAt"

#: On an object that is being deleted, with that object's own uid: what is on a node that does not answer is given up.
ABANDON = f"{GROUP}/abandon"
#: On a ZMount, with that object's own uid: what is on the disk is a system to boot from, though nobody here has written it.
BOOT_AS_IS = f"{GROUP}/boot-as-is"

#: Held by the agent on a NodeWorkload, until the node is clean of it.
AGENT_FINALIZER = f"{GROUP}/agent"


class Model(BaseModel):
    """A frozen value with camelCase names on the wire. Unknown fields are ignored (the API server prunes them).

    A string below a field is its description, in the CRD and in the reference.
    """

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        frozen=True,
        extra="ignore",
        use_enum_values=False,
        use_attribute_docstrings=True,
        defer_build=True,  # no program reads or writes all kinds
    )

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """pydantic copies what cached properties have remembered along, even where ``update`` makes it untrue."""
        copied = super().model_copy(update=update, deep=deep)
        for name in copied.__dict__.keys() - type(self).model_fields.keys():
            del copied.__dict__[name]
        return copied

    def wire(self) -> dict[str, Any]:
        """The JSON form that travels to the API server; absent optional values are left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class Key(NamedTuple):
    """Identity of an object in the cluster. ``namespace`` is empty for cluster-scoped kinds."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


class Reason(StrEnum):
    """The one list of condition (and event) reasons."""

    SUCCEEDED = "Succeeded"
    PROGRESSING = "Progressing"
    DEPENDENCY_NOT_READY = "DependencyNotReady"
    INSUFFICIENT_CAPACITY = "InsufficientCapacity"
    QUOTA_EXCEEDED = "QuotaExceeded"
    INVALID_SPEC = "InvalidSpec"
    NODE_UNREACHABLE = "NodeUnreachable"
    CONFLICT = "Conflict"
    SUSPENDED = "Suspended"
    FAILED = "Failed"
    DELETING = "Deleting"
    DELETION_BLOCKED = "DeletionBlocked"
    IMAGE_INVALID = "ImageInvalid"
    IMAGE_PULLING = "ImagePulling"
    IMAGE_UNAVAILABLE = "ImageUnavailable"
    CRASH_LOOP = "CrashLoop"
    COMPLETED = "Completed"
    RESTART_REQUIRED = "RestartRequired"
    SOFTWARE_EMULATION = "SoftwareEmulation"
    QUARANTINED = "Quarantined"
    NODE_REMOVED = "NodeRemoved"
    NODE_MAINTENANCE = "NodeMaintenance"
    REFUSED = "Refused"
    KEY_REPLACED = "KeyReplaced"
    PLACED = "Placed"
    ADDRESS_ASSIGNED = "AddressAssigned"
    JOINED = "Joined"
    IMAGE_PULLED = "ImagePulled"
    STARTED = "Started"
    RESTARTED = "Restarted"
    AGENT_OUTDATED = "AgentOutdated"
    NODE_FIREWALL = "NodeFirewall"
    IMAGE_CHANGED = "ImageChanged"
    NOT_APPLICABLE = "NotApplicable"
    DISK_FULL = "DiskFull"
    DISK_FAILING = "DiskFailing"
    OTHER = "Other"

    @classmethod
    def read(cls, text: str) -> Reason:
        """What a peer says, which may be newer and know more words: those are OTHER."""
        return cls(text) if text in cls._value2member_map_ else cls.OTHER


#: Reasons that only the user (or an administrator) can mend: kstatus ``Stalled``.
STALLED_REASONS = frozenset(
    {
        Reason.INSUFFICIENT_CAPACITY,
        Reason.QUOTA_EXCEEDED,
        Reason.INVALID_SPEC,
        Reason.CONFLICT,
        Reason.FAILED,
        Reason.IMAGE_INVALID,
        Reason.CRASH_LOOP,
        Reason.QUARANTINED,
        Reason.NODE_REMOVED,
        Reason.REFUSED,
        Reason.DISK_FULL,
    }
)


#: Reasons that events alone give, and what has happened then.
EVENT_REASONS: Mapping[Reason, str] = {
    Reason.PLACED: "a machine or a disk has its node",
    Reason.ADDRESS_ASSIGNED: "a machine has an address that did not come with its place, a PublicIP its addresses",
    Reason.JOINED: "a node or a laptop has become part of a network",
    Reason.IMAGE_PULLED: "a machine's image was fetched for it: in how many seconds and how large",
    Reason.STARTED: "a machine was started for the first time",
    Reason.RESTARTED: "a machine was started again, and why",
    Reason.KEY_REPLACED: "a node had lost its key for a network and got another",
}


class DeletionPolicy(StrEnum):
    """What becomes of data when its user deletes the object."""

    ERASE = "Erase"
    RETAIN = "Retain"


class Condition(Model):
    """One aspect of how the object stands (metav1.Condition)."""

    type: ConditionType
    """What it is about, like ``Ready``. A list has each type once."""

    status: Annotated[Literal["True", "False", "Unknown"], otherwise("Unknown")]
    """Whether it is so. ``Ready``, ``ImageReady`` and ``Running`` are good when ``True``; the others are worth a look then."""

    reason: ReasonWord
    """One word for programs, from the reference's list of reasons, like ``InsufficientCapacity``."""

    message: Message = ""
    """One sentence for people: what is missing and what to do, with names and numbers."""

    observed_generation: Count = 0
    """``metadata.generation`` of the object that was judged; lower than the present one: not judged anew yet."""

    last_transition_time: Time = ""
    """When ``status`` last changed (RFC 3339, UTC), like 2030-01-01T00:00:00Z."""


def version_number(resource_version: str) -> int:
    """Resource versions of one kind are ordered numbers (KEP-5504). 0: none yet, or not such a number."""
    return int(resource_version) if resource_version.isdecimal() else 0


class OwnerReference(Model):
    api_version: str
    kind: str
    name: str
    uid: str
    controller: bool | None = None
    block_owner_deletion: bool | None = None


class Meta(Model):
    """The part of metav1.ObjectMeta that decisions use."""

    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: str = ""
    deletion_timestamp: str | None = None
    finalizers: tuple[str, ...] = ()
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    owner_references: tuple[OwnerReference, ...] = ()


class Status(Model):
    """What every status carries (kstatus)."""

    #: Fields that a node's agent writes, and no others. The rest is the controller's.
    AGENTS: ClassVar[frozenset[str]] = frozenset()
    #: Of a pool, the fields that follow from who holds what: nobody waits for them.
    SUMS: ClassVar[frozenset[str]] = frozenset()

    observed_generation: int = -1
    """``metadata.generation`` that this status is about. -1: nobody has looked at the object yet."""

    conditions: tuple[Condition, ...] = Field(default=(), json_schema_extra=at_most(16))
    """``Ready`` always; while that is not ``True``, ``Reconciling`` (it goes on by itself) or ``Stalled`` (somebody has to mend
    something). Some kinds have further types."""

    def condition(self, type: str) -> Condition | None:
        return next((c for c in self.conditions if c.type == type), None)

    def says(self, type: str) -> bool:
        """Whether there is a condition of that type, and it is so."""
        condition = self.condition(type)
        return condition is not None and condition.status == "True"

    @property
    def stalled(self) -> bool:
        """Whether it goes on only when somebody mends something."""
        return self.says("Stalled")


class Object(Model):
    """A custom resource. Subclasses set ``spec``, ``status`` and the class attributes that their CRD is made from."""

    KIND: ClassVar[str]
    PLURAL: ClassVar[str]
    API_VERSION: ClassVar[str] = API_VERSION
    NAMESPACED: ClassVar[bool] = True
    SHORT_NAMES: ClassVar[tuple[str, ...]] = ()
    #: Absent: the kind's name in lower case.
    SINGULAR: ClassVar[str] = ""
    COLUMNS: ClassVar[tuple[Column, ...]] = (READY, AGE)
    SELECTABLE: ClassVar[tuple[str, ...]] = ()
    RULES: ClassVar[tuple[Rule, ...]] = ()
    #: The list in the status that records who holds what of the object, each by the holder's uid.
    POOL: ClassVar[str | None] = None

    metadata: Meta

    @classmethod
    def key_of(cls, namespace: str, name: str) -> Key:
        return Key(cls.KIND, namespace if cls.NAMESPACED else "", name)

    @property
    def key(self) -> Key:
        return self.key_of(self.metadata.namespace, self.metadata.name)

    @property
    def uid(self) -> str:
        return self.metadata.uid

    @property
    def name(self) -> str:
        return self.metadata.name

    @property
    def namespace(self) -> str:
        return self.metadata.namespace

    @property
    def deleting(self) -> bool:
        return self.metadata.deletion_timestamp is not None


_SUFFIXES = {
    "": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15, "E": 10**18,
    "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50, "Ei": 2**60,
}  # fmt: skip


#: The largest quantity there is, for Kubernetes as well: what is more counts as this.
MOST = 2**63 - 1


def parse_quantity(value: str | int) -> int:
    """Bytes (or units) of a Kubernetes quantity, rounded up, at most `MOST`. Decimals like ``1.5Gi`` and exponents ``1e3`` are
    allowed.

    Raises ValueError for anything else. Source: apimachinery ``resource.ParseQuantity``.
    """
    return min(_parsed(value), MOST)


def _parsed(value: str | int) -> int:
    if isinstance(value, int):
        return value
    for suffix, factor in (("Gi", 2**30), ("Mi", 2**20), ("", 1)):  # nearly all of them, a hundred times faster
        if value.endswith(suffix) and (digits := value[: len(value) - len(suffix)]).isdecimal() and digits.isascii():
            return int(digits) * factor
    text = str(value).strip()
    number = text.rstrip("EPTGMKkimun") if not text[-1:].isdigit() else text
    suffix = text[len(number) :]
    try:
        scaled = {"m": Decimal("0.001")}.get(suffix) or Decimal(_SUFFIXES[suffix])
        return int((Decimal(number) * scaled).to_integral_value(ROUND_CEILING))
    except (KeyError, InvalidOperation) as error:
        raise ValueError(f"{value!r} is not a quantity like 512Mi or 2Gi") from error


def format_quantity(amount: int) -> str:
    """The shortest exact binary quantity: 536870912 → ``512Mi``. More than `MOST` is written as that."""
    amount = min(amount, MOST)
    for suffix in ("Ei", "Pi", "Ti", "Gi", "Mi", "Ki"):
        if amount and amount % _SUFFIXES[suffix] == 0:
            return f"{amount // _SUFFIXES[suffix]}{suffix}"
    return str(amount)


def short_quantity(amount: int) -> str:
    """About so many bytes, for people: 16750997504 → ``15.6Gi``."""
    suffix = next((suffix for suffix in ("Ei", "Pi", "Ti", "Gi", "Mi", "Ki") if amount >= _SUFFIXES[suffix]), "")
    return f"{amount / _SUFFIXES[suffix]:.1f}".removesuffix(".0") + suffix


def whole_quantity(amount: int, *, up: bool = True) -> str:
    """So many bytes, or a few more (or less), as somebody would write a size: 1288490188 → ``1229Mi``."""
    for suffix in ("Ti", "Gi"):
        if amount and amount % _SUFFIXES[suffix] == 0:
            return f"{amount // _SUFFIXES[suffix]}{suffix}"
    return f"{-(-amount // _SUFFIXES['Mi']) if up else amount // _SUFFIXES['Mi']}Mi"


#: An amount of bytes: a Kubernetes quantity on the wire, a plain int in Python.
Quantity = Annotated[
    int,
    PlainValidator(parse_quantity),
    PlainSerializer(format_quantity, return_type=str),
    WithJsonSchema(
        {
            "x-kubernetes-int-or-string": True,
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "pattern": r"^[0-9]{1,19}(\.[0-9]{1,9})?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$",
            "minimum": 0,
        }
    ),
]
