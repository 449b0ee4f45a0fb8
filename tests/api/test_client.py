"""The client against a real API server."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from aiohttp import web

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


async def test_all_text_arrives_as_it_was_sent(client: Client) -> None:
    """A server-side apply is read as YAML, which is no friend of every JSON."""
    text = "𝒳 🂡 é \x00\x1f\x7f\x85\x9f \u2028\u2029 \ufeff\ufffe\uffff \U0010ffff \t\r\n \"'\\ # : - {}"
    body = {**mount("client-text"), "metadata": {"name": "client-text", "annotations": {"example.org/text": text}}}
    for type, manager in (("apply", "zos-test"), ("merge", "")):
        await client.delete(ZMount, "default", "client-text")
        if type == "merge":
            await client.create(ZMount, "default", mount("client-text"))
        made = await client.patch(ZMount, "default", "client-text", body, type=type, manager=manager)  # type: ignore[arg-type]
        assert made["metadata"]["annotations"]["example.org/text"] == text
    with pytest.raises(ApiError) as caught:
        await client.patch(ZMount, "default", "client-text", {"metadata": {"annotations": {"example.org/text": "\ud835"}}})
    assert caught.value.permanent
    await client.delete(ZMount, "default", "client-text")


async def test_a_refusal_that_nothing_but_people_change_is_told_from_others(client: Client, apiserver: ApiServer) -> None:
    stranger = Client(await Access.load(apiserver.user("agent-a")))
    refusals = {
        True: (client.create(ZMount, "default", mount("client-bad", "0")), stranger.get(ZMount, "default", "x")),
        False: (client.patch(ZMount, "default", "client-none", {"spec": {}}),),
    }
    for permanent, asked in refusals.items():
        for request in asked:
            with pytest.raises(ApiError) as caught:
                await request
            assert caught.value.permanent is permanent
    await stranger.close()


async def test_large_objects_come_in_smaller_pages(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"client-large-{n:02}" for n in range(12)]
    for name in names:
        meta = {"name": name, "labels": {"test": "large"}, "annotations": {"example.org/text": "x" * 10_000}}
        await client.create(ZMount, "default", {**mount(name), "metadata": meta})
    monkeypatch.setattr("zos.kube.client._LARGEST", 50_000)
    assert [item["metadata"]["name"] for item in await client.objects(ZMount, labels="test=large")] == names
    assert {key.name for key in await client.keys(ZMount)} >= set(names)
    monkeypatch.setattr("zos.kube.client._LARGEST", 5_000)
    with pytest.raises(Unavailable):
        await client.get(ZMount, "default", names[0])
    monkeypatch.undo()
    for name in names:
        await client.delete(ZMount, "default", name)


@pytest.mark.parametrize("answer", [b"<html>", b"\xff\xfe{}", b"[" * 100_000, b"[]", b'{"a":', b"1" * 5000, b"null"])
@pytest.mark.parametrize("status", [200, 400, 503])
async def test_an_answer_that_is_none(apiserver: ApiServer, answer: bytes, status: int) -> None:
    """As proxies on the way give, or somebody else's server on that port."""

    async def respond(_: web.Request) -> web.Response:
        return web.Response(status=status, body=answer)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", respond)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    access = await Access.load(apiserver.kubeconfig)
    access.configuration.host = f"http://127.0.0.1:{runner.addresses[0][1]}"
    strange = Client(access)
    try:
        with pytest.raises(ApiError if status == 400 else Unavailable):
            await strange.get(ZMount, "default", "x")
    finally:
        await strange.close()
        await runner.cleanup()
