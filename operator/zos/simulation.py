"""A whole grid in one process: the real controller and real agents over a real API server; only the nodes are dicts.

For tests of many nodes and for load: `hack/bench` and the tests use it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zos.agent.agent import Agent
from zos.agent.settings import Settings
from zos.agent.simulation import Node, drivers
from zos.api import names
from zos.api.gridnode import GridNode
from zos.api.meta import API_VERSION
from zos.controller.main import Controller, ControllerSettings
from zos.drivers.keyring import Keyring
from zos.kube.client import Access, Client


@dataclass
class Grid:
    """``writes`` has one (who, kind, verb, status) for each write of controller and agents to the API server."""

    kubeconfig: str
    directory: Path
    client: Client
    nodes: dict[str, Node] = field(default_factory=dict)
    writes: list[tuple[str, str, str, int]] = field(default_factory=list)
    agents: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    heartbeat: float = Settings.heartbeat
    lease: int = Settings.lease

    async def node(self, name: str, *, ipv4: str | None = None, **capacity: int) -> None:
        """A GridNode with its agent running."""
        spec = {"endpoint": {"ipv4": ipv4}} if ipv4 else {}
        body = {"apiVersion": API_VERSION, "kind": "GridNode", "metadata": {"name": name}, "spec": spec}
        await self.client.create(GridNode, "", body)
        self.nodes[name] = Node()
        self.start_agent(name, **capacity)

    def start_agent(self, name: str, **capacity: int) -> None:
        self.agents[name] = asyncio.create_task(self._agent(name, **capacity))

    async def stop_agent(self, name: str) -> None:
        task = self.agents.pop(name)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def _agent(self, name: str, cpu: int = 64, memory: int = 2**38, storage: int = 2**44) -> None:
        state = self.directory / names.ident(name)
        state.mkdir(parents=True, exist_ok=True)
        settings = Settings(
            node=name,
            state=state,
            kubeconfig=self.kubeconfig,
            heartbeat=self.heartbeat,
            lease=self.lease,
            capacity_cpu=cpu,
            capacity_memory=memory,
            capacity_storage=storage,
        )
        access = await Access.load(self.kubeconfig)
        client = Client(access, wrote=lambda kind, verb, status: self.writes.append((f"agent {name}", kind, verb, status)))
        served = drivers(self.nodes[name])
        agent = Agent(
            settings,
            client,
            served,
            keyring=Keyring(state / "keys"),
        )
        try:
            await agent.run()
        finally:
            await client.close()

    @contextlib.asynccontextmanager
    async def controller(self, identity: str = "one", **settings: Any) -> AsyncIterator[Controller]:
        """A running controller; on the way out it stops as on SIGTERM."""
        controller = await self._controller(identity, **settings)
        stop = asyncio.Event()
        task = asyncio.create_task(controller.run(stop))
        try:
            yield controller
        finally:
            stop.set()
            await asyncio.gather(task, return_exceptions=True)

    @contextlib.asynccontextmanager
    async def supervised(self, identity: str = "one") -> AsyncIterator[None]:
        """A controller that is begun anew when it ends by itself (it could not renew its leadership), as a supervisor does."""
        stop = asyncio.Event()

        async def lives() -> None:
            while not stop.is_set():
                controller = await self._controller(identity)
                with contextlib.suppress(Exception):  # it has logged why
                    await controller.run(stop)

        task = asyncio.create_task(lives())
        try:
            yield
        finally:
            stop.set()
            await asyncio.gather(task, return_exceptions=True)

    async def _controller(self, identity: str, **settings: Any) -> Controller:
        access = await Access.load(self.kubeconfig)
        controller = Controller(access, ControllerSettings(self.kubeconfig, identity, **settings))
        controller.observe_writes(lambda kind, verb, status: self.writes.append((identity, kind, verb, status)))
        return controller


@contextlib.asynccontextmanager
async def grid(kubeconfig: str, directory: Path) -> AsyncIterator[Grid]:
    """An empty grid; agents stop on the way out."""
    client = Client(await Access.load(kubeconfig))
    made = Grid(kubeconfig, directory, client)
    try:
        yield made
    finally:
        for name in tuple(made.agents):
            await made.stop_agent(name)
        await client.close()


def written(grid: Grid, kinds: Sequence[str] = ()) -> int:
    """Writes so far, heartbeats left out; only of ``kinds`` if given."""
    return sum(1 for _, kind, *_ in grid.writes if kind != "Lease" and (not kinds or kind in kinds))


def manifest(kind: str, name: str, spec: dict[str, object], namespace: str = "") -> dict[str, object]:
    """A user's object as a dict."""
    meta = {"name": name} | ({"namespace": namespace} if namespace else {})
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": meta, "spec": json.loads(json.dumps(spec))}
