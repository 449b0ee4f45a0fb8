"""What a kind is: everything that the rest of the house must know of it, in one value.

The controller resolves and the agent lowers by these; CRDs, rights, admission and the reference are generated from them
(`zos.manifests`). `zos.kinds.registry` lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Generic, TypeVar

from zos.api.meta import Condition, Object
from zos.api.nodeworkload import NodeWorkload, Owner, Part, State, envelope
from zos.plan.facts import Facts
from zos.plan.lowered import Lowered
from zos.plan.outcome import Outcome
from zos.world.objects import Indexes
from zos.world.reader import Reader
from zos.world.resolution import Notice, Resolution, Verdict
from zos.world.shares import GIVER


class Writer(Enum):
    """Whose word the spec is."""

    TENANT = "whoever may edit its namespace"
    ADMINISTRATOR = "administrators of the grid; tenants may look"
    CONTROLLER = "the controller alone: internal"


P = TypeVar("P", bound=Part)
S = TypeVar("S", bound=State)


@dataclass(frozen=True)
class Here(Generic[P]):
    """One object on this node: what is asked for it, and what is known here.

    ``owner`` is the user's object, ``name`` the NodeWorkload's, ``since`` when that was made (RFC 3339; empty: not known),
    ``sealed`` what the secrets are called that go with it.
    """

    owner: Owner
    name: str
    part: P
    facts: Facts
    since: str = ""
    sealed: tuple[str, ...] = ()

    @classmethod
    def of(cls, workload: NodeWorkload, part: P, facts: Facts) -> Here[P]:
        spec, since = workload.spec, workload.metadata.creation_timestamp
        return cls(spec.owner, workload.name, part, facts, since, tuple(sealed.name for sealed in spec.secrets))

    def secret(self, name: str) -> str:
        """The value. Raises Unknown where it can't be opened."""
        return self.facts.secret(self.name, name)


@dataclass(frozen=True)
class Report(Generic[S]):
    """How an object stands on its node. ``verdict`` becomes the Ready condition; ``conditions`` are further ones (type, status,
    reason, message; the agent fills in observedGeneration and lastTransitionTime). ``state`` goes into NodeWorkload.status as
    it is. ``wake_at`` (seconds since the epoch) asks to report again then, even if nothing happens."""

    verdict: Verdict
    state: S | None = None
    conditions: tuple[Condition, ...] = ()
    wake_at: float | None = None


@dataclass(frozen=True)
class OnNode(Generic[P, S]):
    """The node's half of a kind. ``part`` is what the controller asks of a node for one object, ``state`` what the node says of
    it beside conditions. ``lower`` says what must exist there for it, ``report`` how that stands."""

    part: type[P]
    state: type[S] | None
    lower: Callable[[Here[P]], Lowered]
    report: Callable[[Here[P], Lowered, Outcome], Report[S]]


def _nothing(obj: Any, found: Resolution, world: Reader) -> tuple[Notice, ...]:
    return ()


@dataclass(frozen=True)
class Kind:
    """``resolve`` says what follows from one object and the world, and ``indexes`` by what it looks things up there.

    ``used_by``: the index by which objects of whatever kind are found that a deletion may have to wait for, those in its
    namespace; so one of such a kind that can't be read holds the deletion up as well. ``rest``: seconds between two resolutions
    of one object, for those that sum up many others. ``happened``: what a resolution with a status has to tell of what happened
    since the last one was written.
    """

    model: type[Object]
    resolve: Callable[[Any, Reader], Resolution]
    indexes: tuple[Indexes, ...] = ()
    node: OnNode[Any, Any] | None = None
    writer: Writer = Writer.TENANT
    used_by: str = ""
    rest: float = 0.0
    happened: Callable[[Any, Resolution, Reader], tuple[Notice, ...]] = _nothing

    @property
    def member(self) -> str:
        """What its part and state are called in a NodeWorkload."""
        return self.model.KIND.lower()

    @property
    def finalized(self) -> bool:
        """Whether it is cleaned up after: somebody writes it, and what it brought about goes when it does."""
        return self.writer is not Writer.CONTROLLER


class Kinds(Mapping[str, Kind]):
    """Kinds by name, in the order of the reference. Raises ValueError where two of them can't be together."""

    def __init__(self, kinds: Iterable[Kind]) -> None:
        listed = tuple(kinds)
        self._on_node = {kind.member: kind.node for kind in listed if kind.node is not None}
        #: The model of NodeWorkloads with the parts and states of these kinds.
        self.workload = envelope(
            {name: node.part for name, node in self._on_node.items()},
            {name: node.state for name, node in self._on_node.items() if node.state is not None},
        )
        self._by_part = {node.part: node for node in self._on_node.values()}
        self._kinds = {
            kind.model.KIND: replace(kind, model=self.workload) if issubclass(kind.model, NodeWorkload) else kind
            for kind in listed
        }
        if len(self._kinds) != len(listed):
            raise ValueError("two kinds have the same name")

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

    def on_node(self, workload: NodeWorkload) -> OnNode[Any, Any] | None:
        """Who serves a NodeWorkload; None: it is of no kind that is known here."""
        part = workload.spec.part
        return None if part is None else self._by_part.get(type(part))

    def indexes(self) -> tuple[Indexes, ...]:
        """What every kind declares, by model. Raises ValueError where two mean different things by one name, or one
        lacks what others find it or its users by."""
        models = {kind.model.KIND: kind.model for kind in self.values()}
        merged: dict[str, dict[str, Any]] = {name: {} for name in models}
        for kind in self.values():
            for declared in kind.indexes:
                models.setdefault(declared.model.KIND, declared.model)
                known = merged.setdefault(declared.model.KIND, {})
                for name, function in declared.by.items():
                    if known.setdefault(name, function) is not function:
                        raise ValueError(f"{declared.model.KIND} has two indexes {name}")
        declared_by_any = {name for by in merged.values() for name in by}
        for kind in self.values():
            if kind.node is not None and kind.node.part.offer is not Part.offer and GIVER not in merged[kind.model.KIND]:
                raise ValueError(f"{kind.model.KIND} offers file systems, and lacks the index {GIVER} of who does")
            if kind.used_by and kind.used_by not in declared_by_any:
                raise ValueError(f"{kind.model.KIND} is used by {kind.used_by}, which is no index of any kind")
        return tuple(Indexes(models[name], by) for name, by in merged.items())
