"""One tenant writes bytes where text is read, for as long as it takes, while the API is busy: everybody else is served."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from apiserver import ApiServer, running
from simulated import sweep, until
from torturelib.bytes import attack
from zos.api.contract import NameContract
from zos.api.core import Secret
from zos.api.meta import Object
from zos.api.network import Network
from zos.api.nodeworkload import NodeWorkload
from zos.api.zmachine import ZMachine
from zos.api.zmount import ZMount
from zos.kube.client import ApiError, NotFound, Unavailable
from zos.simulation import Grid, manifest
from zos.simulation import grid as simulated

_NAMES = 40
_SECONDS = 8.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with running(tmp_path_factory.mktemp("hostile")) as made:
        for namespace in ("zos-system", "hostile", "good"):
            made.kubectl("create", "namespace", namespace)
        yield made


@pytest.fixture
async def grid(server: ApiServer, tmp_path: Path) -> AsyncIterator[Grid]:
    async with simulated(server.kubeconfig, tmp_path) as made:
        async with made.controller():
            await made.node("bad", ipv4="198.51.100.1")
            await made.node("good", ipv4="198.51.100.2")
            yield made
        await sweep(made.client)


async def create(grid: Grid, model: type[Object], namespace: str, called: str, /, **spec: object) -> None:
    await grid.client.create(model, namespace, manifest(model.KIND, called, spec, namespace))


async def condition(grid: Grid, model: type[Object], namespace: str, name: str) -> dict[str, str]:
    found = await grid.client.get(model, namespace, name) or {}
    conditions = found.get("status", {}).get("conditions", [])
    return next((c for c in conditions if c["type"] == "Ready"), {"status": "", "reason": "", "message": ""})


async def ready(grid: Grid, model: type[Object], namespace: str, name: str, seconds: float = 20) -> None:
    said: dict[str, str] = {}

    async def look() -> bool:
        said.update(await condition(grid, model, namespace, name))
        return said["status"] == "True"

    await until(look, seconds, lambda: f"{model.KIND} {namespace}/{name}: {said}")


async def says(grid: Grid, model: type[Object], namespace: str, name: str, reason: str, *words: str) -> None:
    said: dict[str, str] = {}

    async def look() -> bool:
        said.update(await condition(grid, model, namespace, name))
        return said["reason"] == reason and all(word in said["message"] for word in words)

    await until(look, told=lambda: f"{model.KIND} {namespace}/{name}: {said}")


async def hostile(grid: Grid) -> None:
    """What the tenant has: a laptop, a variable from a Secret, a disk."""
    await grid.client.create(
        Secret, "hostile", {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "env"}, "stringData": {"word": "x"}}
    )
    await create(grid, Network, "hostile", "po", ipRange="10.94.0.0/16", nodes=[{"name": "bad"}], access=[{"name": "lap"}])
    await create(grid, ZMount, "hostile", "disk", size="1Gi", nodeName="bad")
    source = {"secretKeyRef": {"name": "env", "key": "word"}}
    await create(
        grid, ZMachine, "hostile", "vm", image="oci://registry.example/a", memory="256Mi", nodeName="bad",
        network={"name": "po"}, env=[{"name": "WORD", "valueFrom": source}],
    )  # fmt: skip
    await ready(grid, Network, "hostile", "po")
    await ready(grid, ZMount, "hostile", "disk")


async def busy(grid: Grid) -> None:
    """Events all the time: what is lost behind a bad one is lost for somebody."""
    for number in range(1_000_000):
        name = f"nc{number % _NAMES}"
        with contextlib.suppress(ApiError, Unavailable):
            await grid.client.patch(NameContract, "hostile", name, {"metadata": {"labels": {"t": str(number)}}})


async def poison_laptop(grid: Grid) -> None:
    """The two values that once made the controller deaf."""
    while True:
        for key, value in (("publicKey", b"\xff\xff\xff\xff"), ("privateKey", b"hello")):
            data = {"data": {key: base64.b64encode(value).decode()}}
            with contextlib.suppress(ApiError, Unavailable, NotFound):
                await grid.client.patch(Secret, "hostile", "po-lap-wireguard", data)


async def test_everyone_else_is_served(grid: Grid) -> None:
    await create(grid, Network, "good", "net", ipRange="10.93.0.0/16", nodes=[{"name": "good"}])
    await hostile(grid)
    for number in range(_NAMES):
        await create(grid, NameContract, "hostile", f"nc{number}", name=f"nc{number}")
    stop = asyncio.Event()
    targets = [(model, "hostile") for model in (Secret, Network, ZMachine, ZMount, NameContract)]
    targets.append((NodeWorkload, "zos-node-bad"))
    attacks = [asyncio.create_task(attack(grid.client, seed, targets[seed % 2 :: 2], stop)) for seed in (1, 2)]
    tasks = [asyncio.create_task(busy(grid)), asyncio.create_task(poison_laptop(grid))]
    began = asyncio.get_running_loop().time()
    served = 0
    while served < 3 or asyncio.get_running_loop().time() - began < _SECONDS:
        await create(grid, ZMount, "good", f"disk{served}", size="1Gi", nodeName="good")
        await ready(grid, ZMount, "good", f"disk{served}")
        served += 1
    stop.set()
    for task in tasks:
        task.cancel()
    done = sum(await asyncio.gather(*attacks), start=Counter[str]())
    assert sum(done.values()) > 30, done
    assert {what.split()[-1] for what in done} >= {"taken"}, done
    await create(grid, Network, "good", "after", ipRange="10.95.0.0/16", nodes=[{"name": "good"}])
    await ready(grid, Network, "good", "after")
    assert all(not agent.done() for agent in grid.agents.values())


async def test_who_poisons_a_laptops_key_is_told(grid: Grid) -> None:
    await grid.client.create(Network, "hostile", manifest("Network", "own", {
        "ipRange": "10.96.0.0/16", "nodes": [{"name": "bad"}], "access": [{"name": "lap"}],
    }, "hostile"))  # fmt: skip
    await ready(grid, Network, "hostile", "own")
    for key, value in (("publicKey", b"\xff\xff\xff\xff"), ("privateKey", b"hello")):
        data = {"data": {key: base64.b64encode(value).decode()}}
        await grid.client.patch(Secret, "hostile", "own-lap-wireguard", data)
    await says(grid, Network, "hostile", "own", "InvalidSpec", "own-lap-wireguard", "Key")


async def test_what_a_machine_is_given_is_bounded_and_who_gives_too_much_is_told(grid: Grid) -> None:
    """As much as is taken reaches the node; one Secret that is named often is refused before it is gathered; and what etcd does
    not take in one NodeWorkload is the owner's to hear."""
    data = {"word": "x" * (2**17 - 100), "large": "x" * 800 * 1024}
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "big"}, "stringData": data}
    await grid.client.create(Secret, "hostile", body)
    await create(grid, Network, "hostile", "given", ipRange="10.97.0.0/16", nodes=[{"name": "bad"}])

    async def machine(name: str, count: int, key: str, **more: object) -> None:
        source = {"secretKeyRef": {"name": "big", "key": key}}
        env = [{"name": f"V{number}", "valueFrom": source} for number in range(count)]
        await create(grid, ZMachine, "hostile", name, image="oci://r/i:t", network={"name": "given"}, env=env, **more)

    await machine("most", 4, "word")
    await machine("often", 256, "large")
    await machine("much", 4, "word", sshAuthorizedKeys=["x" * 16384] * 58)
    await create(grid, ZMount, "good", "beside", size="1Gi", nodeName="good")
    await ready(grid, ZMount, "good", "beside")
    await ready(grid, ZMachine, "hostile", "most")
    await says(grid, ZMachine, "hostile", "often", "InvalidSpec", "env V0 has 819200 bytes")
    await says(grid, ZMachine, "hostile", "much", "Refused", "too large")
