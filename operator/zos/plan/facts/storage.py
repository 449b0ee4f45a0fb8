"""What is known of disks and volumes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from zos.plan.facts.fact import Fact


@dataclass(frozen=True, kw_only=True)
class Written:
    """What a virtual machine's disk was written from: an image's digest, and what its user called it; both empty where its user
    says that there is a system, and nobody knows what from."""

    image: str
    ref: str
    firmware: Literal["bios", "uefi"] = "bios"


@dataclass(frozen=True, kw_only=True)
class DiskFact(Fact):
    """A disk that is here, of ``size`` bytes. ``written``: a virtual machine's system, None for none. ``holds`` is what else
    somebody has put there, in words, of a disk that is wanted for one; empty: nothing that would be a loss. ``partitioned``:
    that has a partition table, and may be a system. ``plain`` is what there is, in words, on one that was written and has
    nothing to start from, like a file system over the whole of it; ``mountable``: that is one which guests are given."""

    ABOUT: ClassVar[str] = "disks"

    size: int
    written: Written | None = None
    holds: str = ""
    partitioned: bool = False
    plain: str = ""
    mountable: bool = False


@dataclass(frozen=True)
class UnusedDiskFact(Fact):
    """A disk that no guest ever had, as the node itself knows."""


@dataclass(frozen=True)
class DiskUseFact(Fact):
    """How much of a disk its file system uses, in bytes, about: that changes seldom. There is none of one that doesn't tell."""

    used: int


@dataclass(frozen=True, kw_only=True)
class VolumeFact(Fact):
    """A volume that is here. ``size`` is what its directory can hold and ``used`` what it does, in bytes, as it was when it was
    mounted last (``used`` to a hundredth of the size). ``problem``: why it can't be used as it is; empty where it can."""

    ABOUT: ClassVar[str] = "volumes"

    size: int
    used: int
    problem: str = ""
