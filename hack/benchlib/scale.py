"""Two hundred nodes: one Network over more and more of them, then one of them moves to another address."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from statistics import median

from apiserver import ApiServer, running
from benchlib.api import CONNECTIONS, MERGE, Api, Written, agents, connected, controller, settled
from benchlib.bare import replay
from benchlib.progress import Progress
from benchlib.table import Row, ratio
from zos.api.meta import API_VERSION
from zos.kube.client import Raw

#: Nodes of the networks, each network after the other, on the same grid.
SIZES = (50, 100, 200)
LARGE = max(SIZES)
#: Of the largest, by turns with bare writes.
ROUNDS = 3
_RESOURCES = ("gridnodes", "networks", "nodeworkloads", "events", "secrets")
_NETWORKS = f"/apis/{API_VERSION}/namespaces/default/networks"
_PARTS = f"/apis/{API_VERSION}/nodeworkloads"
_NODES = f"/apis/{API_VERSION}/gridnodes"
_OBJECTS = {"gridnodes": _NODES, "networks": _NETWORKS, "nodeworkloads": _PARTS}


def measure(progress: Progress) -> Generator[Row, None, None]:
    with (
        tempfile.TemporaryDirectory(prefix="zos-bench-") as scratch,
        running(Path(scratch) / "ours") as server,
        running(Path(scratch) / "bare") as bare,
    ):
        server.kubectl("create", "namespace", "zos-system")
        with controller(server.kubeconfig):
            progress(f"{LARGE} agents come up")
            began = time.monotonic()
            with agents(server.kubeconfig, Path(scratch) / "agents", LARGE):
                progress(f"{LARGE} agents ready after {time.monotonic() - began:.0f} s")
                yield from asyncio.run(_grow(server, bare, progress))


async def _grow(server: ApiServer, bare: ApiServer, progress: Progress) -> list[Row]:
    seconds: dict[int, list[float]] = {size: [] for size in SIZES}
    writes: dict[int, float] = {}
    theirs: list[float] = []
    async with connected(server.kubeconfig) as api, connected(bare.kubeconfig) as other:

        async def one_of_ours(size: int) -> Written:
            before = await settled(server, _RESOURCES)
            seconds[size].append(await _made(api, size))
            return await settled(server, _RESOURCES) - before

        async def gone() -> None:
            await api.clear(_NETWORKS)
            await settled(server, _RESOURCES)

        for size in SIZES[:-1]:
            progress(f"a Network over {size} nodes")
            writes[size] = (await one_of_ours(size)).total / size
            await gone()
        for number in range(ROUNDS):
            progress(f"a Network over {LARGE} nodes by turns with as many bare writes, round {number + 1} of {ROUNDS}")
            counts = await one_of_ours(LARGE)
            samples = {plural: await api.items(path) for plural, path in _OBJECTS.items()}
            namespace = f"bare-{number}"
            bare.kubectl("create", "namespace", namespace)
            theirs.append(await replay(other, namespace, counts, samples))
            if number < ROUNDS - 1:
                await gone()
        writes[LARGE] = counts.total / LARGE
        progress(f"an endpoint of {LARGE} changes")
        before = await settled(server, _RESOURCES)
        moved = await _moved(api, LARGE)
        moving = (await settled(server, _RESOURCES) - before).total
    small = min(SIZES)
    return [
        ratio(
            f"Network over {LARGE} nodes, apply → Ready / as many bare writes", seconds[LARGE], theirs, "<=", 4.0,
            connections=CONNECTIONS, split=counts.split, refused=counts.refused,
        ),
        Row(f"Network over {LARGE} nodes, apply → Ready", median(seconds[LARGE]), unit="s", detail={"by nodes": seconds}),
        Row(f"API writes per node, Network over {LARGE} nodes", writes[LARGE], detail={"by nodes": writes}),
        Row(f"API writes per node, {LARGE} over {small} nodes", writes[LARGE] / writes[small], "<=", 1.1, "×"),
        Row(f"one endpoint of {LARGE} changes → every node has it", moved, unit="s"),
        Row(f"API writes when one endpoint of {LARGE} changes", moving, detail={"per node": moving / LARGE}),
    ]  # fmt: skip


async def _made(api: Api, size: int) -> float:
    """Seconds until the network is Ready on all its nodes."""
    ready = asyncio.create_task(api.seen(_NETWORKS, 1))
    await asyncio.sleep(0.5)  # until it watches
    nodes = [{"name": f"node-{number}"} for number in range(size)]
    spec = {"ipRange": "10.80.0.0/16", "nodes": nodes}
    body = {"apiVersion": API_VERSION, "kind": "Network", "metadata": {"name": f"wide-{size}"}, "spec": spec}
    began = time.monotonic()
    await api.write("POST", _NETWORKS, body)
    return await asyncio.wait_for(ready, 600) - began


async def _moved(api: Api, size: int) -> float:
    """Seconds until every other node of the network calls ``node-0`` at its new address."""
    address = "203.0.113.77"

    def has_it(part: Raw) -> bool:
        return any((peer.get("endpoint") or "").startswith(f"{address}:") for peer in part["spec"]["part"]["network"]["peers"])

    done = asyncio.create_task(api.seen(_PARTS, size - 1, has_it))
    await asyncio.sleep(2)  # until it watches and has read what there is
    began = time.monotonic()
    await api.write("PATCH", f"{_NODES}/node-0", {"spec": {"endpoint": {"ipv4": address}}}, MERGE)
    return await asyncio.wait_for(done, 600) - began
