"""What lowering may know of the node: observations, as values. Lowering decides on nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from zos.plan.facts.domain import DomainFact
from zos.plan.facts.fact import Fact, Unknown
from zos.plan.facts.image import DiskImage, FlistFact, ImageFact, ImageProblem, Pulled
from zos.plan.facts.kernel import KernelFact, KernelProblem
from zos.plan.facts.network import ConnectedFact, LostKeyFact, ShutFact, SilentFact
from zos.plan.facts.service import ServiceEnd, ServiceFact
from zos.plan.facts.storage import DiskFact, DiskUseFact, UnusedDiskFact, VolumeFact, Written

__all__ = [
    "ConnectedFact",
    "DiskFact",
    "DiskImage",
    "DiskUseFact",
    "DomainFact",
    "Fact",
    "Facts",
    "FlistFact",
    "ImageFact",
    "ImageProblem",
    "KernelFact",
    "KernelProblem",
    "Known",
    "LostKeyFact",
    "Pulled",
    "ServiceEnd",
    "ServiceFact",
    "ShutFact",
    "SilentFact",
    "Unknown",
    "UnusedDiskFact",
    "VolumeFact",
    "Written",
]

F = TypeVar("F", bound=Fact)
#: Facts by their type and what they are about: an image's ref, the name of a guest, a service, an interface.
Known = Mapping[type[Fact], Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """``known`` is what drivers know, ``unknown`` says of what nobody could look, and why. ``secrets`` are opened sealed values
    by workload and what the kind calls them. ``egress_deny`` is what nothing on any node may connect to, in CIDR form; ``now``
    in seconds since the epoch."""

    node: str
    now: float
    nameservers: tuple[str, ...] = ()
    egress_deny: tuple[str, ...] = ()
    secrets: Mapping[tuple[str, str], str] = field(default_factory=dict, repr=False)
    known: Known = field(default_factory=dict)
    unknown: Mapping[type[Fact], str] = field(default_factory=dict)

    def get(self, fact: type[F], name: str = "") -> F | None:
        """None: there is no such thing. Raises Unknown."""
        if (why := self.unknown.get(fact)) is not None:
            raise Unknown(f"the node can't look at its {fact.ABOUT}: {why}")
        found: F | None = self.known.get(fact, {}).get(name)
        return found

    def secret(self, workload: str, name: str) -> str:
        """The value. Raises Unknown where it can't be opened: nothing must run without it."""
        if (workload, name) not in self.secrets:
            raise Unknown(
                f"the value of {name.rpartition('/')[2]} can't be opened with this node's key: "
                "the controller seals it anew for this node's present key"
            )
        return self.secrets[workload, name]

    def connected(self) -> tuple[str, ...]:
        """Raises Unknown: what a guest must not reach is not open because nobody could tell what it is."""
        if (found := self.get(ConnectedFact)) is None:
            raise Unknown("the node could not look yet at what networks it is connected to, which its guests must not reach")
        return found.networks
