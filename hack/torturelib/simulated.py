"""A grid of simulated nodes to torture: the real controllers and agents over a real API server, nodes that are dicts.

It knows what it has asked for, and remembers what it was shown; nothing of the product's memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TypeVar

from pydantic import ValidationError

from simulated import sweep, until
from torturelib.chaos import Refused, Unseen
from zos.api.contract import Contract, NameContract
from zos.api.core import Secret
from zos.api.farm import Farm
from zos.api.gridnode import GridNode
from zos.api.meta import Object
from zos.api.network import Network
from zos.api.publicip import PublicIP
from zos.api.zmachine import ZMachine
from zos.api.zmount import ZMount
from zos.kube.client import ApiError, NotFound, Unavailable
from zos.plan.items import Item
from zos.simulation import Grid, manifest

T = TypeVar("T", bound=Object)
USERS: tuple[type[Object], ...] = (ZMachine, ZMount, PublicIP, Network, Contract, NameContract)
NAMESPACE = "default"


class Journal(dict[str, Item]):
    """What exists on a node; remembers the keys that an agent has taken away."""

    def __init__(self) -> None:
        super().__init__()
        self.removed: list[str] = []

    def pop(self, key: str, *default: object) -> Item | None:  # type: ignore[override]
        if key in self:
            self.removed.append(key)
        return super().pop(key, None)


@dataclass
class Wanted:
    """What users have asked for and not deleted: name → spec, by kind. Names are never used twice."""

    objects: dict[type[Object], dict[str, dict[str, object]]] = field(default_factory=lambda: {kind: {} for kind in USERS})
    number: int = 0

    def name(self, prefix: str) -> str:
        self.number += 1
        return f"{prefix}{self.number}"

    def used(self, kind: type[Object], name: str) -> bool:
        """Does somebody name it?"""
        if kind is Network:
            return any(spec["network"] == {"name": name} for spec in self.objects[ZMachine].values())
        if kind is ZMount:
            return any(name in str(spec.get("disks", "")) for spec in self.objects[ZMachine].values())
        if kind is Contract:
            return any(spec["contract"] == name for spec in self.objects[PublicIP].values())
        return False


@dataclass
class Simulated:
    """The world. ``deleted``: uids of what users have deleted; what a node has of it may go. ``precious``: (node, key of
    what is there) → uid of whose it is, of all that must not go otherwise. ``had`` and ``laptops``: what was seen at the
    last look."""

    grid: Grid
    nodes: int = 5
    wanted: Wanted = field(default_factory=Wanted)
    journals: dict[str, Journal] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)
    precious: dict[tuple[str, str], str] = field(default_factory=dict)
    had: dict[object, object] = field(default_factory=dict)
    laptops: dict[str, str | None] = field(default_factory=dict)
    _controllers: dict[str, contextlib.AsyncExitStack] = field(default_factory=dict)
    _lives: int = 0

    @property
    def names(self) -> list[str]:
        return [f"n{number}" for number in range(1, self.nodes + 1)]

    def endpoint(self, name: str) -> str | None:
        """Every third can't be reached from outside."""
        number = int(name[1:])
        return f"198.51.100.{number}" if number % 3 else None

    def hidden(self, name: str) -> bool:
        return self.endpoint(name) is None

    async def begin(self) -> None:
        await self.start_controller()
        ranges = [{"range": "203.0.113.0/24", "gateway": "203.0.113.1"}]
        await self.grid.client.create(Farm, "", manifest("Farm", "farm", {"publicIPv4": ranges, "allowNonGlobal": True}))
        for name in self.names:
            await self.grid.node(name, ipv4=self.endpoint(name))
            self.journals[name] = Journal()
            self.grid.nodes[name].things = self.journals[name]
        for name in self.names:
            await self.ready(GridNode, "", name)
        await self._stock()

    async def _stock(self) -> None:
        """Enough for chaos to find something from the first moment on."""
        everywhere = [{"name": name} for name in self.names]
        for number in (1, 2):
            laptops = [{"name": f"laptop-{number}"}]
            await self.create(Network, "network", {"ipRange": f"10.{number}.0.0/16", "nodes": everywhere, "access": laptops})
            await self.create(Contract, "contract", {"farm": "farm", "publicIPv4": 3})
            await self.create(NameContract, "namecontract", {"name": f"stock{number}"})
        networks, contracts = list(self.wanted.objects[Network]), list(self.wanted.objects[Contract])
        for number in range(6):
            machine = {"image": "oci://r/i:t", "memory": "256Mi", "network": {"name": networks[number % 2]}}
            disk = await self.create(ZMount, "zmount", {"size": "1Gi"})
            await self.create(ZMachine, "zmachine", machine | {"disks": [{"name": disk, "mountPath": "/data"}]})
            if number < 4:
                await self.create(PublicIP, "publicip", {"contract": contracts[number % 2], "ipv6": False})
        for kind in USERS:
            for name in self.wanted.objects[kind]:
                await self.ready(kind, NAMESPACE, name)

    async def ready(self, kind: type[Object], namespace: str, name: str) -> None:
        async def look() -> bool:
            raw = await self.grid.client.get(kind, namespace, name)
            condition = raw and kind.model_validate(raw).status.condition("Ready")  # type: ignore[attr-defined]
            return bool(condition and condition.status == "True")

        await until(look, 60)

    async def calm(self) -> None:
        for name in self.names:
            self.grid.nodes[name].faults.clear()
            if name not in self.grid.agents:
                self.grid.start_agent(name)
        if not self._controllers:
            await self.start_controller()

    async def clear(self) -> None:
        for kind in USERS:
            for name in list(self.wanted.objects[kind]):
                await self.delete(kind, name)

    async def close(self) -> None:
        """Controllers end; whatever is left in the API is swept away."""
        for life in list(self._controllers):
            await self.stop_controller(life)
        await sweep(self.grid.client)

    # What actions are made of.

    async def start_controller(self) -> str:
        self._lives += 1
        life = f"life-{self._lives}"
        stack = contextlib.AsyncExitStack()
        await stack.enter_async_context(self.grid.controller(life))
        self._controllers[life] = stack
        return life

    async def stop_controller(self, life: str) -> None:
        await self._controllers.pop(life).aclose()

    @property
    def controllers(self) -> list[str]:
        return list(self._controllers)

    async def create(self, kind: type[Object], prefix: str, spec: dict[str, object]) -> str:
        name = self.wanted.name(prefix)
        with _refused():
            await self.grid.client.create(kind, NAMESPACE, manifest(kind.KIND, name, spec, NAMESPACE))
        self.wanted.objects[kind][name] = spec
        return name

    async def edit(self, kind: type[Object], name: str, **changes: object) -> None:
        with _refused():
            await self.grid.client.patch(kind, NAMESPACE, name, {"spec": changes})
        self.wanted.objects[kind][name] |= changes

    async def delete(self, kind: type[Object], name: str) -> None:
        with _refused():
            raw = await self.grid.client.get(kind, NAMESPACE, name)
            if raw is not None:
                self.deleted.add(raw["metadata"]["uid"])
                await self.grid.client.delete(kind, NAMESPACE, name)
        del self.wanted.objects[kind][name]

    async def listed(self, kind: type[T], namespace: str = "") -> list[T]:
        """Those that can be read. Raises Unseen."""
        try:
            raws = await self.grid.client.objects(kind, namespace)
        except (ApiError, Unavailable) as error:
            raise Unseen(str(error)) from None
        found: list[T] = []
        for raw in raws:
            with contextlib.suppress(ValidationError):
                found.append(kind.model_validate(raw))
        return found

    async def keys(self) -> dict[str, str | None]:
        """Name of a laptop's Secret → private key."""
        return {s.name: s.text("privateKey") for s in await self.listed(Secret, NAMESPACE) if s.name.endswith("-wireguard")}


@contextlib.contextmanager
def _refused():  # type: ignore[no-untyped-def]
    try:
        yield
    except (ApiError, Unavailable, NotFound) as error:
        raise Refused(str(error)) from None


@contextlib.asynccontextmanager
async def world(grid: Grid) -> AsyncIterator[Simulated]:
    made = Simulated(grid)
    try:
        yield made
    finally:
        await made.close()
