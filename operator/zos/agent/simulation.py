"""Nodes that are dicts: for load tests and simulations of large grids. Everything but the drivers is the real agent."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from zos.drivers import DriverError
from zos.drivers.keeping import as_asked, here_already, missing, nothing_to_adopt, refuse_to_shrink, used_meanwhile
from zos.plan.diff import Observed, Op
from zos.plan.facts import (
    ConnectedFact,
    DiskFact,
    DiskImage,
    DomainFact,
    Fact,
    ImageFact,
    ImageProblem,
    Known,
    ServiceFact,
    ShutFact,
    SilentFact,
    UnusedDiskFact,
    VolumeFact,
    Written,
)
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
    System,
    Tap,
    Veth,
    Volume,
    WireGuard,
)


@dataclass
class Node:
    """What exists on a simulated node, and how it behaves. ``faults``: key → the error that operating on it gives. ``blind``:
    item class → the error that looking gives to the driver that serves it. ``delay``: seconds an operation of a slow driver
    takes. ``starts``: how often each guest was started. ``unused``: names of disks and volumes in which nothing ever was.
    ``machines`` are refs of images that are virtual machines', with their disks; ``written``: what disks were written from.
    ``prefixes``, ``shut`` and ``silent`` are what is seen of its networks. It outlives the agents that run on it."""

    things: dict[str, Item] = field(default_factory=dict)
    prefixes: tuple[str, ...] = ()
    shut: dict[str, str] = field(default_factory=dict)
    silent: dict[str, frozenset[str]] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    blind: dict[type[Item], str] = field(default_factory=dict)
    delay: float = 0.0
    writes: int = 0
    starts: dict[str, int] = field(default_factory=dict)
    unused: set[str] = field(default_factory=set)
    machines: dict[str, DiskImage] = field(default_factory=dict)
    written: dict[str, Written] = field(default_factory=dict)
    watchers: list[Callable[[str], None]] = field(default_factory=list)

    def lose(self, key: str) -> None:
        """Something disappears behind the agent's back."""
        del self.things[key]
        self.stir(key)

    def stir(self, key: str = "") -> None:
        """Something happens that the agent hears of."""
        for watcher in self.watchers:
            watcher(key)

    def user_of(self, disk: str) -> str | None:
        """The guest that runs with a disk."""
        for item in self.things.values():
            if isinstance(item, Domain) and item.running and disk in (d.disk for d in item.all_disks):
                return item.name
        return None


def digest_of(ref: str) -> str:
    """Of a simulated image."""
    return f"sha256:{hashlib.sha256(ref.encode()).hexdigest()}"


class _DictDriver:
    """Serves some item classes of a simulated node."""

    ITEMS: ClassVar[tuple[type[Item], ...]] = ()
    SLOW: ClassVar[bool] = False

    def __init__(self, node: Node) -> None:
        self.node = node
        self._dirty: Callable[[], None] | None = None
        node.watchers.append(self._lost)

    async def observe(self, wanted: Sequence[Item]) -> Mapping[str, Observed]:
        for item in self.ITEMS:
            if item in self.node.blind:
                raise DriverError(self.node.blind[item])
        return {key: self._see(key, item, wanted) for key, item in self.node.things.items() if isinstance(item, self.ITEMS)}

    async def apply(self, op: Op) -> None:
        if self.SLOW:
            await asyncio.sleep(self.node.delay)
        if op.key in self.node.faults:
            raise DriverError(self.node.faults[op.key])
        self._do(op)
        self.node.writes += 1

    def progress(self, key: str) -> str:
        return ""

    def watch(self, dirty: Callable[[], None]) -> None:
        self._dirty = dirty

    async def close(self) -> None:
        self.node.watchers.remove(self._lost)

    def _see(self, key: str, item: Item, wanted: Sequence[Item]) -> Observed:
        return Observed(key, item, item.owner, shared=item.shared)

    def _do(self, op: Op) -> None:
        if op.item is None:
            self.node.things.pop(op.key, None)
        else:
            self.node.things[op.key] = replace(op.item, needs=())

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
    )


class Services(_DictDriver):
    """They are ready as soon as they are there."""

    ITEMS: ClassVar[tuple[type[Item], ...]] = (Service,)
    FACTS: ClassVar[tuple[type[Fact], ...]] = (ServiceFact,)

    def facts(self) -> Known:
        things = self.node.things.values()
        return {ServiceFact: {item.name: ServiceFact(up=True, ready=True) for item in things if isinstance(item, Service)}}


class Networks(_DictDriver):
    """What is seen of the node's networks."""

    FACTS: ClassVar[tuple[type[Fact], ...]] = (ConnectedFact, ShutFact, SilentFact)

    def facts(self) -> Known:
        node = self.node
        return {
            ConnectedFact: {"": ConnectedFact(node.prefixes)},
            ShutFact: {name: ShutFact(by) for name, by in node.shut.items()},
            SilentFact: {name: SilentFact(peers) for name, peers in node.silent.items()},
        }


class Images(_DictDriver):
    """Knows facts of what is wanted only, as the real one does."""

    ITEMS: ClassVar[tuple[type[Item], ...]] = (Image,)
    SLOW = True
    FACTS: ClassVar[tuple[type[Fact], ...]] = (ImageFact, ImageProblem)

    def __init__(self, node: Node) -> None:
        super().__init__(node)
        self._facts: dict[str, ImageFact] = {}
        self._problems: dict[str, ImageProblem] = {}

    async def observe(self, wanted: Sequence[Item]) -> Mapping[str, Observed]:
        seen = await super().observe(wanted)
        refs = [item.name for item in wanted if isinstance(item, Image)]
        self._facts = {
            ref: ImageFact(digest=digest_of(ref), entrypoint=("/bin/init",), disk=self.node.machines.get(ref))
            for ref in refs
            if f"image/{ref}" in seen
        }
        self._problems = {ref: self._problems[ref] for ref in refs if ref in self._problems and ref not in self._facts}
        return seen

    async def apply(self, op: Op) -> None:
        try:
            await super().apply(op)
        except DriverError as error:
            self._problems[op.key.removeprefix("image/")] = ImageProblem(str(error))
            raise

    def facts(self) -> Known:
        return {ImageFact: self._facts, ImageProblem: self._problems}


class Disks(_DictDriver):
    """Disks and volumes: what holds data."""

    ITEMS: ClassVar[tuple[type[Item], ...]] = (Disk, Volume)
    FACTS: ClassVar[tuple[type[Fact], ...]] = (UnusedDiskFact, DiskFact, VolumeFact)

    def _see(self, key: str, item: Item, wanted: Sequence[Item]) -> Observed:
        assert isinstance(item, Disk | Volume)
        asked = next((one for one in wanted if isinstance(one, type(item)) and one.name == item.name), None)
        shown = item if asked is None else as_asked(item, asked, asked.adoptee in self.node.things)
        unused = item.name in self.node.unused
        return Observed(key, shown, item.owner, holds_data=True, origin=item.origin or item.origin_of(item.name), unused=unused)

    def facts(self) -> Known:
        things = self.node.things
        return {
            UnusedDiskFact: {name: UnusedDiskFact() for name in self.node.unused if f"disk/{name}" in things},
            DiskFact: {item.name: self._fact(item) for item in things.values() if isinstance(item, Disk)},
            VolumeFact: {item.name: VolumeFact(size=item.size, used=0) for item in things.values() if isinstance(item, Volume)},
        }

    def _fact(self, item: Disk) -> DiskFact:
        written = self.node.written.get(item.name)
        return DiskFact(size=item.size, written=written, holds="" if written or item.name in self.node.unused else "data")

    def _do(self, op: Op) -> None:
        family, _, name = op.key.partition("/")
        if isinstance(op.item, Disk | Volume):
            there = self.node.things.get(op.key)
            if there is None and op.item.adopt:
                there = self._adopted(op.item)
            elif there is None and op.item.must_exist:
                raise DriverError(missing(op.item))
            elif there is not None and op.item.adopt and op.item.adoptee in self.node.things:
                raise DriverError(here_already(op.item))
            elif there is None and isinstance(op.item, Disk) and op.item.source:
                if f"disk/{op.item.source}" not in self.node.things:
                    raise DriverError(f"disk {op.item.source} is not on this node")
            elif there is None:
                self.node.unused.add(name)
            if isinstance(there, Disk) and isinstance(op.item, Disk) and there.format != op.item.format:
                raise DriverError(f"disk {name} is formatted as {there.format} and keeps what it holds")
            if isinstance(there, Disk | Volume):
                refuse_to_shrink(op.item, there.size)
        else:
            if op.observed is not None and op.observed.unused and name not in self.node.unused:
                raise DriverError(used_meanwhile(family, name))
            self.node.unused.discard(name)
            self.node.written.pop(name, None)
        super()._do(op)

    def _adopted(self, item: Disk | Volume) -> Item:
        if item.adoptee not in self.node.things:
            raise DriverError(nothing_to_adopt(item))
        if (user := self.node.user_of(item.adopted)) is not None:
            raise DriverError(f"guest {user} runs with {item.adoptee}: it is taken over when that has ended")
        self.node.unused.discard(item.adopted)
        if (written := self.node.written.pop(item.adopted, None)) is not None:
            self.node.written[item.name] = written
        return self.node.things.pop(item.adoptee)


class Systems(_DictDriver):
    """They are on their disks, and nothing beside them."""

    ITEMS: ClassVar[tuple[type[Item], ...]] = (System,)
    SLOW = True

    async def observe(self, wanted: Sequence[Item]) -> Mapping[str, Observed]:
        return {
            item.key: Observed(item.key, item, item.owner)
            for item in wanted
            if isinstance(item, System) and item.disk in self.node.written
        }

    def _do(self, op: Op) -> None:
        if not isinstance(op.item, System) or op.item.disk in self.node.written:
            return
        if op.item.disk not in self.node.unused:
            raise DriverError(f"disk {op.item.disk} holds data, and is not overwritten")
        self.node.written[op.item.disk] = Written(image=op.item.image, ref=op.item.ref, firmware=op.item.firmware)
        self.node.stir()


class Domains(_DictDriver):
    """Guests that run keep what they were started with, whatever is wanted, until they are restarted."""

    ITEMS: ClassVar[tuple[type[Item], ...]] = (Domain,)
    SLOW = True
    FACTS: ClassVar[tuple[type[Fact], ...]] = (DomainFact,)

    def __init__(self, node: Node) -> None:
        super().__init__(node)
        self._facts: dict[str, DomainFact] = {}

    async def observe(self, wanted: Sequence[Item]) -> Mapping[str, Observed]:
        self._facts = {}
        return await super().observe(wanted)

    def facts(self) -> Known:
        return {DomainFact: self._facts}

    def _see(self, key: str, item: Item, wanted: Sequence[Item]) -> Observed:
        assert isinstance(item, Domain)
        asked = next((one for one in wanted if isinstance(one, Domain) and one.name == item.name), None)
        shown: Domain = item
        if asked is not None and asked.running and item.running and asked.incarnation == item.incarnation:
            shown = asked
        self._facts[item.name] = DomainFact(
            running=item.running,
            booted=item.running,
            started_at=1.0 if item.name in self.node.starts else None,
            ended="" if item.running else "stopped",
            accelerator="tcg",
            recipe=item.recipe,
            image=item.boot.image,
            runs=item if item.running else None,
        )
        return Observed(key, shown, item.owner, origin=Domain.origin_of(item.uuid))

    def _do(self, op: Op) -> None:
        there = self.node.things.get(op.key)
        if isinstance(op.item, Domain) and op.item.running:
            if isinstance(there, Domain) and there.running and there.incarnation == op.item.incarnation:
                return
            image = op.item.boot.image
            if not image and op.item.boot.root.disk not in self.node.written:
                raise DriverError(f"nothing to boot from on {op.item.boot.root.disk}")
            if image and image not in (digest_of(item.ref) for item in self.node.things.values() if isinstance(item, Image)):
                raise DriverError(f"image {image} is not on this node any more")
            for disk in op.item.all_disks:
                if f"disk/{disk.disk}" not in self.node.things:
                    raise DriverError(f"no disk {disk.disk}")
            for share in op.item.shares:
                if share.ground not in self.node.things:
                    raise DriverError(f"no {share.ground}")
            if used := self.node.unused & {disk.disk for disk in op.item.all_disks}:
                self.node.unused -= used
                self.node.stir()
            self.node.starts[op.item.name] = self.node.starts.get(op.item.name, 0) + 1
        super()._do(op)


def drivers(node: Node) -> tuple[_DictDriver, ...]:
    return (Quick(node), Services(node), Networks(node), Images(node), Domains(node), Disks(node), Systems(node))
