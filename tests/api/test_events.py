"""What people are told on the way from apply to Ready: each step once, and no alarm where everything comes by itself."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from apiserver import ApiServer
from simulated import sweep, until
from zos.api.core import Secret
from zos.api.gridnode import GridNode
from zos.api.meta import Object
from zos.api.network import Network
from zos.api.zmachine import ZMachine
from zos.api.zmount import ZMount
from zos.simulation import Grid, manifest
from zos.simulation import grid as simulated

TOGETHER: dict[type[Object], dict[str, Any]] = {
    Network: {"ipRange": "10.20.0.0/16", "nodes": [{"name": "one"}], "access": [{"name": "laptop"}]},
    ZMount: {"size": "1Gi"},
    ZMachine: {"image": "oci://r/i:t", "network": {"name": "x"}, "disks": [{"name": "x", "mountPath": "/data"}]},
}
EXPECTED = {
    "ZMachine": {"Placed": 1, "Started": 1},
    "ZMount": {"Placed": 1},
    "Network": {"Joined": 2},
}


@pytest.fixture
async def grid(controlled: ApiServer, tmp_path: Path) -> AsyncIterator[Grid]:
    async with simulated(controlled.kubeconfig, tmp_path) as made:
        yield made
        await sweep(made.client)


async def events(grid: Grid, uids: set[str]) -> list[dict[str, Any]]:
    found = await grid.client.request("GET", "/api/v1/namespaces/default/events")
    return [event for event in found["items"] if event["involvedObject"].get("uid") in uids]


def counted(found: list[dict[str, Any]]) -> dict[str, Counter[str]]:
    kinds: dict[str, Counter[str]] = {}
    for event in found:
        if event["reason"] == "AddressAssigned":
            continue  # of its own only where the network came to the node after the machine
        kinds.setdefault(event["involvedObject"]["kind"], Counter())[event["reason"]] += 1
    return kinds


async def condition(grid: Grid, model: type[Object]) -> dict[str, Any]:
    raw = await grid.client.get(model, "default", "x") or {}
    return next((c for c in raw.get("status", {}).get("conditions", ()) if c["type"] == "Ready"), {})


async def test_applied_and_deleted_at_once_in_any_order(grid: Grid) -> None:
    async with grid.controller():
        await node(grid)
        for order in itertools.permutations(TOGETHER):
            uids = await applied(grid, order)
            await told(grid, uids)
            await deleted(grid, order)
            assert [event for event in await events(grid, uids) if event["type"] != "Normal"] == []


async def test_the_next_controller_tells_nothing_again(grid: Grid) -> None:
    async with grid.controller("first"):
        await node(grid)
        uids = await applied(grid, tuple(TOGETHER))
        await told(grid, uids)
    before = {event["metadata"]["name"]: event for event in await events(grid, uids)}
    async with grid.controller("second") as second:

        async def leads() -> bool:
            return second.leading and second.world.peek(Network.key_of("default", "x")) is not None

        await until(leads)
        for _ in range(3):
            second.resync()
            await asyncio.sleep(0.5)
        assert {event["metadata"]["name"]: event for event in await events(grid, uids)} == before
        await deleted(grid, (ZMachine, ZMount, Network))


async def node(grid: Grid) -> None:
    await grid.node("one", ipv4="198.51.100.1")

    async def ready() -> bool:
        raw = await grid.client.get(GridNode, "", "one") or {}
        return any(c["type"] == "Ready" and c["status"] == "True" for c in raw.get("status", {}).get("conditions", ()))

    await until(ready)


async def applied(grid: Grid, order: tuple[type[Object], ...]) -> set[str]:
    made = [await grid.client.create(m, "default", manifest(m.KIND, "x", TOGETHER[m], "default")) for m in order]
    return {raw["metadata"]["uid"] for raw in made}


async def told(grid: Grid, uids: set[str]) -> None:
    """Waits until all are ready and everything is told."""
    found: dict[str, Counter[str]] = {}

    async def look() -> bool:
        nonlocal found
        found = counted(await events(grid, uids))
        return found == EXPECTED and all([(await condition(grid, model)).get("status") == "True" for model in TOGETHER])

    await until(look, told=lambda: f"told: {found}")


async def deleted(grid: Grid, order: tuple[type[Object], ...]) -> None:
    for model in order:
        await grid.client.delete(model, "default", "x")
    for model in order:

        async def gone(model: type[Object] = model) -> bool:
            return await grid.client.get(model, "default", "x") is None

        await until(gone)
    await grid.client.delete(Secret, "default", "x-laptop-wireguard")  # there is nobody here who collects what has no owner
