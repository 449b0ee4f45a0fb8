"""A thousand disks: controller, agents and API server are real, only the nodes' disks are dicts."""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
import time
from collections.abc import Generator, Sequence
from pathlib import Path

from apiserver import ApiServer, running
from benchlib import process
from benchlib.api import APPLY, CONNECTIONS, MERGE, Agents, Api, agents, connected, controller, each, settled
from benchlib.progress import Progress
from benchlib.table import Row, ratio
from zos.api.meta import API_VERSION
from zos.kube.client import Raw
from zos.manifests.admission import admission_objects

DISKS = 1000
WRITES = 5 * DISKS
ROUNDS = 5
#: Objects with which the controller's size is measured: half of them disks, half of them their nodes' parts.
OBJECTS = 5000
#: Seconds for which an idle process is watched.
IDLE = 30.0
#: Seconds between resyncs while these are measured, and how many there are.
RESYNC, RESYNCS = 5.0, 3
AGENTS = 4
_PATH = f"/apis/{API_VERSION}/namespaces/{{}}/zmounts"
_PART = f"/apis/{API_VERSION}/namespaces/{{}}/nodeworkloads"


def measure(progress: Progress) -> Generator[Row, None, None]:
    with (
        tempfile.TemporaryDirectory(prefix="zos-bench-") as scratch,
        running(Path(scratch) / "ours") as server,
        running(Path(scratch) / "bare") as bare,  # the same programs, and nobody else at it
    ):
        server.kubectl("create", "namespace", "zos-system")
        server.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(_list(admission_objects())))
        with contextlib.ExitStack() as stack:
            first = controller(server.kubeconfig)
            started = first.__enter__()
            try:
                nodes = stack.enter_context(agents(server.kubeconfig, Path(scratch) / "agents", AGENTS))
                yield from asyncio.run(_disks(server, bare, progress))
                yield from _sizes(server, started.pid, progress)
            finally:
                first.__exit__(None, None, None)
            second = stack.enter_context(controller(server.kubeconfig, "--resync", f"{RESYNC:g}"))
            yield from _resyncs(server, second.pid, nodes, progress)


async def _disks(server: ApiServer, bare: ApiServer, progress: Progress) -> list[Row]:
    ours, theirs, writes = [], [], []
    async with connected(server.kubeconfig) as api, connected(bare.kubeconfig) as other:
        await asyncio.sleep(5)  # a server that has just learned of new kinds ends its connections once more
        progress("one disk alone")
        server.kubectl("create", "namespace", "alone")
        before = await _quiet(server)
        seconds = await _applied(api, "alone", 1)
        alone = await _quiet(server) - before
        disk = json.loads(server.kubectl("get", "zmount", "-n", "alone", "d0", "-o", "json"))
        (part,) = json.loads(server.kubectl("get", "nodeworkloads", "-A", "-o", "json"))["items"]
        for number in range(ROUNDS):
            progress(f"{DISKS} disks by turns with {WRITES} bare writes, round {number + 1} of {ROUNDS}")
            for turn in (number % 2, 1 - number % 2):
                if turn == 0:
                    bare.kubectl("create", "namespace", f"bare-{number}")
                    theirs.append(await _bare(other, f"bare-{number}", disk, part))
                    continue
                namespace = f"ours-{number}"
                server.kubectl("create", "namespace", namespace)
                before = await _quiet(server)
                ours.append(await _applied(api, namespace, DISKS))
                writes.append((await _quiet(server) - before) / DISKS)
                await api.clear(_PATH.format(namespace))
                await _quiet(server)
        progress(f"{OBJECTS} objects")
        server.kubectl("create", "namespace", "many")
        await _applied(api, "many", OBJECTS // 2)
    return [
        ratio(
            f"{DISKS} ZMounts, apply → all Ready / {WRITES} bare writes",
            ours, theirs, "<=", 2.0, writes_per_disk=writes, connections=CONNECTIONS, agents=AGENTS,
        ),
        Row("API writes per ZMount, apply → Ready", alone, "<=", 6, "", {"seconds": seconds, "each of many": writes}),
    ]  # fmt: skip


def _sizes(server: ApiServer, controller_pid: int, progress: Progress) -> list[Row]:
    asyncio.run(_quiet(server))
    progress("an idle controller")
    time.sleep(IDLE)  # what the watches keep for each object that changed is given up some seconds later
    memory = process.resident(controller_pid)
    return [
        Row(f"memory of the controller, {OBJECTS} objects", memory, "<=", 200, "MiB"),
        Row(f"idle controller, {OBJECTS} objects", process.share(controller_pid, IDLE), "<", 1, "% of a core"),
    ]


def _resyncs(server: ApiServer, controller_pid: int, nodes: Agents, progress: Progress) -> list[Row]:
    """A new controller and new agents have looked at everything; now they look again and again."""
    progress("resyncs with nothing to do")
    before, kernel = asyncio.run(_quiet(server)), int(nodes.ask("writes"))
    nodes.ask("resync")
    asyncio.run(_quiet(server))  # agents that begin anew renew their Leases, which is not of this
    spent = process.processor_time(controller_pid)
    time.sleep(RESYNC * RESYNCS)
    spent = process.processor_time(controller_pid) - spent
    return [
        Row(f"API writes of a no-op resync, {OBJECTS} objects", asyncio.run(_quiet(server)) - before, "<=", 0),
        Row(f"kernel writes of a no-op resync, {OBJECTS} objects", int(nodes.ask("writes")) - kernel, "<=", 0),
        Row(f"processor time of a resync of the controller, {OBJECTS} objects", spent / RESYNCS, unit="s"),
    ]


async def _applied(api: Api, namespace: str, count: int) -> float:
    """Seconds from the first creation until the last disk is Ready, as a watch sees it."""
    path = _PATH.format(namespace)
    ready = asyncio.create_task(api.seen(path, count))
    await asyncio.sleep(0.5)  # until it watches
    began = time.monotonic()
    await each(range(count), lambda number: api.write("POST", path, _disk(f"d{number}")))
    return await asyncio.wait_for(ready, 600) - began


async def _bare(api: Api, namespace: str, disk: Raw, part: Raw) -> float:
    """Seconds for the same five writes of each disk, as they are in ``disk`` (a ZMount that is Ready) and ``part`` (its
    NodeWorkload): the disk, its finalizer, its node's part, that one's status, the disk's status. Nobody decides anything."""
    manager = {"fieldManager": "bare"}

    async def one(number: int) -> None:
        name = f"d{number}"
        mine, its = _PATH.format(namespace) + f"/{name}", _PART.format(namespace) + f"/{name}"
        await api.write("POST", _PATH.format(namespace), _disk(name))
        await api.write("PATCH", mine, {"metadata": {"finalizers": ["bench.example/bare"]}}, MERGE)
        body = {key: part[key] for key in ("apiVersion", "kind", "spec")} | {"metadata": {"name": name}}
        await api.write("PATCH", its, body, APPLY, manager | {"force": "true"})
        await api.write("PATCH", its + "/status", {"status": part["status"]}, MERGE)
        await api.write("PATCH", mine + "/status", {"status": disk["status"]}, MERGE)

    began = time.monotonic()
    await each(range(DISKS), one)
    return time.monotonic() - began


def _list(objects: Sequence[Raw]) -> Raw:
    return {"apiVersion": "v1", "kind": "List", "items": list(objects)}


def _disk(name: str) -> dict[str, object]:
    return {"apiVersion": API_VERSION, "kind": "ZMount", "metadata": {"name": name}, "spec": {"size": "1Gi"}}


#: What controller and agents write; the API server and the person at kubectl write other things, and heartbeats are apart.
_RESOURCES = ("gridnodes", "zmounts", "nodeworkloads", "events", "secrets", "claims")


async def _quiet(server: ApiServer) -> int:
    """Writes so far, when nobody writes any more."""
    return (await settled(server, _RESOURCES)).total
