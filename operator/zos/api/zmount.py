"""ZMount: a local disk. It outlives the machines that use it; only its deletion erases data."""

from __future__ import annotations

from typing import ClassVar

from pydantic import ConfigDict, Field

from zos.api.image import LONGEST, PullSecret, image_rules
from zos.api.meta import BOOT_AS_IS, DeletionPolicy, Model, Object, Quantity, Status
from zos.api.schema import AGE, READY, REASON, Column, Rule, keyed, named, never_less, rules
from zos.api.text import Name

#: What a disk is made of: a guest sees sectors, a file system has blocks.
BLOCK = 4 << 10
#: Linux resizes no btrfs to less (btrfs_ioctl_resize).
GROWN = 256 << 20


def to_reserve(size: int, has: int = 0) -> int:
    """Bytes for a disk of which ``size`` are asked, and which has so many already: it never shrinks."""
    wanted = max(-(-size // BLOCK) * BLOCK, -(-has // BLOCK) * BLOCK)
    grows = 0 < has <= wanted - BLOCK
    return max(wanted, GROWN) if grows else wanted


def boot_as_it_is(namespace: str, name: str, uid: str) -> str:
    """What a user says where a disk holds a system that nobody here knows any more."""
    word = f"kubectl annotate zmount {name} -n {namespace} --overwrite {BOOT_AS_IS}={uid}"
    return f"if it is a system, {word} has it booted as it is"


class MountReference(Model):
    name: str = Field(min_length=1, max_length=253, json_schema_extra=rules(named("source.zmount.name")))
    """A ZMount of the same namespace."""


class MountSource(Model):
    """What a disk begins with: exactly one."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule("has(self.zmount) != has(self.image)", "source must have exactly one of: zmount, image"),
            Rule(
                "!has(self.imagePullSecrets) || has(self.image)",
                "source.imagePullSecrets are for an image",
                ".imagePullSecrets",
            ),
        )
    )

    zmount: MountReference | None = None
    """Another disk, of which this one is a full copy. It is made on that one's node, while no machine runs with that one."""

    image: str | None = Field(default=None, max_length=LONGEST, json_schema_extra=image_rules("source.image"))
    """An image that is a disk, or has exactly one in it, as a virtual machine's ``spec.image``: that is written to this one,
    which has to be as large at least. A machine can boot from it, whatever image it names, or have it beside another."""

    image_pull_secrets: tuple[PullSecret, ...] = Field(default=(), max_length=8, json_schema_extra=keyed("name"))
    """Credentials for the registry of an ``oci://`` image, as of a ZMachine."""


class ZMountSpec(Model):
    size: Quantity = Field(
        json_schema_extra=rules(
            Rule(
                "quantity(string(self)).compareTo(quantity('16Mi')) >= 0",
                "size must be at least 16Mi, which a file system needs; 10Gi for example",
            ),
        )
    )
    """Bytes, like 10Gi, reserved in full on the node and rounded up: to whole blocks of 4Ki, and to 256Mi where a smaller disk
    grows, as the file system on it grows to no less. ``status.size`` says what it is then. It can grow, even while the machine
    runs, but not become less than what it has."""

    node_name: str | None = Field(
        default=None,
        max_length=253,
        json_schema_extra=rules(
            named("nodeName"), Rule("self == oldSelf", "nodeName is immutable: a disk does not move between nodes")
        ),
    )
    """The GridNode to be on; can't be changed. Absent: the node of the first machine that uses it, until then where there is
    room."""

    source: MountSource | None = None
    """What the disk begins with; can't be changed. The disk is Ready when all of it is there; what it was made from may go
    then. Absent: an empty file system."""

    deletion_policy: DeletionPolicy = DeletionPolicy.ERASE
    """What becomes of the data when this object is deleted. ``Erase``: it is gone. ``Retain``: it stays on its node in
    quarantine, until an administrator gives it to another object or discards it."""


class ZMountStatus(Status):
    node_name: Name | None = None
    """The GridNode that it is on. Absent: none yet; the condition says why."""

    size: Quantity | None = None
    """What is reserved on the node, ``spec.size`` rounded up. Absent or less than that: the node has yet to make or grow it."""

    used_bytes: Quantity | None = None
    """What the file system on it says it uses: told when that has changed by a tenth, once a minute at most. Absent: it has
    none that says so (btrfs does). The agent's metrics have it exactly (``zos_disk_used_bytes``)."""

    used_by: Name | None = None
    """The ZMachine that has it now; it can't be deleted meanwhile. Absent: none."""

    used: bool = False
    """Whether a machine has ever had it, or it is a copy of another. Then it holds data and stays on its node."""


class ZMount(Object):
    """A local disk on one node. It outlives the machines that use it; only its deletion erases the data."""

    KIND: ClassVar[str] = "ZMount"
    PLURAL: ClassVar[str] = "zmounts"
    SHORT_NAMES = ("zmnt",)
    RULES = (
        never_less("size", "size must not be less than what the disk has, status.size: a disk only grows"),
        Rule(
            "has(self.spec.source) == has(oldSelf.spec.source)"
            " && (!has(self.spec.source) || self.spec.source == oldSelf.spec.source)",
            "source is immutable: a disk begins once; make another one",
            ".spec.source",
        ),
    )
    COLUMNS = (
        Column("Size", ".status.size"),
        Column("Used", ".status.usedBytes"),
        Column("Node", ".status.nodeName"),
        Column("Used By", ".status.usedBy"),
        READY,
        REASON,
        AGE,
    )

    spec: ZMountSpec
    status: ZMountStatus = Field(default_factory=ZMountStatus)
