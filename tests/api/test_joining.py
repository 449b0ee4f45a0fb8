"""Kubernetes Nodes become GridNodes by themselves, under the controller's own rights and all policies."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from apiserver import ApiServer
from simulated import sweep, until
from zos.api import names
from zos.api.core import Lease, Namespace, Node
from zos.api.gridnode import GridNode
from zos.api.names import CONTROLLER, CONTROLLER_NAMESPACE, ENDPOINT, MANAGED_BY, MEMBER, NODE
from zos.controller.main import Controller, ControllerSettings
from zos.kinds.gridnode.joining import Membership
from zos.kube.client import Access, Client, Raw
from zos.manifests.rbac import controller_objects

GIVEN = Membership(farm="home", public_interface="br0", gateway_domain="gw.example.org")
ASKED = {"farm": "home", "publicInterface": "br0", "gatewayDomain": "gw.example.org"}


@pytest.fixture
async def client(controlled: ApiServer) -> AsyncIterator[Client]:
    controlled.kubectl(
        "apply", "--server-side", "-f", "-",
        stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(controller_objects())}),
    )  # fmt: skip
    made = Client(await Access.load(controlled.kubeconfig))
    yield made
    for key in await made.keys(Node):
        await made.delete(Node, "", key.name)
    await sweep(made)
    await made.delete(Lease, CONTROLLER_NAMESPACE, CONTROLLER)
    await made.close()


@contextlib.asynccontextmanager
async def controller(
    server: ApiServer, directory: Path, given: Membership = GIVEN
) -> AsyncIterator[tuple[Controller, list[tuple[str, str, int]]]]:
    """With its own token. Gives it, and what it writes."""
    config = json.loads(Path(server.kubeconfig).read_text())
    token = await asyncio.to_thread(server.kubectl, "create", "token", CONTROLLER, "-n", CONTROLLER_NAMESPACE)
    config["users"][0]["user"] = {"token": token.strip()}
    path = directory / "controller.kubeconfig"
    path.write_text(json.dumps(config))
    writes: list[tuple[str, str, int]] = []
    made = Controller(
        await Access.load(str(path)), ControllerSettings(str(path), "c", workers=20, resync=0.5, membership=given)
    )
    made.observe_writes(lambda *write: writes.append(write))
    stop = asyncio.Event()
    task = asyncio.create_task(made.run(stop))
    try:
        yield made, writes
    finally:
        stop.set()
        await task


async def node(client: Client, name: str, endpoint: str = "", **labels: str) -> None:
    meta = {"name": name, "labels": {MEMBER: "true", **labels}, "annotations": {ENDPOINT: endpoint} if endpoint else {}}
    await client.create(Node, "", {"apiVersion": "v1", "kind": "Node", "metadata": meta})


async def annotate(client: Client, name: str, endpoint: str | None) -> None:
    await client.patch(Node, "", name, {"metadata": {"annotations": {ENDPOINT: endpoint}}})


async def leave(client: Client, controller: Controller, name: str) -> None:
    """Takes the label from a Node, and waits until the controller has heard of it."""
    await client.patch(Node, "", name, {"metadata": {"labels": {MEMBER: None}}})

    async def heard() -> bool:
        return Node.key_of("", name) not in controller.heard(Node)

    await until(heard)


async def has(client: Client, name: str, fields: Mapping[str, Any], seconds: float = 30) -> Raw:
    found: Raw = {}

    async def so() -> bool:
        nonlocal found
        found = await client.get(GridNode, "", name) or {}
        spec = found.get("spec", {})
        return bool(found) and {k: spec[k] for k in (*ASKED, "endpoint") if k in spec} == fields

    await until(so, seconds, lambda: found.get("spec", "there is none"))
    return found


async def test_a_node_with_the_label_becomes_a_gridnode_and_stays_one(
    controlled: ApiServer, client: Client, tmp_path: Path
) -> None:
    await node(client, "j1", "198.51.100.7,2001:db8::7")
    await client.create(Node, "", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "unlabelled"}})
    endpoint = {"ipv4": "198.51.100.7", "ipv6": "2001:db8::7"}
    async with controller(controlled, tmp_path) as (_, writes):
        first = await has(client, "j1", {**ASKED, "endpoint": endpoint})
        assert first["metadata"]["labels"][MANAGED_BY] == CONTROLLER

        async def furnished() -> bool:
            space = await client.get(Namespace, "", "zos-node-j1")
            return space is not None and space["metadata"]["annotations"].get(NODE) == "j1"

        await until(furnished)
        found = await asyncio.to_thread(
            controlled.kubectl, "get", "serviceaccount,rolebinding", "-n", "zos-node-j1", "-o", "name"
        )
        assert {one.partition("/")[2] for one in found.split()} == {"agent", "zos-agent", "zos-agent-token"}
        await annotate(client, "j1", "198.51.100.8")
        await has(client, "j1", {**ASKED, "endpoint": {"ipv4": "198.51.100.8"}})
        await annotate(client, "j1", "somewhere")

        async def told() -> bool:
            words = ("get", "events", "-n", "default", "-o", "json", "--field-selector=involvedObject.name=j1")
            events = json.loads(await asyncio.to_thread(controlled.kubectl, *words))["items"]
            return any("'somewhere' is no address" in one["message"] for one in events)

        await until(told)
        await has(client, "j1", {**ASKED, "endpoint": {"ipv4": "198.51.100.8"}})
        await annotate(client, "j1", None)
        await has(client, "j1", ASKED)
        before = await client.get(GridNode, "", "j1")
        await client.patch(Node, "", "j1", {"metadata": {"labels": {MEMBER: None}}})
        await asyncio.sleep(1)
        await client.delete(Node, "", "j1")
        await asyncio.sleep(1.5)  # some resyncs
        assert before is not None
        after = await client.get(GridNode, "", "j1")
        assert after is not None
        assert (after["metadata"]["uid"], after["spec"]) == (before["metadata"]["uid"], before["spec"])
        assert await client.get(GridNode, "", "unlabelled") is None
        assert [one for one in writes if one[2] == 403] == []


async def test_what_an_administrator_has_set_stays_and_nothing_is_written_twice(
    controlled: ApiServer, client: Client, tmp_path: Path
) -> None:
    theirs = {"metadata": {"name": "j2"}, "spec": {"unschedulable": True}}
    await client.create(GridNode, "", {"apiVersion": GridNode.API_VERSION, "kind": "GridNode", **theirs})
    await node(client, "j2", "198.51.100.2")
    await node(client, "j3", "198.51.100.3")
    async with controller(controlled, tmp_path) as (_, writes):
        await has(client, "j3", {**ASKED, "endpoint": {"ipv4": "198.51.100.3"}})
        await asyncio.to_thread(
            controlled.kubectl, "patch", "gridnode", "j3", "--type=merge",
            "-p", json.dumps({"spec": {"farm": "elsewhere", "maintenance": True, "publicInterface": None}}),
        )  # fmt: skip
        kept = {**ASKED, "farm": "elsewhere", "endpoint": {"ipv4": "198.51.100.3"}}
        await has(client, "j3", kept)
        await annotate(client, "j3", "198.51.100.33")
        found = await has(client, "j3", {**kept, "endpoint": {"ipv4": "198.51.100.33"}})
        assert found["spec"]["maintenance"] is True
        await asyncio.sleep(3)  # what was under way
        versions = [(await client.get(GridNode, "", name) or {})["metadata"]["resourceVersion"] for name in ("j2", "j3")]
        count = len([one for one in writes if one[0] != "Lease"])
        await asyncio.sleep(2)
        assert len([one for one in writes if one[0] != "Lease"]) == count
        assert [
            (await client.get(GridNode, "", name) or {})["metadata"]["resourceVersion"] for name in ("j2", "j3")
        ] == versions
        alone = await has(client, "j2", {})
        assert MANAGED_BY not in alone["metadata"].get("labels", {})
        assert alone["spec"]["unschedulable"] is True


async def test_a_gridnode_that_is_deleted_is_made_again_when_it_is_gone(
    controlled: ApiServer, client: Client, tmp_path: Path
) -> None:
    await node(client, "j4.example")
    async with controller(controlled, tmp_path, Membership()) as (made, _):
        first = await has(client, "j4.example", {})
        namespace = names.node_namespace("j4.example")
        assert namespace.startswith("zos-node--")

        async def furnished() -> bool:
            return await client.get(Namespace, "", namespace) is not None

        await until(furnished)
        held = {"metadata": {"finalizers": [*first["metadata"].get("finalizers", ()), "example.com/hold"]}}
        await client.patch(GridNode, "", "j4.example", held)
        await client.delete(GridNode, "", "j4.example")
        await asyncio.sleep(1.5)
        still = await client.get(GridNode, "", "j4.example")
        assert still is not None
        assert still["metadata"]["uid"] == first["metadata"]["uid"]
        await client.patch(GridNode, "", "j4.example", {"metadata": {"finalizers": None}})

        async def anew() -> bool:
            found = await client.get(GridNode, "", "j4.example")
            return found is not None and found["metadata"]["uid"] != first["metadata"]["uid"]

        await until(anew)
        await leave(client, made, "j4.example")
        await client.delete(GridNode, "", "j4.example")

        async def gone() -> bool:
            return await client.get(GridNode, "", "j4.example") is None

        await until(gone, 30)
        await asyncio.sleep(1)
        assert await client.get(GridNode, "", "j4.example") is None


async def test_a_node_that_gets_its_label_back_joins_again(controlled: ApiServer, client: Client, tmp_path: Path) -> None:
    await node(client, "j5")
    async with controller(controlled, tmp_path, Membership()) as (made, _):
        first = await has(client, "j5", {})
        await leave(client, made, "j5")
        await client.delete(GridNode, "", "j5")

        async def gone() -> bool:
            return await client.get(GridNode, "", "j5") is None

        await until(gone)
        await client.patch(Node, "", "j5", {"metadata": {"labels": {MEMBER: "true"}}})
        again = await has(client, "j5", {})
        assert again["metadata"]["uid"] != first["metadata"]["uid"]
