"""What is known of disks and volumes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from zos.plan.facts.fact import Fact


@dataclass(frozen=True)
class UnusedDiskFact(Fact):
    """A disk that no guest ever had, as the node itself knows."""


@dataclass(frozen=True, kw_only=True)
class VolumeFact(Fact):
    """A volume that is here. ``size`` is what its directory can hold and ``used`` what it does, in bytes, as it was when it was
    mounted last (``used`` to a hundredth of the size). ``problem``: why it can't be used as it is; empty where it can."""

    ABOUT: ClassVar[str] = "volumes"

    size: int
    used: int
    problem: str = ""
