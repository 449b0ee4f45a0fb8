"""The client against a real API server."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from apiserver import ApiServer, free_port
from zos.api.meta import Key
from zos.api.zmount import ZMount
from zos.kube.client import Access, ApiError, Client, Conflict, NotFound, Unavailable


@pytest.fixture
async def client(apiserver: ApiServer) -> AsyncIterator[Client]:
    client = Client(await Access.load(apiserver.kubeconfig))
    yield client
    await client.close()


def mount(name: str, size: str = "1Gi") -> dict[str, object]:
    return {"apiVersion": "zos.grid.tf/v1alpha1", "kind": "ZMount", "metadata": {"name": name}, "spec": {"size": size}}


async def test_life_of_an_object(client: Client) -> None:
    made = await client.create(ZMount, "default", mount("client-a"))
    with pytest.raises(Conflict):
        await client.create(ZMount, "default", mount("client-a"))
    assert ZMount.model_validate(await client.get(ZMount, "default", "client-a")).spec.size == 2**30
    keys = await client.keys(ZMount, "default", name="client-a")
    assert keys == {Key("ZMount", "default", "client-a"): made["metadata"]["resourceVersion"]}
    await client.patch(ZMount, "default", "client-a", {"status": {"nodeName": "n"}}, subresource="status")
    applied = await client.patch(ZMount, "default", "client-a", mount("client-a", "2Gi"), type="apply", manager="zos-test")
    assert (applied["spec"]["size"], applied["status"]["nodeName"]) == ("2Gi", "n")
    with pytest.raises(Conflict):
        await client.replace(ZMount, "default", "client-a", {**applied, "metadata": made["metadata"]})
    await client.delete(ZMount, "default", "client-a", uid="another-incarnation")
    assert await client.get(ZMount, "default", "client-a") is not None
    await client.delete(ZMount, "default", "client-a")
    await client.delete(ZMount, "default", "client-a")
    assert await client.get(ZMount, "default", "client-a") is None


async def test_lists_come_in_pages_and_complete(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"client-page-{n}" for n in range(7)]
    for name in names:
        await client.create(ZMount, "default", {**mount(name), "metadata": {"name": name, "labels": {"test": "pages"}}})
    monkeypatch.setattr("zos.kube.client._PAGE", 3)
    assert [item["metadata"]["name"] for item in await client.objects(ZMount, labels="test=pages")] == names
    assert {key.name for key in await client.keys(ZMount)} >= set(names)
    for name in names:
        await client.delete(ZMount, "default", name)


async def test_refusals_say_why(client: Client, apiserver: ApiServer) -> None:
    with pytest.raises(NotFound):
        await client.patch(ZMount, "default", "client-none", {"spec": {}})
    with pytest.raises(ApiError) as caught:
        await client.create(ZMount, "default", mount("client-bad", "0"))
    assert caught.value.reason == "Invalid"
    stranger = Client(await Access.load(apiserver.user("agent-a")))
    with pytest.raises(ApiError) as caught:
        await stranger.get(ZMount, "default", "x")
    assert caught.value.status == 403
    await stranger.close()


async def test_nobody_there_is_not_a_refusal(apiserver: ApiServer) -> None:
    access = await Access.load(apiserver.kubeconfig)
    access.configuration.host = f"https://127.0.0.1:{free_port()}"
    client = Client(access)
    with pytest.raises(Unavailable):
        await client.get(ZMount, "default", "x")
    await client.close()
