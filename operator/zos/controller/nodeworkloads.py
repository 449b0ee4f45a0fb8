"""What nodes are asked for: an object's NodeWorkloads, one on each node that has something of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from zos.api import names
from zos.api.meta import AGENT_FINALIZER, API_VERSION, Key, Object, Reason
from zos.api.names import OWNER_UID
from zos.api.nodeworkload import NodeWorkload, NodeWorkloadSpec, Owner, Part
from zos.controller.farewell import Farewell, Word
from zos.controller.sealing import seal, sealed_as
from zos.controller.writing import MANAGER, Exchange, attempt, every
from zos.kinds.kind import Kinds
from zos.world.resolution import Resolution, Workload, waiting

#: Seconds for which what nobody waits for is gathered: machines come and go together, and with them their names.
_GATHER = 2.0


class NodeWorkloads:
    """``clock`` gives seconds."""

    def __init__(self, exchange: Exchange, kinds: Kinds, farewell: Farewell, clock: Callable[[], float]) -> None:
        self._client = exchange.client
        self._world = exchange.world
        self._absorb = exchange.absorb
        self._kinds = kinds
        self._farewell = farewell
        self._again = exchange.again
        self._clock = clock
        self._gathering: dict[Key, dict[str, float]] = {}  # by object and its NodeWorkload's namespace: since when

    def of(self, obj: Object) -> list[NodeWorkload]:
        return [*self._world.find(NodeWorkload, owner=obj.uid)]

    def unread(self, obj: Object) -> list[Key]:
        """Those of it that this controller can't read."""
        return [key for key, _ in self._world.opaque(NodeWorkload.KIND, obj.uid)]

    def leavers(self, obj: Object, wanted: tuple[Workload, ...] | None) -> tuple[NodeWorkload, ...]:
        """Those on nodes that are to have nothing of it any more."""
        if wanted is None:
            return ()
        places = {names.node_namespace(workload.node) for workload in wanted}
        return tuple(workload for workload in self.of(obj) if workload.namespace not in places)

    def as_asked(self, obj: Object, resolution: Resolution) -> Resolution:
        """Ready is what nodes say of what they are asked for now, so nothing is before it is asked. The resolution judged what
        they were asked for before."""
        if not resolution.verdict.ready or obj.deleting:
            return resolution
        present = {workload.namespace: workload for workload in self.of(obj)} if resolution.workloads else {}
        untold = [
            wish.node
            for wish in resolution.workloads or ()
            if wish.part is not None
            and not _is_asked(obj, wish, wish.part, present.get(names.node_namespace(wish.node)), in_all=False)
        ]
        if not untold:
            return resolution
        words = f"node {untold[0]} is" if len(untold) == 1 else f"{len(untold)} nodes are"
        return replace(resolution, verdict=waiting(Reason.PROGRESSING, f"{words} being told what changed"))

    async def ask(self, obj: Object, wanted: tuple[Workload, ...], leavers: tuple[NodeWorkload, ...]) -> list[str]:
        """Asks all nodes at once, then parts from those that leave. Gives what is refused for good."""
        present = {workload.namespace: workload for workload in self.of(obj)}
        places = {names.node_namespace(workload.node): workload for workload in wanted}
        unread = {key.namespace for key in self.unread(obj)}
        asked = await every(
            [
                attempt(f"node {wish.node}", partial(self._ask, obj, place, wish.part, wish, present.get(place)))
                for place, wish in places.items()
                if wish.part is not None and place not in unread
            ]
        )
        for leaver in leavers:
            workload = present.get(leaver.namespace)
            if workload is None or workload.uid != leaver.uid or workload.metadata.generation != leaver.metadata.generation:
                continue  # gone, or somebody has asked something of it since
            if not (workload.deleting and workload.spec.unwanted):
                await self._farewell.part(workload, Word.RETAIN)  # what was never used goes; the node knows
        stays = "can't be read by this controller and stays as it is: upgrade it"
        return [
            *(f"its NodeWorkload in {place} {stays}" for place in sorted(unread & places.keys())),
            *(words for refused in asked for words in refused),
        ]

    async def _ask(self, obj: Object, namespace: str, part: Part, wanted: Workload, present: NodeWorkload | None) -> None:
        if present is not None and present.deleting:
            return  # its end wakes us
        if _is_asked(obj, wanted, part, present):
            self._gathering.get(obj.key, {}).pop(namespace, None)
            return
        if (
            present is not None
            and _is_asked(obj, wanted, part, present, in_all=False)
            and (pause := self._gather(obj, namespace)) > 0
        ):
            self._again(obj.key, pause)
            return
        name = names.readable(f"{obj.KIND}-{obj.namespace}-{obj.name}", obj.uid)
        body = {
            "apiVersion": API_VERSION,
            "kind": NodeWorkload.KIND,
            "metadata": {
                "name": name,
                "namespace": namespace,
                "labels": {OWNER_UID: obj.uid},
                "finalizers": [AGENT_FINALIZER],
            },
            "spec": _applied(self._spec(obj, part, wanted, present).wire()),
        }
        raw = await self._client.patch(NodeWorkload, namespace, name, body, type="apply", manager=MANAGER)
        self._absorb(NodeWorkload.key_of(namespace, name), raw)

    def forget(self, obj: Object) -> None:
        """The object is gone."""
        self._gathering.pop(obj.key, None)

    def _gather(self, obj: Object, namespace: str) -> float:
        """Seconds until what is gathered for a node is written; not positive: now."""
        gathering = self._gathering.setdefault(obj.key, {})
        pause = gathering.setdefault(namespace, self._clock()) + _GATHER - self._clock()
        if pause <= 0:
            del gathering[namespace]
        return pause

    def _spec(self, obj: Object, part: Part, wanted: Workload, present: NodeWorkload | None) -> NodeWorkloadSpec:
        # The generation is not part of it: a change that means nothing to the node must not be written to it.
        owner = Owner(kind=obj.KIND, namespace=obj.namespace, name=obj.name, uid=obj.uid)
        before = present.spec.secrets if present is not None else ()
        secrets = before if wanted.secrets is None else seal(wanted.secrets, wanted.sealing_key, before)
        return self._kinds.workload.asking(owner, part, secrets, older=wanted.older)


def _applied(spec: dict[str, Any]) -> dict[str, Any]:
    """Without maps that have nothing in them: server-side apply makes null of one whose last entry was taken out, and refuses
    it then. What is left out is taken away whole. (Which member it is that a part has, says that the member is there.)"""

    def filled(value: Any, keep: bool = False) -> Any:
        if not isinstance(value, dict):
            return value
        return {name: filled(one) for name, one in value.items() if one != {} or keep}

    return {name: filled(one, keep=name == "part") for name, one in spec.items()}


def _is_asked(obj: Object, wish: Workload, part: Part, present: NodeWorkload | None, *, in_all: bool = True) -> bool:
    """Whether a node is asked for exactly this, and for nobody else; not ``in_all``: for what of it is awaited. Sealing is
    randomised: what counts is what was sealed."""
    if present is None or present.deleting or present.spec.erase is not None or present.spec.retain:
        return False
    owner, spec = present.spec.owner, present.spec
    if (owner.kind, owner.namespace, owner.name, owner.uid) != (obj.KIND, obj.namespace, obj.name, obj.uid):
        return False
    if wish.secrets is not None and not sealed_as(wish.secrets, wish.sealing_key, spec.secrets):
        return False
    if spec.older != wish.older or spec.part is None:
        return False
    return spec.part == part or (not in_all and spec.part.awaited() == part.awaited())
