"""A thousand PublicIPs over a hundred contracts: controller and API server are real, nodes have no part in it."""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Generator
from pathlib import Path

from apiserver import ApiServer, running
from benchlib.api import CONNECTIONS, Api, Written, connected, controller, each, settled
from benchlib.bare import replay
from benchlib.progress import Progress
from benchlib.table import Row, ratio
from zos.api.contract import Claim, Contract
from zos.api.meta import API_VERSION, Object
from zos.api.publicip import PublicIP
from zos.kube.client import Raw
from zos.manifests.admission import admission_objects

CONTRACTS, EACH = 100, 10
ROUNDS = 5
#: Addresses that are held, by so many contracts, when a controller comes anew; how often it does.
HELD, HOLDERS, RESTARTS = 5000, 50, 3
_FARM = "bench"
_MODELS: dict[str, type[Object]] = {model.PLURAL: model for model in (Contract, PublicIP, Claim)}
_RESOURCES = (*_MODELS, "events")


def measure(progress: Progress) -> Generator[Row, None, None]:
    with (
        tempfile.TemporaryDirectory(prefix="zos-bench-") as scratch,
        running(Path(scratch) / "ours") as server,
        running(Path(scratch) / "bare") as bare,
    ):
        server.kubectl("create", "namespace", "zos-system")
        policy = {"apiVersion": "v1", "kind": "List", "items": list(admission_objects())}
        server.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(policy))
        with controller(server.kubeconfig):
            yield from asyncio.run(_allocations(server, bare, progress))
        yield asyncio.run(_restarts(server, progress))


async def _allocations(server: ApiServer, bare: ApiServer, progress: Progress) -> list[Row]:
    ours: list[float] = []
    theirs: list[float] = []
    counts: list[Written] = []
    async with connected(server.kubeconfig) as api, connected(bare.kubeconfig) as other:
        await asyncio.sleep(5)  # a server that has just learned of new kinds ends its connections once more
        farm = {"publicIPv4": [{"range": "198.18.0.0/18", "gateway": "198.18.0.1"}], "allowNonGlobal": True}
        await api.write("POST", f"/apis/{API_VERSION}/farms", _body("Farm", _FARM, farm))
        samples: dict[str, list[Raw]] = {}

        async def one_of_ours(number: int) -> None:
            namespace = f"ours-{number}"
            server.kubectl("create", "namespace", namespace)
            before = await settled(server, _RESOURCES)
            ours.append(await _allocated(api, namespace))
            counts.append(await settled(server, _RESOURCES) - before)
            for plural in _MODELS:
                samples[plural] = await api.items(_path(plural, namespace))
            for plural in (PublicIP.PLURAL, Contract.PLURAL):
                await api.clear(_path(plural, namespace))

        async def one_of_theirs(number: int) -> None:
            namespace = f"bare-{number}"
            bare.kubectl("create", "namespace", namespace)
            theirs.append(await replay(other, namespace, counts[0], samples))

        for number in range(ROUNDS):
            progress(f"{CONTRACTS * EACH} addresses by turns with as many bare writes, round {number + 1} of {ROUNDS}")
            # The first of ours tells how many writes there are.
            for turn in (one_of_ours, one_of_theirs) if number % 2 == 0 else (one_of_theirs, one_of_ours):
                await turn(number)
    writes = [sum(count.taken.values()) for count in counts]
    refused = [count.refused for count in counts]
    per_address = sorted(writes)[len(writes) // 2] / (CONTRACTS * EACH)
    return [
        ratio(
            f"{CONTRACTS * EACH} PublicIPs over {CONTRACTS} contracts, apply → all allocated / as many bare writes",
            ours, theirs, "<=", 1.5, writes=writes, refused=refused, connections=CONNECTIONS, split=counts[0].split,
        ),
        Row("API writes per PublicIP, its contract's share included", per_address, detail={"rounds": writes}),
    ]  # fmt: skip


async def _restarts(server: ApiServer, progress: Progress) -> Row:
    """Seconds from the start of a controller's process until a Contract that waited for it has its addresses."""
    seconds: list[float] = []
    async with connected(server.kubeconfig) as api:
        server.kubectl("create", "namespace", "held")
        progress(f"{HELD} addresses held")
        with controller(server.kubeconfig):
            waiting = asyncio.create_task(api.seen(_path(Contract.PLURAL, "held"), HOLDERS))
            await asyncio.sleep(0.5)  # until it watches
            for number in range(HOLDERS):
                await _create(api, Contract.PLURAL, "held", f"c{number}", {"farm": _FARM, "publicIPv4": HELD // HOLDERS})
            await asyncio.wait_for(waiting, 120)
            await settled(server, _RESOURCES)
        for number in range(RESTARTS):
            progress(f"a new controller, {number + 1} of {RESTARTS}")
            namespace = f"anew-{number}"
            server.kubectl("create", "namespace", namespace)
            await _create(api, Contract.PLURAL, namespace, "c", {"farm": _FARM, "publicIPv4": 1})
            began = time.monotonic()
            with controller(server.kubeconfig):
                await asyncio.wait_for(api.seen(_path(Contract.PLURAL, namespace), 1), 120)
                seconds.append(time.monotonic() - began)
                await settled(server, _RESOURCES)
    median = sorted(seconds)[len(seconds) // 2]
    return Row(f"restart with {HELD} addresses held, start → first allocation", median, unit="s", detail={"samples": seconds})


async def _allocated(api: Api, namespace: str) -> float:
    """Seconds from the first creation until a watch has shown the last PublicIP with its address."""
    ready = asyncio.create_task(api.seen(_path(PublicIP.PLURAL, namespace), CONTRACTS * EACH))
    await asyncio.sleep(0.5)  # until it watches
    began = time.monotonic()
    await each(
        range(CONTRACTS),
        lambda c: _create(api, Contract.PLURAL, namespace, f"c{c}", {"farm": _FARM, "publicIPv4": EACH}),
    )
    await each(
        range(CONTRACTS * EACH),
        lambda n: _create(api, PublicIP.PLURAL, namespace, f"ip{n}", {"contract": f"c{n % CONTRACTS}", "ipv6": False}),
    )
    return await asyncio.wait_for(ready, 300) - began


async def _create(api: Api, plural: str, namespace: str, name: str, spec: dict[str, object]) -> None:
    await api.write("POST", _path(plural, namespace), _body(_MODELS[plural].KIND, name, spec))


def _path(plural: str, namespace: str) -> str:
    return f"/apis/{API_VERSION}/" + (f"namespaces/{namespace}/{plural}" if _MODELS[plural].NAMESPACED else plural)


def _body(kind: str, name: str, spec: object) -> dict[str, object]:
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}
