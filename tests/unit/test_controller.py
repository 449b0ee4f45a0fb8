"""The whole controller over HTTP: what it hears becomes what it writes, for as long as it leads."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import copy
import dataclasses
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import REGISTRY, generate_latest

from memory import Request, Server
from virtual import clock, virtual
from wire import Wire, until
from zos.api import names
from zos.api.core import HEARTBEAT, CustomResourceDefinition, Lease, Namespace, Node, Secret
from zos.api.farm import Farm
from zos.api.gridnode import GridNode
from zos.api.meta import GROUP, Key, Object
from zos.api.names import AGENT, CONTROLLER, CONTROLLER_NAMESPACE, ENDPOINT, MEMBER
from zos.api.nodeworkload import NodeWorkload
from zos.api.zmachine import ZMachine
from zos.api.zmount import ZMount
from zos.controller import secretcache
from zos.controller.main import Controller, ControllerSettings
from zos.controller.resync import resyncs
from zos.kinds.gridnode.joining import Membership
from zos.kinds.kind import Kinds
from zos.kinds.registry import KINDS
from zos.kube import queue
from zos.kube.client import Raw, path_of
from zos.kube.election import Times

_CASE = Path(__file__).parent.parent / "golden" / "vanished.yaml"
_MODELS: dict[str, type[Object]] = {model.KIND: model for model in (*KINDS.models, Secret, Namespace)}
_LEAD = path_of(Lease, CONTROLLER_NAMESPACE, CONTROLLER)
_TIMES = Times(renew=0.2, retry=0.05)


@pytest.fixture
async def wire(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Wire]:
    monkeypatch.setenv("SSL_CERT_FILE", "/dev/null")
    monkeypatch.setattr(queue, "FIRST", 0.01)  # as whoever comes too early tries again
    async with Wire(Server()).serving() as made:
        for model in KINDS.models:
            put(made, CustomResourceDefinition, f"{model.PLURAL}.{GROUP}")
        yield made


@asynccontextmanager
async def controlled(
    wire: Wire, identity: str = "one", kinds: Kinds = KINDS, **settings: Any
) -> AsyncIterator[tuple[Controller, asyncio.Task[None]]]:
    made = Controller(wire.access, ControllerSettings(None, identity, workers=20, election=_TIMES, **settings), kinds)
    stop = asyncio.Event()
    task = asyncio.create_task(made.run(stop))
    try:
        await until(lambda: made.leading and not made.unhealthy())
        yield made, task
    finally:
        await until(lambda: not made.underway)
        stop.set()
        await task


def put(wire: Wire, model: type[Object], name: str, namespace: str = "default", **body: Any) -> None:
    namespace = namespace if model.NAMESPACED else ""
    status, path = body.pop("status", None), path_of(model, namespace, name)
    body = {"metadata": {"name": name, **body.pop("metadata", {})}, **body}
    asked = (
        Request("PATCH", path, body, "merge")
        if path in wire.server.objects
        else Request("POST", path_of(model, namespace), body, "")
    )
    code, answer = wire.server.handle(asked)
    assert code == 200, answer
    if status is not None:
        code, answer = wire.server.handle(Request("PATCH", f"{path}/status", {"status": status}, "merge"))
        assert code == 200, answer


def delete(wire: Wire, model: type[Object], name: str, namespace: str = "default") -> None:
    wire.server.handle(Request("DELETE", path_of(model, namespace, name), {}, ""))


def beat(wire: Wire, node: str, time: str) -> None:
    spec = {"holderIdentity": node, "renewTime": time, "leaseDurationSeconds": 40}
    put(wire, Lease, AGENT, names.node_namespace(node), spec=spec, metadata={"labels": {HEARTBEAT: "true"}})


def raw(wire: Wire, model: type[Object], name: str, namespace: str = "default") -> Raw | None:
    return wire.server.objects.get(path_of(model, namespace, name))


def ready(wire: Wire, model: type[Object], name: str, namespace: str = "default") -> str:
    found = raw(wire, model, name, namespace) or {}
    for condition in found.get("status", {}).get("conditions", ()):
        if condition["type"] == "Ready":
            return f"{condition['status']} {condition['reason']}: {condition['message']}"
    return ""


def grid(wire: Wire, *left_out: str) -> None:
    """Everything that people make, with two nodes whose agents answer; no machine but the one that has a secret."""
    for body in yaml.safe_load_all(_CASE.read_text()):
        model, meta = _MODELS.get(body.pop("kind")), body.pop("metadata")
        meta.pop("resourceVersion", None)
        if model in (None, Namespace) or model is None or model.KIND in left_out:
            continue
        if model is ZMachine:
            body["spec"] = {name: value for name, value in body["spec"].items() if name not in ("publicIP", "disks")}
        put(wire, model, meta["name"], **body)
    for node in ("n1", "n2"):
        with contextlib.suppress(AssertionError):
            put(wire, Namespace, names.node_namespace(node))
        beat(wire, node, "1")


def workloads(wire: Wire, kind: str) -> list[Raw]:
    return [found for found in wire.server.of(NodeWorkload) if found["spec"]["owner"]["kind"] == kind]


async def served(wire: Wire, condition: Callable[[], object], *kinds: str) -> None:
    """Until something is so, while nodes say that they have done what they were asked for."""

    def reported() -> object:
        _report(wire, *kinds)
        return condition()

    await until(reported)


def _report(wire: Wire, *kinds: str) -> None:
    for found in [found for kind in kinds for found in workloads(wire, kind)]:
        number = found["metadata"]["generation"]
        condition = {
            "type": "Ready", "status": "True", "reason": "Succeeded", "message": "", "observedGeneration": number,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }  # fmt: skip
        status = {"observedGeneration": number, "conditions": [condition]}
        put(wire, NodeWorkload, found["metadata"]["name"], found["metadata"]["namespace"], status=status)


async def test_what_is_applied_reaches_a_node_and_what_the_node_says_reaches_the_user(wire: Wire) -> None:
    grid(wire, "ZMachine")
    async with controlled(wire) as (controller, _):
        writes: list[tuple[str, str, int]] = []
        controller.observe_writes(lambda *what: writes.append(what))
        put(wire, ZMount, "later", spec={"size": "1Gi"})
        await until(lambda: len(workloads(wire, "ZMount")) == 2)
        assert "True" not in ready(wire, ZMount, "later")
        await served(wire, lambda: ready(wire, ZMount, "later").startswith("True"), "ZMount")
        await served(wire, lambda: ready(wire, ZMount, "data").startswith("True"), "ZMount")
        (holder,) = {raw(wire, ZMount, name)["status"]["nodeName"] for name in ("data", "later")}  # type: ignore[index]
        holds = wire.server.objects[f"/apis/zos.grid.tf/v1alpha1/gridnodes/{holder}"]["status"]["holds"]
        assert len([hold for hold in holds if hold["owner"].startswith("ZMount ")]) == 2
        assert ("ZMount", "merge", 200) in writes
        await until(lambda: b'zos_objects{kind="ZMount",reason="Succeeded"}' in generate_latest(REGISTRY))
        assert b"zos_leading 1.0" in generate_latest(REGISTRY)
        delete(wire, ZMount, "later")
        await until(lambda: [found for found in workloads(wire, "ZMount") if "deletionTimestamp" in found["metadata"]])
        (going,) = [found for found in workloads(wire, "ZMount") if "deletionTimestamp" in found["metadata"]]
        assert going["spec"]["erase"] == going["spec"]["owner"]["uid"], "its user has said so"
        body = {"metadata": {"finalizers": []}}
        path = path_of(NodeWorkload, going["metadata"]["namespace"], going["metadata"]["name"])
        wire.server.handle(Request("PATCH", path, body, "merge"))
        await until(lambda: raw(wire, ZMount, "later") is None)
        await until(lambda: controller.world.peek(ZMount.key_of("default", "later")) is None)
    said = generate_latest(REGISTRY).decode()
    assert "zos_leading 0.0" in said
    assert "zos_objects{" not in said, "only who leads tells"


async def sealed(wire: Wire) -> None:
    await served(wire, lambda: workloads(wire, "ZMachine"), "Network")


def sources(wire: Wire) -> list[str]:
    (machine,) = workloads(wire, "ZMachine")
    return [value["source"] for value in machine["spec"].get("secrets", ())]


async def test_a_secret_is_fetched_when_it_is_named_and_again_when_it_changed(wire: Wire) -> None:
    grid(wire)
    put(wire, Secret, "nobodys", data={})
    async with controlled(wire):
        await sealed(wire)
        before = sources(wire)
        assert len(before) == 1
        put(wire, Secret, "password", data={"value": base64.b64encode(b"other").decode()})
        await until(lambda: sources(wire) != before)
        fetched = [asked.path.rpartition("/")[2] for asked in wire.asked if asked.method == "GET" and "/secrets/" in asked.path]
        assert "nobodys" not in fetched
        assert fetched.count("password") == 2
        delete(wire, Secret, "password")
        await until(lambda: "password" in ready(wire, ZMachine, "web"))
        assert len(workloads(wire, "ZMachine")) == 1, "what runs stays"


async def test_a_secret_that_is_refused_is_told_to_its_user_and_had_as_soon_as_it_may_be(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secretcache, "_AGAIN", 0.05)
    grid(wire)
    wire.server.refuses = lambda asked: (403, "not allowed here") if asked.path.endswith("/secrets/password") else None
    async with controlled(wire):
        await until(lambda: "the API server refuses it: not allowed here" in ready(wire, ZMachine, "web"))
        put(wire, ZMount, "meanwhile", spec={"size": "1Gi"})
        await until(lambda: len(workloads(wire, "ZMount")) == 2)
        assert not workloads(wire, "ZMachine")
        wire.server.refuses = lambda _: None
        await sealed(wire)
        assert len(sources(wire)) == 1


async def test_a_secret_that_is_none_is_told_and_had_when_it_is_one(wire: Wire) -> None:
    grid(wire)
    path = path_of(Secret, "default", "password")
    wire.server.objects[path] = {**wire.server.objects[path], "data": "no mapping"}
    async with controlled(wire):
        await until(lambda: "password" in ready(wire, ZMachine, "web"))
        assert "data" in ready(wire, ZMachine, "web"), "what is wrong with it is said"
        wire.server.objects[path] = {**wire.server.objects[path], "data": {}}
        put(wire, Secret, "password", data={"value": "aHVzaA=="})
        await sealed(wire)


async def test_one_that_is_not_understood_says_so_and_holds_nobody_up(wire: Wire) -> None:
    put(wire, Farm, "f", spec={})
    bad = copy.deepcopy(wire.server.objects[path_of(Farm, "", "f")])
    bad["spec"] = {"publicIPv4": "everything"}
    wire.server.objects[path_of(Farm, "", "f")] = bad
    async with controlled(wire):
        put(wire, Farm, "g", spec={})
        await until(lambda: ready(wire, Farm, "g", "").startswith("True"))
        bad["metadata"] = {**bad["metadata"], "resourceVersion": str(next(wire.server.versions))}
        fits, wire.server.update = wire.server.update, lambda path, there, wanted, _: there | {"status": wanted["status"]}  # type: ignore[method-assign]
        told: list[Any] = []
        wire.server.refuses = lambda asked: told.append(asked.body) if asked.path.endswith("/farms/f/status") else None
        for hear in wire.server.hears:
            hear(Farm.key_of("", "f"), bad)
        await until(lambda: told)
        (condition,) = told[0]["status"]["conditions"]
        assert (condition["type"], condition["status"], condition["reason"]) == ("Ready", "False", "InvalidSpec")
        assert condition["message"].startswith("not understood: spec.publicIPv4: "), "and which field it is"
        wire.server.update = fits  # type: ignore[method-assign]
        put(wire, Farm, "f", spec={"publicIPv4": []})
        await until(lambda: ready(wire, Farm, "f", "").startswith("True"))


async def test_a_bug_in_resolving_is_told_stops_nothing_that_runs_and_lets_nothing_go(wire: Wire) -> None:
    grid(wire, "ZMachine")
    broken = False

    def resolve(mount: ZMount, world: Any) -> Any:
        if broken and mount.name == "data":
            raise ZeroDivisionError("oh")
        return KINDS["ZMount"].resolve(mount, world)

    kinds = Kinds(dataclasses.replace(kind, resolve=resolve) if kind.model is ZMount else kind for kind in KINDS.values())
    async with controlled(wire, kinds=kinds) as (controller, _):
        await until(lambda: workloads(wire, "ZMount"))
        await served(wire, lambda: ready(wire, ZMount, "data").startswith("True"), "ZMount")
        broken = True
        put(wire, ZMount, "data", spec={"size": "11Gi"})
        await until(lambda: ready(wire, ZMount, "data").startswith("False Failed"))
        assert "(ZeroDivisionError: oh): please report this" in ready(wire, ZMount, "data")
        assert raw(wire, ZMount, "data")["status"]["nodeName"]  # type: ignore[index]
        assert len(workloads(wire, "ZMount")) == 1
        put(wire, ZMount, "other", spec={"size": "1Gi"})
        await until(lambda: len(workloads(wire, "ZMount")) == 2)
        delete(wire, ZMount, "data")
        await until(lambda: controller.world.peek(ZMount.key_of("default", "data")).deleting)  # type: ignore[union-attr]
        await until(lambda: controller.waiting)
        assert not [found for found in workloads(wire, "ZMount") if "deletionTimestamp" in found["metadata"]]
        broken = False
        await until(lambda: [found for found in workloads(wire, "ZMount") if "deletionTimestamp" in found["metadata"]])


@virtual
async def test_a_resync_comes_to_everything_once_in_each_period_and_little_by_little() -> None:
    keys = [ZMount.key_of("default", f"d{number}") for number in range(250)]
    seen: list[tuple[float, Key]] = []
    task = asyncio.create_task(resyncs(lambda: keys, lambda key: seen.append((clock(), key)), 300.0))
    await asyncio.sleep(301)
    assert sorted(key for _, key in seen) == sorted(keys)
    assert max(Counter(at for at, _ in seen).values()) <= 3
    await asyncio.sleep(300)
    assert set(Counter(key for _, key in seen).values()) == {2}
    task.cancel()


async def test_who_ends_lets_the_next_one_lead_at_once_which_finds_everything_done(wire: Wire) -> None:
    put(wire, Farm, "f", spec={})
    async with controlled(wire):
        await until(lambda: ready(wire, Farm, "f", "").startswith("True"))
    assert wire.server.objects[_LEAD]["spec"]["holderIdentity"] == ""
    wire.server.requests.clear()
    async with controlled(wire, "two") as (controller, task):
        assert wire.server.objects[_LEAD]["spec"]["holderIdentity"] == "two"
        put(wire, ZMount, "new", spec={"size": "1Gi"})
        await until(lambda: ready(wire, ZMount, "new"))
        assert not [found for found in wire.server.writes if "/farms/" in found.path]
        put(wire, Lease, CONTROLLER, CONTROLLER_NAMESPACE, spec={"holderIdentity": "three"})
        await asyncio.wait_for(asyncio.shield(task), 5)
        assert not controller.leading
        assert wire.server.objects[_LEAD]["spec"]["holderIdentity"] == "three"


async def test_a_node_with_the_label_becomes_a_gridnode(wire: Wire) -> None:
    for name, labels in (("j1", {MEMBER: "true"}), ("other", {MEMBER: "false"}), ("none", {})):
        put(wire, Node, name, metadata={"labels": labels, "annotations": {ENDPOINT: "198.51.100.7"}})
    async with controlled(wire, membership=Membership("home")):
        await until(lambda: ready(wire, GridNode, "j1"))
        found = raw(wire, GridNode, "j1")
        assert found is not None
        assert found["spec"] == {"farm": "home", "endpoint": {"ipv4": "198.51.100.7"}}
        put(wire, Node, "j1", metadata={"annotations": {ENDPOINT: "nowhere"}})
        await until(lambda: any("'nowhere' is no address" in str(one.body) for one in wire.server.requests))
        put(wire, Node, "j1", metadata={"annotations": {ENDPOINT: "198.51.100.8"}})
        await until(lambda: (raw(wire, GridNode, "j1") or {})["spec"]["endpoint"] == {"ipv4": "198.51.100.8"})
        delete(wire, Node, "j1")
        put(wire, Node, "j2", metadata={"labels": {MEMBER: "true"}})
        await until(lambda: raw(wire, GridNode, "j2"))
    assert {one["metadata"]["name"] for one in wire.server.of(GridNode)} == {"j1", "j2"}


async def test_without_a_right_on_nodes_everything_else_goes_on(wire: Wire) -> None:
    """As between two releases."""
    put(wire, Node, "j1", metadata={"labels": {MEMBER: "true"}})
    wire.server.refuses = lambda asked: (403, "nodes is forbidden") if asked.path.startswith("/api/v1/nodes") else None
    async with controlled(wire):
        put(wire, GridNode, "n1", spec={})
        await until(lambda: ready(wire, GridNode, "n1"))
        assert raw(wire, GridNode, "j1") is None
        wire.server.refuses = lambda _: None
        await until(lambda: raw(wire, GridNode, "j1"))
