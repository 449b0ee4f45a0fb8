"""A real agent with the rights of a real agent, against a real API server. Only its node is a dict."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from apiserver import ApiServer, running
from zos.agent.agent import Agent
from zos.agent.composition import kind_of
from zos.agent.settings import Settings
from zos.agent.simulation import Node, drivers
from zos.api.core import Lease
from zos.api.gridnode import GridNode
from zos.api.meta import AGENT_FINALIZER
from zos.api.nodeworkload import NodeWorkload
from zos.api.rbac import agent_objects
from zos.drivers.keyring import Keyring
from zos.kube.client import Access, ApiError, Client
from zos.plan import names


async def until(condition: Callable[[], object], seconds: float = 15) -> float:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, "not within the time"
        await asyncio.sleep(0.01)
    return time.monotonic() - began


@dataclass
class Grid:
    """One node of a grid: its objects made as the controller makes them, its agent to be started and stopped."""

    server: ApiServer
    name: str
    state: Path
    admin: Client
    node: Node = field(default_factory=Node)
    writes: list[tuple[str, str, int]] = field(default_factory=list)

    @property
    def namespace(self) -> str:
        return names.node_namespace(self.name)

    async def join(self) -> None:
        """The GridNode and what the controller makes for it."""
        body = {"apiVersion": "zos.grid.tf/v1alpha1", "kind": "GridNode", "metadata": {"name": self.name}, "spec": {}}
        await self.admin.create(GridNode, "", body)
        manifests = {"apiVersion": "v1", "kind": "List", "items": list(agent_objects(self.name, self.namespace))}
        await asyncio.to_thread(self.server.kubectl, "apply", "-f", "-", stdin=json.dumps(manifests))
        token = await asyncio.to_thread(self.server.kubectl, "create", "token", "agent", "-n", self.namespace)
        config = json.loads(Path(self.server.kubeconfig).read_text())
        config["users"][0]["user"] = {"token": token.strip()}
        (self.state / "kubeconfig").write_text(json.dumps(config))

    @contextlib.asynccontextmanager
    async def agent(self, *, server: ApiServer | None = None, resync: float = 60.0) -> AsyncIterator[Agent]:
        settings = Settings(
            node=self.name, state=self.state, kubeconfig=str(self.state / "kubeconfig"), heartbeat=0.5, resync=resync,
            capacity_cpu=4, capacity_memory=8 * 2**30, capacity_storage=100 * 2**30,
        )  # fmt: skip
        access = await Access.load(server.kubeconfig if server is not None else settings.kubeconfig)
        client = Client(access, wrote=lambda *write: self.writes.append(write))
        served = drivers(self.node)
        keyring = Keyring(self.state / "keys")
        agent = Agent(settings, client, served, kind_of, keyring=keyring, images=served[1], domains=served[2])  # type: ignore[arg-type]
        task = asyncio.create_task(agent.run())
        try:
            yield agent
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await client.close()

    async def mount(self, name: str, size: str = "1Gi") -> None:
        body = {
            "apiVersion": "zos.grid.tf/v1alpha1",
            "kind": "NodeWorkload",
            "metadata": {"name": name, "finalizers": [AGENT_FINALIZER]},
            "spec": {
                "owner": {"kind": "ZMount", "namespace": "default", "name": name, "uid": f"uid-{name}"},
                "mount": {"size": size},
            },
        }
        await self.admin.create(NodeWorkload, self.namespace, body)

    async def workload(self, name: str) -> NodeWorkload | None:
        raw = await self.admin.get(NodeWorkload, self.namespace, name)
        return NodeWorkload.model_validate(raw) if raw is not None else None

    async def ready(self, name: str, seconds: float = 15) -> NodeWorkload:
        deadline = time.monotonic() + seconds
        while True:
            workload = await self.workload(name)
            condition = workload.status.condition("Ready") if workload is not None else None
            if workload is not None and condition is not None and condition.status == "True":
                return workload
            assert time.monotonic() < deadline, f"{name} is not ready: {condition}"
            await asyncio.sleep(0.05)

    async def gridnode(self) -> GridNode:
        return GridNode.model_validate(await self.admin.get(GridNode, "", self.name))

    def statuses(self) -> int:
        return sum(kind == "NodeWorkload" for kind, _, _ in self.writes)


@contextlib.asynccontextmanager
async def grid_on(server: ApiServer, name: str, state: Path) -> AsyncIterator[Grid]:
    admin = Client(await Access.load(server.kubeconfig))
    grid = Grid(server, name, state, admin)
    try:
        await grid.join()
        yield grid
    finally:
        await admin.close()


@pytest.fixture
async def grid(apiserver: ApiServer, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Grid]:
    name = "agent-" + names.ident(request.node.name)
    async with grid_on(apiserver, name, tmp_path) as made:
        yield made


async def test_a_workload_from_birth_to_death(grid: Grid) -> None:
    async with grid.agent():
        await grid.mount("a")
        workload = await grid.ready("a")
        assert workload.status.mount is not None
        assert workload.status.mount.size == 2**30
        assert workload.status.observed_generation == 1
        assert grid.statuses() == 1  # ready at the first word
        assert set(grid.node.things) == {"disk/mount-uid-a"}
        await grid.admin.patch(NodeWorkload, grid.namespace, "a", {"spec": {"mount": {"size": "2Gi"}}})
        await until(lambda: grid.node.things["disk/mount-uid-a"].size == 2 * 2**30)  # type: ignore[attr-defined]
        await grid.admin.delete(NodeWorkload, grid.namespace, "a")
        await until(lambda: not grid.node.things)
        began = time.monotonic()
        while await grid.workload("a") is not None:
            assert time.monotonic() - began < 5
            await asyncio.sleep(0.05)


async def test_what_the_node_says_of_itself(grid: Grid) -> None:
    async with grid.agent():
        began = time.monotonic()
        while not (status := (await grid.gridnode()).status).prekeys:
            assert time.monotonic() - began < 10
            await asyncio.sleep(0.05)
        assert (status.capacity.cpu, status.capacity.memory, status.capacity.storage) == (4, 8 * 2**30, 100 * 2**30)
        keyring = Keyring(grid.state / "keys")
        assert set(status.prekeys) == keyring.publics()
        assert len(status.prekeys) == 8
        assert status.sealing_key == keyring.sealing_key()
        while (lease := await grid.admin.get(Lease, grid.namespace, "agent")) is None:
            assert time.monotonic() - began < 10
            await asyncio.sleep(0.05)
        await asyncio.sleep(1.2)
        again = await grid.admin.get(Lease, grid.namespace, "agent")
        assert again is not None
        assert again["spec"]["renewTime"] > lease["spec"]["renewTime"]
        assert again["spec"]["leaseDurationSeconds"] == 40


async def test_a_key_that_is_held_is_replaced_and_kept(grid: Grid) -> None:
    async with grid.agent():
        began = time.monotonic()
        while not (node := await grid.gridnode()).status.prekeys:
            assert time.monotonic() - began < 10
            await asyncio.sleep(0.05)
        taken = node.status.prekeys[0]
        hold = {"uid": "u", "owner": "Network default/n", "listenPort": 52000, "publicKey": taken}
        await grid.admin.patch(GridNode, "", grid.name, {"status": {"holds": [hold]}}, subresource="status")
        while taken in (node := await grid.gridnode()).status.prekeys:
            assert time.monotonic() - began < 10
            await asyncio.sleep(0.05)
        assert len(node.status.prekeys) == 8
        assert node.status.holds[0].public_key == taken
        assert Keyring(grid.state / "keys").private(taken) is not None


async def test_when_nothing_happens_nothing_is_written(grid: Grid) -> None:
    async with grid.agent(resync=0.3):
        for name in ("a", "b", "c"):
            await grid.mount(name)
        for name in ("a", "b", "c"):
            await grid.ready(name)
        await asyncio.sleep(1)
        writes = [write for write in grid.writes if write[0] != "Lease"]
        touched = grid.node.writes
        await asyncio.sleep(2)
        assert [write for write in grid.writes if write[0] != "Lease"] == writes
        assert grid.node.writes == touched


async def test_a_restart_touches_nothing_and_catches_up(grid: Grid) -> None:
    async with grid.agent():
        await grid.mount("a")
        await grid.mount("b")
        await grid.ready("a")
        await grid.ready("b")
    touched = grid.node.writes
    grid.writes.clear()
    await grid.admin.delete(NodeWorkload, grid.namespace, "b")
    await grid.mount("c")
    async with grid.agent():
        await grid.ready("c")
        await until(lambda: set(grid.node.things) == {"disk/mount-uid-a", "disk/mount-uid-c"})
    assert grid.node.writes == touched + 2
    assert [write for write in grid.writes if write[:2] == ("GridNode", "merge")] == []


async def test_its_credentials_open_nothing_else(grid: Grid) -> None:
    client = Client(await Access.load(str(grid.state / "kubeconfig")))
    for attempt in (
        client.get(NodeWorkload, "zos-node-other", "x"),
        client.objects(NodeWorkload),
        client.request("GET", "/api/v1/namespaces/default/secrets"),
        client.request("GET", f"/api/v1/namespaces/{grid.namespace}/secrets"),
        client.patch(GridNode, "", grid.name, {"spec": {"unschedulable": True}}),
        client.patch(GridNode, "", "other", {"status": {}}, subresource="status"),
        client.create(NodeWorkload, grid.namespace, {}),
        client.patch(Lease, grid.namespace, "other", {"spec": {}}),
    ):
        with pytest.raises(ApiError) as caught:
            await attempt
        assert caught.value.status == 403
    await client.close()


async def test_the_api_server_is_away_the_node_heals_and_boots(tmp_path: Path) -> None:
    with running(tmp_path / "cluster") as server:
        async with grid_on(server, "alone", tmp_path) as grid:
            async with grid.agent():
                await grid.mount("a")
                await grid.ready("a")
                await asyncio.to_thread(server.kill, "kube-apiserver")
                grid.node.lose("disk/mount-uid-a")
                assert await until(lambda: "disk/mount-uid-a" in grid.node.things) < 1
            grid.node.things.clear()  # the node crashed; what was in memory is gone
            async with grid.agent():
                await until(lambda: "disk/mount-uid-a" in grid.node.things)
                await asyncio.to_thread(server.start_api)
                await grid.mount("b")
                await grid.ready("b", 40)


async def test_another_clusters_server_moves_nothing(apiserver: ApiServer, tmp_path: Path, grid: Grid) -> None:
    async with grid.agent():
        await grid.mount("a")
        await grid.ready("a")
    touched = dict(grid.node.things)
    with running(tmp_path / "other") as other:
        stranger = Grid(other, grid.name, tmp_path, Client(await Access.load(other.kubeconfig)))
        other.kubectl("create", "namespace", grid.namespace)
        await stranger.mount("b")
        async with grid.agent(server=other, resync=0.2) as agent:
            await until(lambda: agent.cluster.foreign)
            await asyncio.sleep(1)
            assert grid.node.things == touched
            workload = await stranger.workload("b")
            assert workload is not None
            assert workload.status.conditions == ()
        await stranger.admin.close()


async def test_an_empty_list_from_our_own_cluster_erases_no_data(grid: Grid) -> None:
    async with grid.agent():
        await grid.mount("a")
        await grid.ready("a")
        body: dict[str, Any] = {"metadata": {"finalizers": []}}
        await grid.admin.patch(NodeWorkload, grid.namespace, "a", body)
        await grid.admin.delete(NodeWorkload, grid.namespace, "a")  # by force, past the agent
        began = time.monotonic()
        while not (node := await grid.gridnode()).status.quarantine:
            assert time.monotonic() - began < 10
            await asyncio.sleep(0.05)
        assert [thing.uid for thing in node.status.quarantine] == ["uid-a"]
        assert "disk/mount-uid-a" in grid.node.things
