"""Two hundred nodes: one Network over more and more of them, then one of them moves to another address."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Generator
from pathlib import Path

from apiserver import ApiServer, running
from benchlib.api import MERGE, Api, agents, connected, controller, settled
from benchlib.progress import Progress
from benchlib.table import Row
from zos.api.meta import API_VERSION
from zos.kube.client import Raw

#: Nodes of the networks, each network after the other, on the same grid.
SIZES = (50, 100, 200)
_RESOURCES = ("gridnodes", "networks", "nodeworkloads", "events", "secrets")
_NETWORKS = f"/apis/{API_VERSION}/namespaces/default/networks"
_PARTS = f"/apis/{API_VERSION}/nodeworkloads"
_NODES = f"/apis/{API_VERSION}/gridnodes"


def measure(progress: Progress) -> Generator[Row, None, None]:
    with (
        tempfile.TemporaryDirectory(prefix="zos-bench-") as scratch,
        running(Path(scratch) / "api") as server,
    ):
        server.kubectl("create", "namespace", "zos-system")
        with controller(server.kubeconfig):
            progress(f"{max(SIZES)} agents come up")
            began = time.monotonic()
            with agents(server.kubeconfig, Path(scratch) / "agents", max(SIZES)):
                progress(f"{max(SIZES)} agents ready after {time.monotonic() - began:.0f} s")
                yield from asyncio.run(_grow(server, progress))


async def _grow(server: ApiServer, progress: Progress) -> list[Row]:
    seconds: dict[int, float] = {}
    writes: dict[int, float] = {}
    async with connected(server.kubeconfig) as api:
        for size in SIZES:
            progress(f"a Network over {size} nodes")
            before = await settled(server, _RESOURCES)
            seconds[size] = await _made(api, size)
            writes[size] = (await settled(server, _RESOURCES) - before).total / size
            if size == max(SIZES):
                progress(f"an endpoint of {size} changes")
                before = await settled(server, _RESOURCES)
                moved = await _moved(api, size)
                moving = (await settled(server, _RESOURCES) - before).total
            await api.clear(_NETWORKS)
            await settled(server, _RESOURCES)
    small, large = min(SIZES), max(SIZES)
    return [
        Row(f"Network over {large} nodes, apply → Ready", seconds[large], unit="s", detail={"by nodes": seconds}),
        Row(f"API writes per node, Network over {large} nodes", writes[large], detail={"by nodes": writes}),
        Row(f"API writes per node, {large} over {small} nodes", writes[large] / writes[small], "<=", 1.1, "×"),
        Row(f"one endpoint of {large} changes → every node has it", moved, unit="s"),
        Row(f"API writes when one endpoint of {large} changes", moving, detail={"per node": moving / large}),
    ]


async def _made(api: Api, size: int) -> float:
    """Seconds until the network is Ready on all its nodes."""
    ready = asyncio.create_task(api.seen(_NETWORKS, 1))
    await asyncio.sleep(0.5)  # until it watches
    nodes = [{"name": f"node-{number}"} for number in range(size)]
    spec = {"ipRange": "10.0.0.0/8", "nodes": nodes}
    body = {"apiVersion": API_VERSION, "kind": "Network", "metadata": {"name": f"wide-{size}"}, "spec": spec}
    began = time.monotonic()
    await api.write("POST", _NETWORKS, body)
    return await asyncio.wait_for(ready, 600) - began


async def _moved(api: Api, size: int) -> float:
    """Seconds until every other node of the network calls ``node-0`` at its new address."""
    address = "203.0.113.77"

    def has_it(part: Raw) -> bool:
        return any((peer.get("endpoint") or "").startswith(f"{address}:") for peer in part["spec"]["network"]["peers"])

    done = asyncio.create_task(api.seen(_PARTS, size - 1, has_it))
    await asyncio.sleep(2)  # until it watches and has read what there is
    began = time.monotonic()
    await api.write("PATCH", f"{_NODES}/node-0", {"spec": {"endpoint": {"ipv4": address}}}, MERGE)
    return await asyncio.wait_for(done, 600) - began
