"""Nodes that are dicts: for load tests and simulations of large grids. Everything but the drivers is the real agent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from zos.drivers import Driver, DriverError
from zos.plan.diff import Observed, Op
from zos.plan.facts import DomainFact, ImageFact
from zos.plan.items import (
    Bridge,
    Disk,
    Domain,
    File,
    Firewall,
    Image,
    Item,
    Netns,
    Route,
    Segment,
    Service,
    Sysctl,
    Tap,
    Veth,
    WireGuard,
)


@dataclass
class Node:
    """What exists on a simulated node, and how it behaves. ``faults``: key → the error that operating on it gives.
    ``delay``: seconds an operation of a slow driver takes. It outlives the agents that run on it."""

    things: dict[str, Item] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    writes: int = 0
    watchers: list[Callable[[str], None]] = field(default_factory=list)

    def lose(self, key: str) -> None:
        """Something disappears behind the agent's back."""
        del self.things[key]
        for watcher in self.watchers:
            watcher(key)


class _DictDriver:
    """Serves some item classes of a simulated node."""

    ITEMS: ClassVar[tuple[type[Item], ...]] = ()
    SLOW: ClassVar[bool] = False

    def __init__(self, node: Node) -> None:
        self.node = node
        self._dirty: Callable[[], None] | None = None
        node.watchers.append(self._lost)

    async def observe(self, wanted: Sequence[Item]) -> Mapping[str, Observed]:
        return {
            key: Observed(key, item, item.owner, item.HOLDS_DATA)
            for key, item in self.node.things.items()
            if isinstance(item, self.ITEMS)
        }

    async def apply(self, op: Op) -> None:
        if self.SLOW:
            await asyncio.sleep(self.node.delay)
        if op.key in self.node.faults:
            raise DriverError(self.node.faults[op.key])
        self.node.writes += 1
        if op.item is None:
            self.node.things.pop(op.key, None)
        else:
            self.node.things[op.key] = replace(op.item, needs=())

    def progress(self, key: str) -> str:
        return ""

    def watch(self, dirty: Callable[[], None]) -> None:
        self._dirty = dirty

    async def close(self) -> None:
        self.node.watchers.remove(self._lost)

    def _lost(self, key: str) -> None:
        if self._dirty is not None:
            self._dirty()


class Quick(_DictDriver):
    ITEMS: ClassVar[tuple[type[Item], ...]] = (
        Netns,
        Sysctl,
        Bridge,
        Veth,
        Segment,
        Tap,
        Route,
        Firewall,
        WireGuard,
        File,
        Service,
        Disk,
    )


class Images(_DictDriver):
    ITEMS: ClassVar[tuple[type[Item], ...]] = (Image,)
    SLOW = True

    def facts(self) -> Mapping[str, ImageFact | str]:
        return {
            item.ref: ImageFact(digest=f"sha256:{abs(hash(item.ref)):x}", entrypoint=("/bin/init",))
            for item in self.node.things.values()
            if isinstance(item, Image)
        }


class Domains(_DictDriver):
    ITEMS: ClassVar[tuple[type[Item], ...]] = (Domain,)
    SLOW = True

    def facts(self) -> Mapping[str, DomainFact]:
        return {
            item.name: DomainFact(running=item.running, booted=item.running, started_at=1.0, accelerator="tcg")
            for item in self.node.things.values()
            if isinstance(item, Domain)
        }


def drivers(node: Node) -> tuple[Driver, ...]:
    return (Quick(node), Images(node), Domains(node))
