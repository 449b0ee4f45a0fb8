"""What a kind is: everything that the rest of the house must know of it, in one value.

The controller resolves and the agent lowers by these; CRDs, rights, admission and the reference are generated from them
(`zos.manifests`). `zos.kinds.registry` lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from zos.api.meta import Condition, Object
from zos.api.nodeworkload import MachineState, MountState, NetworkState, NodeWorkload, Part
from zos.plan.facts import Facts
from zos.plan.lowered import Lowered
from zos.plan.outcome import Outcome
from zos.world.resolution import Notice, Resolution, Verdict
from zos.world.store import Indexes, Reader


class Writer(Enum):
    """Whose word the spec is."""

    TENANT = "whoever may edit its namespace"
    ADMINISTRATOR = "administrators of the grid; tenants may look"
    CONTROLLER = "the controller alone: internal"


@dataclass(frozen=True)
class Report:
    """How a NodeWorkload stands on its node: what ``report(workload, facts, lowered, outcome)`` of a kind gives.

    ``verdict`` becomes the Ready condition; ``conditions`` are further ones (type, status, reason, message; the agent fills
    in observedGeneration and lastTransitionTime). ``machine``, ``mount`` and ``network`` go into NodeWorkload.status as they
    are.
    """

    verdict: Verdict
    machine: MachineState | None = None
    mount: MountState | None = None
    network: NetworkState | None = None
    conditions: tuple[Condition, ...] = ()


@dataclass(frozen=True)
class OnNode:
    """The node's half of a kind. ``part`` is what the controller asks of a node for one object; ``lower`` says what must exist
    there for it, ``report`` how that stands."""

    part: type[Part]
    lower: Callable[[NodeWorkload, Facts], Lowered]
    report: Callable[[NodeWorkload, Facts, Lowered, Outcome], Report]


def _nothing(obj: Any, found: Resolution, world: Reader) -> tuple[Notice, ...]:
    return ()


@dataclass(frozen=True)
class Kind:
    """``resolve`` says what follows from one object and the world, and ``indexes`` by what it looks things up there.

    ``users``: kinds whose objects, in its namespace, a deletion may have to wait for. ``rest``: seconds between two resolutions
    of one object, for those that sum up many others. ``happened``: what a resolution with a status has to tell of what happened
    since the last one was written.
    """

    model: type[Object]
    resolve: Callable[[Any, Reader], Resolution]
    indexes: tuple[Indexes, ...] = ()
    node: OnNode | None = None
    writer: Writer = Writer.TENANT
    users: tuple[type[Object], ...] = ()
    rest: float = 0.0
    happened: Callable[[Any, Resolution, Reader], tuple[Notice, ...]] = _nothing

    @property
    def finalized(self) -> bool:
        """Whether it is cleaned up after: somebody writes it, and what it brought about goes when it does."""
        return self.writer is not Writer.CONTROLLER


class Kinds(Mapping[str, Kind]):
    """Kinds by name, in the order of the reference. Raises ValueError where two of them can't be together."""

    def __init__(self, kinds: Iterable[Kind]) -> None:
        listed = tuple(kinds)
        self._kinds = {kind.model.KIND: kind for kind in listed}
        if len(self._kinds) != len(listed):
            raise ValueError("two kinds have the same name")
        self._on_node = {kind.node.part: kind.node for kind in listed if kind.node is not None}

    def __getitem__(self, name: str) -> Kind:
        return self._kinds[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._kinds)

    def __len__(self) -> int:
        return len(self._kinds)

    def plus(self, *others: Kind) -> Kinds:
        return Kinds((*self.values(), *others))

    @property
    def models(self) -> tuple[type[Object], ...]:
        return tuple(kind.model for kind in self.values())

    def written_by(self, *writers: Writer) -> tuple[type[Object], ...]:
        return tuple(kind.model for kind in self.values() if kind.writer in writers)

    def on_node(self, workload: NodeWorkload) -> OnNode | None:
        """Who serves a NodeWorkload; None: it is of no kind that is known here."""
        part = workload.spec.part
        return None if part is None else self._on_node.get(type(part))

    def indexes(self) -> tuple[Indexes, ...]:
        """What every kind declares, by model. Raises ValueError where two mean different things by one name."""
        merged: dict[type[Object], dict[str, Any]] = {kind.model: {} for kind in self.values()}
        for kind in self.values():
            for declared in kind.indexes:
                known = merged.setdefault(declared.model, {})
                for name, function in declared.by.items():
                    if known.setdefault(name, function) is not function:
                        raise ValueError(f"{declared.model.KIND} has two indexes {name}")
        return tuple(Indexes(model, by) for model, by in merged.items())
