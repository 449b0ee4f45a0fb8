"""The API server in memory, on which quick tests stand, answers as the real one does: the same stories are told to both."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from apiserver import ApiServer
from memory import MemoryClient, Server
from zos.api.meta import Object
from zos.api.nodeworkload import NodeWorkload
from zos.api.zmount import ZMount
from zos.kube.client import Access, ApiError, Client, Raw

KINDS: dict[str, type[Object]] = {model.KIND: model for model in (ZMount, NodeWorkload)}
NAME, PLACE = "memory", "default"
FINALIZERS = ("example.org/one", "example.org/two")


class Teller:
    """Asks one server, and notes what can be compared: of versions and uids whether they are others than before."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.told: list[Any] = []
        self.last: Raw = {}

    async def __call__(self, asking: Callable[[Client], Awaitable[Raw | None]]) -> Raw:
        try:
            found = await asking(self._client)
        except ApiError as error:
            self.told.append((error.status, error.reason))
            return {}
        self.told.append(self._said(found) if found is not None else None)
        if found is not None:
            self.last = found
        return found or {}

    def _said(self, raw: Raw) -> Any:
        meta, before = raw["metadata"], self.last.get("metadata", {})
        read = KINDS[raw["kind"]].model_validate(raw)  # the real one writes defaults down
        return {
            "same": [meta[name] == before.get(name) for name in ("uid", "resourceVersion")],
            "generation": meta["generation"],
            "finalizers": sorted(meta.get("finalizers", ())),
            "labels": meta.get("labels", {}),
            "going": "deletionTimestamp" in meta,
            "spec": read.spec,
            "status": read.status,
        }


def mount(size: str = "1Gi", **meta: Any) -> Raw:
    return {"apiVersion": ZMount.API_VERSION, "kind": "ZMount", "metadata": {"name": NAME, **meta}, "spec": {"size": size}}


def status(**fields: Any) -> Raw:
    return {"status": fields}


async def versions(ask: Teller) -> None:
    """Who changes what, and what counts as a change."""
    made = await ask(lambda it: it.create(ZMount, PLACE, {**mount(), **status(nodeName="never")}))
    await ask(lambda it: it.create(ZMount, PLACE, mount()))
    await ask(lambda it: it.patch(ZMount, PLACE, NAME, {"spec": {"size": "1Gi"}}))
    await ask(lambda it: it.patch(ZMount, PLACE, NAME, {"spec": {"size": "2Gi"}}))
    await ask(lambda it: it.patch(ZMount, PLACE, NAME, status(nodeName="n1"), subresource="status"))
    await ask(lambda it: it.patch(ZMount, PLACE, NAME, status(nodeName="n1"), subresource="status"))
    await ask(lambda it: it.patch(ZMount, PLACE, NAME, {**status(nodeName="n2"), "spec": {"size": "3Gi"}}))
    await ask(
        lambda it: it.patch(ZMount, PLACE, NAME, {**status(nodeName=None), "spec": {"size": "9Gi"}}, subresource="status")
    )
    await ask(lambda it: it.patch(ZMount, PLACE, NAME, {"metadata": {"labels": {"a": "b"}}}))
    await ask(lambda it: it.replace(ZMount, PLACE, NAME, mount("4Gi", resourceVersion=made["metadata"]["resourceVersion"])))
    await ask(lambda it: it.replace(ZMount, PLACE, NAME, mount("4Gi", resourceVersion=ask.last["metadata"]["resourceVersion"])))
    stale = {"metadata": {"resourceVersion": made["metadata"]["resourceVersion"]}, **status(nodeName="late")}
    await ask(lambda it: it.patch(ZMount, PLACE, NAME, stale, subresource="status"))
    await ask(lambda it: it.patch(ZMount, PLACE, NAME, {"spec": {"size": "none"}}))
    await ask(lambda it: it.get(ZMount, PLACE, NAME))
    await ask(lambda it: it.get(ZMount, PLACE, "nobody"))
    await ask(lambda it: it.patch(ZMount, PLACE, "nobody", {"spec": {}}))
    await ask(lambda it: it.create(ZMount, "no-such-namespace", mount()))


async def ends(ask: Teller) -> None:
    """Finalizers hold up an end, and a name that comes back is somebody else."""
    await ask(lambda it: it.create(ZMount, PLACE, mount(finalizers=list(FINALIZERS))))
    uid = ask.last["metadata"]["uid"]
    await ask(lambda it: _gone(it, ZMount, NAME, "another"))
    await ask(lambda it: _gone(it, ZMount, NAME, uid))
    await ask(lambda it: _gone(it, ZMount, NAME, uid))
    await ask(lambda it: it.patch(ZMount, PLACE, NAME, {"metadata": {"finalizers": [*FINALIZERS, "example.org/late"]}}))
    await ask(lambda it: it.patch(ZMount, PLACE, NAME, {"metadata": {"finalizers": [FINALIZERS[1]]}}))
    await ask(lambda it: it.patch(ZMount, PLACE, NAME, {"metadata": {"finalizers": []}}))
    await ask(lambda it: it.get(ZMount, PLACE, NAME))
    await ask(lambda it: it.create(ZMount, PLACE, mount()))
    await ask(lambda it: _gone(it, ZMount, NAME, uid))
    await ask(lambda it: _gone(it, ZMount, NAME, ask.last["metadata"]["uid"]))


async def applies(ask: Teller) -> None:
    """Server-side apply: what one manager applies stands beside what others set."""

    def apply(body: Raw) -> Callable[[Client], Awaitable[Raw]]:
        return lambda it: it.patch(NodeWorkload, PLACE, NAME, body, type="apply", manager="zos-test")

    await ask(apply(part("1Gi", FINALIZERS[0])))
    await ask(apply(part("1Gi", FINALIZERS[0])))
    await ask(
        lambda it: it.patch(NodeWorkload, PLACE, NAME, {"metadata": {"finalizers": list(FINALIZERS), "labels": {"x": "y"}}})
    )
    await ask(apply(part("2Gi", FINALIZERS[0])))
    await ask(apply(part("2Gi")))
    await ask(lambda it: it.patch(NodeWorkload, PLACE, NAME, status(observedGeneration=2), subresource="status"))
    await ask(lambda it: it.patch(NodeWorkload, PLACE, NAME, {"metadata": {"finalizers": []}}))
    await ask(apply({**part("2Gi"), "metadata": {"name": NAME, "uid": "another"}}))
    await ask(lambda it: _gone(it, NodeWorkload, NAME, ask.last["metadata"]["uid"]))
    await ask(apply({**part("2Gi"), "metadata": {"name": NAME, "uid": "another"}}))


def part(size: str, *finalizers: str) -> Raw:
    owner = {"kind": "ZMount", "namespace": PLACE, "name": NAME, "uid": "u"}
    meta = {"name": NAME, "labels": {"example.org/mine": "yes"}, "finalizers": list(finalizers)}
    spec = {"owner": owner, "part": {"zmount": {"size": size}}}
    return {"apiVersion": NodeWorkload.API_VERSION, "kind": NodeWorkload.KIND, "metadata": meta, "spec": spec}


async def _gone(client: Client, model: type[Object], name: str, uid: str) -> Raw | None:
    """What there is after a deletion."""
    await client.delete(model, PLACE, name, uid=uid)
    return await client.get(model, PLACE, name)


@pytest.fixture
async def real(apiserver: ApiServer) -> AsyncIterator[Client]:
    client = Client(await Access.load(apiserver.kubeconfig))
    yield client
    for model in (ZMount, NodeWorkload):
        if await client.get(model, PLACE, NAME) is not None:
            await client.patch(model, PLACE, NAME, {"metadata": {"finalizers": []}})
            await client.delete(model, PLACE, NAME)
    await client.close()


@pytest.mark.parametrize("story", [versions, ends, applies])
async def test_both_servers_tell_the_same(real: Client, story: Callable[[Teller], Awaitable[None]]) -> None:
    truth, memory = Teller(real), Teller(MemoryClient(Server()))
    await story(truth)
    await story(memory)
    for number, (one, other) in enumerate(zip(truth.told, memory.told, strict=True)):
        assert other == one, f"answer {number}"
