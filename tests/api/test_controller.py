"""The real controller and real agents against a real API server. Only the nodes are dicts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from apiserver import ApiServer
from simulated import sweep, until
from zos.api.core import Lease, Secret
from zos.api.gridnode import GridNode
from zos.api.meta import Object
from zos.api.names import AGENT
from zos.api.network import Network
from zos.api.nodeworkload import NodeWorkload
from zos.api.zmachine import ZMachine
from zos.api.zmount import ZMount
from zos.kinds.network.part import NetworkOnNode
from zos.kinds.registry import KINDS
from zos.kinds.zmachine.part import MachineOnNode
from zos.simulation import Grid, manifest, written
from zos.simulation import grid as simulated


@pytest.fixture
def server(controlled: ApiServer) -> ApiServer:
    return controlled


@pytest.fixture
async def grid(server: ApiServer, tmp_path: Path) -> AsyncIterator[Grid]:
    async with simulated(server.kubeconfig, tmp_path) as made:
        yield made
        await sweep(made.client)


async def get(grid: Grid, model: type[Object], name: str, namespace: str = "default"):
    raw = await grid.client.get(model, namespace if model.NAMESPACED else "", name)
    return raw and model.model_validate(raw)


async def ready(grid: Grid, model: type[Object], name: str, seconds: float = 60):
    last = None

    async def look() -> bool:
        nonlocal last
        last = await get(grid, model, name)
        condition = last and last.status.condition("Ready")
        return bool(condition and condition.status == "True" and condition.observed_generation == last.metadata.generation)

    await until(look, seconds, lambda: f"{name} is not ready: {last and last.status}")
    return last


async def create(grid: Grid, model: type[Object], name: str, **spec: object) -> None:
    await grid.client.create(model, "default", manifest(model.KIND, name, spec, "default"))


async def delete(grid: Grid, model: type[Object], *names: str, seconds: float = 60) -> None:
    for name in names:
        await grid.client.delete(model, "default", name)
    for name in names:

        async def gone(name: str = name) -> bool:
            return await get(grid, model, name) is None

        await until(gone, seconds)


async def quiet(grid: Grid, seconds: float = 1.5) -> None:
    """Until nobody writes for a while."""
    before = -1
    while before != (before := written(grid)):
        await asyncio.sleep(seconds)


async def test_a_disk_from_apply_to_deletion_with_few_writes(grid: Grid) -> None:
    async with grid.controller():
        await grid.node("one")
        await ready(grid, GridNode, "one")
        await quiet(grid)
        before, began = written(grid), time.monotonic()
        await create(grid, ZMount, "data", size="1Gi")
        mount = await ready(grid, ZMount, "data")
        told = time.monotonic() - began >= 3  # then it is said once that it takes its time
        assert (mount.status.node_name, mount.status.size) == ("one", 2**30)
        await quiet(grid)
        assert written(grid) - before <= 5 + told, "\n".join(str(write) for write in grid.writes[-14:])
        assert f"disk/mount-{mount.uid}" in grid.nodes["one"].things
        node = await get(grid, GridNode, "one")
        assert [hold.owner for hold in node.status.holds] == ["ZMount default/data"]
        await delete(grid, ZMount, "data")
        assert grid.nodes["one"].things == {}

        async def released() -> bool:
            return not (await get(grid, GridNode, "one")).status.holds

        await until(released)


async def test_a_restart_of_everything_writes_nothing(grid: Grid) -> None:
    async with grid.controller():
        await grid.node("one", ipv4="198.51.100.1")
        await create(grid, Network, "net", ipRange="10.20.0.0/16", nodes=[{"name": "one"}])
        await create(grid, ZMount, "data", size="1Gi")
        await ready(grid, Network, "net")
        await ready(grid, ZMount, "data")
        await quiet(grid)
    before = len(grid.writes), grid.nodes["one"].writes
    await grid.stop_agent("one")
    grid.start_agent("one")
    async with grid.controller("another") as controller:

        async def works() -> bool:
            return controller.leading and len(controller.world.find(GridNode)) == 1

        await until(works)
        await quiet(grid, 3)
        assert [write for write in grid.writes[before[0] :] if write[1] != "Lease"] == []
        assert grid.nodes["one"].writes == before[1]
        await delete(grid, Network, "net")
        await delete(grid, ZMount, "data")


async def test_what_holds_up_a_deletion_or_a_network_is_said(grid: Grid) -> None:
    async with grid.controller():
        await grid.node("one", ipv4="198.51.100.1")
        await create(grid, Network, "net", ipRange="10.20.0.0/16", nodes=[{"name": "one"}])
        network = await ready(grid, Network, "net")
        node = grid.nodes["one"]
        space = next(key for key in node.things if key.startswith("netns/"))
        node.faults[space] = "no more namespaces"
        node.lose(space)

        async def says(reason: str, words: str) -> None:
            async def look() -> bool:
                condition = (await get(grid, Network, "net")).status.condition("Ready")
                return condition.reason == reason and words in condition.message

            await until(look)

        await says("Failed", f"one: {space}: no more namespaces")
        del node.faults[space]
        await ready(grid, Network, "net")
        node.faults[space] = "device or resource busy"
        await grid.client.delete(Network, "default", network.name)
        await says("DeletionBlocked", f"zos-node-one (remove {space}: device or resource busy)")
        del node.faults[space]

        async def gone() -> bool:
            return await get(grid, Network, "net") is None

        await until(gone)
        assert node.things == {}


async def test_a_node_is_not_ready_for_longer_than_its_lease_whether_that_is_there_or_not(grid: Grid) -> None:
    grid.heartbeat, grid.lease = 1.0, 4

    async def stands() -> tuple[str, str]:
        condition = (await get(grid, GridNode, "one")).status.condition("Ready")
        return condition.status, condition.reason

    async def silent() -> bool:
        return await stands() == ("False", "NodeUnreachable")

    async with grid.controller():
        await grid.node("one")
        await ready(grid, GridNode, "one")
        await grid.client.delete(Lease, "zos-node-one", AGENT)

        async def renewed() -> bool:
            return await grid.client.get(Lease, "zos-node-one", AGENT) is not None

        await until(renewed, 10)  # by an agent that lives
        assert await stands() == ("True", "Succeeded")
        await grid.stop_agent("one")
        await grid.client.delete(Lease, "zos-node-one", AGENT)
        await until(silent, 10)
    async with grid.controller("two"):  # has never heard of that agent
        await asyncio.sleep(2)
        assert (await stands())[0] == "False"
        grid.start_agent("one")
        await ready(grid, GridNode, "one", 20)


async def test_machines_on_a_network_of_three_nodes_and_a_laptop(grid: Grid) -> None:
    async with grid.controller() as controller:
        await grid.node("a", ipv4="198.51.100.1")
        await grid.node("b.with.dots", ipv4="198.51.100.2")
        await grid.node("c")
        for name in grid.nodes:  # the first that reports is the laptop's access node
            await ready(grid, GridNode, name)
        nodes = [{"name": name} for name in grid.nodes]
        await create(grid, Network, "net", ipRange="10.20.0.0/16", nodes=nodes, access=[{"name": "laptop"}])
        network = await ready(grid, Network, "net")
        assert [node.subnet for node in network.status.nodes] == ["10.20.3.0/24", "10.20.4.0/24", "10.20.5.0/24"]
        assert (network.status.access[0].subnet, network.status.access[0].node) == ("10.20.2.0/24", "a")
        secret = await get(grid, Secret, "net-laptop-wireguard")
        assert f"PrivateKey = {secret.text('privateKey')}" in secret.text("wg0.conf")
        keys = {peer.public_key for peer in (await _workload(grid, "a")).part(NetworkOnNode).peers}
        assert secret.text("publicKey") in keys
        await create(grid, ZMount, "data", size="1Gi")
        for name in ("a", "b.with.dots", "c"):
            disks = [{"name": "data", "mountPath": "/data"}] if name == "c" else []
            await create(grid, ZMachine, f"m-{name}", image="oci://r/i:t", network={"name": "net"}, nodeName=name, disks=disks)
        machines = [await ready(grid, ZMachine, f"m-{name}") for name in ("a", "b.with.dots", "c")]
        assert [machine.status.ip for machine in machines] == ["10.20.3.2", "10.20.4.2", "10.20.5.2"]
        assert (await get(grid, ZMount, "data")).status.node_name == "c"
        await quiet(grid)
        before = written(grid), sum(node.writes for node in grid.nodes.values())
        controller.resync()
        await asyncio.sleep(2)
        assert (written(grid), sum(node.writes for node in grid.nodes.values())) == before, grid.writes[-5:]
        await grid.client.delete(Network, "default", "net")
        network = await get(grid, Network, "net")

        async def told() -> bool:
            condition = (await get(grid, Network, "net")).status.condition("Ready")
            return condition.reason == "DeletionBlocked" and "ZMachine m-a" in condition.message

        await until(told)
        await delete(grid, ZMachine, "m-a", "m-b.with.dots", "m-c")
        await delete(grid, Network, "net")
        await delete(grid, ZMount, "data")
        assert all(key.startswith(("sysctl/", "image/")) for node in grid.nodes.values() for key in node.things), [
            node.things.keys() for node in grid.nodes.values()
        ]


async def test_what_is_taken_out_of_a_machine_is_taken_from_its_node(grid: Grid) -> None:
    """Also the last entry of a map, of which server-side apply would make null."""
    async with grid.controller():
        await grid.node("n", ipv4="198.51.100.1")
        await ready(grid, GridNode, "n")
        await create(grid, Network, "net", ipRange="10.20.0.0/16", nodes=[{"name": "n"}])
        env = [{"name": "A", "value": "b"}, {"name": "C", "value": "d"}]
        await create(grid, ZMachine, "m", image="oci://r/i:t", network={"name": "net"}, env=env)
        await ready(grid, ZMachine, "m")
        for left in ({"A": "b"}, {}, {"E": "f"}, {}):
            now = [{"name": name, "value": value} for name, value in left.items()]
            await grid.client.patch(ZMachine, "default", "m", {"spec": {"env": now}})

            async def asked(left: dict[str, str] = left) -> bool:
                raw = await grid.client.objects(NodeWorkload, "zos-node-n")
                parts = [KINDS.workload.model_validate(one).part(MachineOnNode) for one in raw]
                return [part.env for part in parts if part is not None] == [left]

            await until(asked, 20, lambda: str(grid.writes[-3:]))
            machine = await ready(grid, ZMachine, "m")
            assert machine.status.condition("Ready").reason == "Succeeded"


async def _workload(grid: Grid, node: str):
    raw = await grid.client.objects(NodeWorkload, f"zos-node-{node}")
    return KINDS.workload.model_validate(raw[0])


async def test_what_a_machine_waits_for_is_said_and_heals(grid: Grid) -> None:
    async with grid.controller():
        await grid.node("n", ipv4="198.51.100.1", memory=2**30)
        await ready(grid, GridNode, "n")
        await create(
            grid, ZMachine, "m", image="oci://r/i:t", memory="512Mi",
            network={"name": "net"}, disks=[{"name": "d", "mountPath": "/d"}],
            env=[{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "s", "key": "token"}}}],
        )  # fmt: skip
        await _says(grid, "m", "network net does not exist")
        await create(grid, Network, "net", ipRange="10.20.0.0/16")
        await _says(grid, "m", "disk d does not exist")
        await create(grid, ZMount, "d", size="1Gi")
        await _says(grid, "m", "Secret s (env TOKEN) does not exist")
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"token": "hush"}}
        await grid.client.create(Secret, "default", secret)
        await ready(grid, ZMachine, "m")
        workloads = await grid.client.objects(NodeWorkload, "zos-node-n")
        assert "hush" not in str(workloads)
        await create(grid, ZMachine, "big", image="oci://r/i:t", memory="512Mi", network={"name": "net"})
        await _says(grid, "big", "no node fits: n lacks memory: 640Mi asked, 384Mi free of 1Gi")
        await delete(grid, ZMachine, "m")
        await ready(grid, ZMachine, "big")
        await delete(grid, ZMachine, "big")
        await delete(grid, Network, "net")
        await delete(grid, ZMount, "d")


async def _says(grid: Grid, name: str, words: str) -> None:
    last = None

    async def look() -> bool:
        nonlocal last
        last = (await get(grid, ZMachine, name)).status
        condition = last.condition("Ready")
        return condition is not None and condition.status == "False" and words in condition.message

    await until(look, told=lambda: last)


async def test_two_that_lead_never_allocate_twice_and_who_asks_the_same_lease_waits(grid: Grid) -> None:
    async with grid.controller("first") as first:
        await grid.node("n", ipv4="198.51.100.1")
        await ready(grid, GridNode, "n")
        async with grid.controller("second") as second, grid.controller("third", lease="another") as third:

            async def both_lead() -> bool:
                return first.leading and third.leading and third.listed

            await until(both_lead)
            await asyncio.sleep(1)
            assert not second.leading
            names = [f"net-{number}" for number in range(12)]
            for name in names:
                await create(grid, Network, name, ipRange="10.20.0.0/16", nodes=[{"name": "n"}])
            for name in names:
                await ready(grid, Network, name, 40)
            holds = (await get(grid, GridNode, "n")).status.holds
            assert len({hold.listen_port for hold in holds}) == len({hold.public_key for hold in holds}) == 12
            specs = [
                KINDS.workload.model_validate(raw).part(NetworkOnNode)
                for raw in await grid.client.objects(NodeWorkload, "zos-node-n")
            ]
            assert len({spec.listen_port for spec in specs}) == 12
            await delete(grid, Network, *names)
