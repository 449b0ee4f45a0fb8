"""The informer against a real API server: everything is heard, nothing is invented."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from apiserver import ApiServer, running
from zos.api.gridnode import GridNode
from zos.api.meta import Key
from zos.api.zmount import ZMount
from zos.kube.client import Access, Client, Raw
from zos.kube.informer import Informer
from zos.kube.watches import Watched


class Heard:
    """What an informer said."""

    def __init__(self) -> None:
        self.objects: dict[Key, Raw] = {}
        self.events: list[tuple[Key, bool]] = []

    def __call__(self, key: Key, raw: Raw | None) -> None:
        self.events.append((key, raw is not None))
        if raw is None:
            self.objects.pop(key, None)
        else:
            self.objects[key] = raw


async def until(condition: Callable[[], bool], seconds: float = 30) -> float:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, "not within the time"
        await asyncio.sleep(0.005)
    return time.monotonic() - began


@contextlib.asynccontextmanager
async def informing(server: ApiServer, *watched: Watched, **options: object) -> AsyncIterator[tuple[Client, Heard, Informer]]:
    access = await Access.load(server.kubeconfig)
    client, heard = Client(access), Heard()
    informer = Informer(access, client, watched, heard, **options)  # type: ignore[arg-type]
    task = asyncio.create_task(informer.run())
    try:
        yield client, heard, informer
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await client.close()


def mount(name: str) -> Raw:
    return {"apiVersion": "zos.grid.tf/v1alpha1", "kind": "ZMount", "metadata": {"name": name}, "spec": {"size": "1Gi"}}


def node(name: str) -> Raw:
    return {"apiVersion": "zos.grid.tf/v1alpha1", "kind": "GridNode", "metadata": {"name": name}, "spec": {}}


def key(name: str, namespace: str) -> Key:
    return Key("ZMount", namespace, name)


async def test_only_what_was_asked_for(apiserver: ApiServer) -> None:
    for namespace in ("informer-a", "informer-b"):
        apiserver.kubectl("create", "namespace", namespace)
    admin = Client(await Access.load(apiserver.kubeconfig))
    await admin.create(ZMount, "informer-a", mount("before"))
    await admin.create(ZMount, "informer-b", mount("elsewhere"))
    for name in ("informer-n1", "informer-n2"):
        await admin.create(GridNode, "", node(name))
    watched = (Watched(ZMount, "informer-a"), Watched(GridNode, name="informer-n1"))
    async with informing(apiserver, *watched) as (client, heard, informer):
        await asyncio.wait_for(informer.listed.wait(), 10)
        assert set(heard.objects) == {key("before", "informer-a"), Key("GridNode", "", "informer-n1")}
        await client.create(ZMount, "informer-a", mount("after"))
        assert await until(lambda: key("after", "informer-a") in heard.objects) < 4  # told, not found at the next look
        await client.patch(GridNode, "", "informer-n2", {"spec": {"unschedulable": True}})
        await client.patch(ZMount, "informer-a", "after", {"spec": {"size": "3Gi"}})
        await until(lambda: heard.objects[key("after", "informer-a")]["spec"]["size"] == "3Gi")
        await client.delete(ZMount, "informer-a", "after")
        await until(lambda: key("after", "informer-a") not in heard.objects)
        assert {found.namespace for found, _ in heard.events} == {"informer-a", ""}
        assert Key("GridNode", "", "informer-n2") not in heard.objects
        # A process that only watches must not take other people's finalizers away.
        finalizers = ["zos.grid.tf/agent", "example.org/mine"]
        await client.create(ZMount, "informer-a", {**mount("kept"), "metadata": {"name": "kept", "finalizers": finalizers}})
        await until(lambda: key("kept", "informer-a") in heard.objects)
        await asyncio.sleep(0.5)
        kept = await client.get(ZMount, "informer-a", "kept")
        assert kept is not None
        assert kept["metadata"]["finalizers"] == finalizers
        await client.patch(ZMount, "informer-a", "kept", {"metadata": {"finalizers": None}})
    for name in ("informer-n1", "informer-n2"):
        await admin.delete(GridNode, "", name)
    await admin.close()


async def test_nothing_exists_is_a_complete_list_too(apiserver: ApiServer) -> None:
    apiserver.kubectl("create", "namespace", "informer-empty")
    async with informing(apiserver, Watched(ZMount, "informer-empty")) as (_, heard, informer):
        await asyncio.wait_for(informer.listed.wait(), 10)
        assert heard.objects == {}


async def test_an_api_server_that_was_away(tmp_path: Path) -> None:
    with running(tmp_path / "own") as server:
        async with informing(server, Watched(ZMount), relist=3.0) as (client, heard, informer):
            await asyncio.wait_for(informer.listed.wait(), 10)
            await client.create(ZMount, "default", mount("stays"))
            await client.create(ZMount, "default", mount("goes"))
            await until(lambda: len(heard.objects) == 2)
            await asyncio.to_thread(server.kill, "kube-apiserver")
            await asyncio.sleep(4)  # longer than its patience with one request
            assert len(heard.objects) == 2
            await asyncio.to_thread(server.start_api)
            await client.create(ZMount, "default", mount("new"))
            assert await until(lambda: key("new", "default") in heard.objects, 15) < 10
            await client.delete(ZMount, "default", "goes")
            await until(lambda: key("goes", "default") not in heard.objects)
            assert set(heard.objects) == {key("stays", "default"), key("new", "default")}


async def test_what_was_deleted_while_nobody_watched_is_noticed_at_once(tmp_path: Path) -> None:
    """A watch that can't go on where it ended is followed by a list, which tells nothing of what is gone."""
    lists = []
    with running(tmp_path / "own") as server:
        async with informing(server, Watched(ZMount), relisted=lambda: lists.append(1)) as (client, heard, informer):
            await asyncio.wait_for(informer.listed.wait(), 10)
            for name in ("stays", "goes"):
                await client.create(ZMount, "default", mount(name))
            await until(lambda: len(heard.objects) == 2)
            before = len(lists)
            await asyncio.to_thread(server.kill, "kube-apiserver")
            await asyncio.to_thread(server.erase, "/registry/zos.grid.tf/zmounts/default/goes")
            await asyncio.to_thread(server.start_api)
            await until(lambda: key("goes", "default") not in heard.objects, 20)
            await until(lambda: len(lists) > before)  # what is gone is told in the middle of it
            assert set(heard.objects) == {key("stays", "default")}
            assert heard.events.count((key("goes", "default"), False)) == 1


@pytest.mark.parametrize("trusted", [True, False])
async def test_what_vanished_unheard_is_noticed_if_the_server_is_trusted(apiserver: ApiServer, trusted: bool) -> None:
    namespace = f"informer-vanish-{str(trusted).lower()}"
    apiserver.kubectl("create", "namespace", namespace)

    asked: list[bool] = []

    async def trust() -> bool:
        """Only asked when something is gone."""
        asked.append(trusted)
        return trusted

    async with informing(apiserver, Watched(ZMount, namespace), relist=0.5, trusted=trust) as (client, heard, informer):
        await asyncio.wait_for(informer.listed.wait(), 10)
        await client.create(ZMount, namespace, mount("real"))
        await until(lambda: key("real", namespace) in heard.objects)
        there = await client.get(ZMount, namespace, "real")
        informer.event("ADDED", there | {"metadata": there["metadata"] | {"name": "ghost", "uid": "uid"}})  # gone, and not told
        await until(lambda: asked, 20)
        await until(lambda: len(asked) > 1 or (key("ghost", namespace), False) in heard.events, 20)
        assert ((key("ghost", namespace), False) in heard.events) is trusted
        assert key("real", namespace) in heard.objects
