"""The client over HTTP: what it asks, and what it makes of what it is answered."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry, Gauge

from memory import Server
from wire import Asked, Wire
from zos.api.core import Secret
from zos.api.meta import Key
from zos.api.zmount import ZMount
from zos.kube import client as module
from zos.kube import log
from zos.kube.client import ApiError, Client, Conflict, NotFound, Raw, TooLarge, Unavailable
from zos.kube.serving import serve


@pytest.fixture
async def wire(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Wire]:
    monkeypatch.setenv("SSL_CERT_FILE", "/dev/null")  # which is read each time, and not needed here
    async with Wire(Server()).serving() as made:
        yield made


@pytest.fixture
async def client(wire: Wire) -> AsyncIterator[Client]:
    made = Client(wire.access)
    yield made
    await made.close()


def mount(name: str = "d", **meta: Any) -> Raw:
    return {"apiVersion": ZMount.API_VERSION, "kind": "ZMount", "metadata": {"name": name, **meta}, "spec": {"size": "1Gi"}}


async def test_what_is_written_is_answered_told_and_there(wire: Wire, client: Client) -> None:
    told: list[tuple[str, str]] = []
    client.answered.append(lambda model, raw: told.append((model.KIND, raw["metadata"]["resourceVersion"])))
    answers = [await client.create(ZMount, "default", mount())]
    answers.append(await client.patch(ZMount, "default", "d", {"spec": {"size": "2Gi"}}))
    answers.append(await client.replace(ZMount, "default", "d", {**answers[-1], "spec": {"size": "3Gi"}}))
    answers.append(await client.patch(ZMount, "default", "d", {"status": {"nodeName": "n1"}}, subresource="status"))
    found = await client.get(ZMount, "default", "d")
    assert found == answers[-1]
    assert (found["spec"]["size"], found["status"]["nodeName"]) == ("3Gi", "n1")
    assert told == [("ZMount", raw["metadata"]["resourceVersion"]) for raw in (*answers, found)]
    assert await client.get(ZMount, "default", "e") is None
    assert {asked.headers["Content-Type"] for asked in wire.asked if asked.method == "PATCH"} == {
        "application/merge-patch+json"
    }


async def test_an_apply_names_its_manager_and_takes_over_what_others_own(wire: Wire, client: Client) -> None:
    await client.patch(ZMount, "default", "d", mount(), type="apply", manager="zos-test")
    (asked,) = wire.asked
    assert asked.query == {"fieldManager": "zos-test", "force": "true"}
    assert asked.headers["Content-Type"] == "application/apply-patch+yaml"
    await client.patch(ZMount, "default", "d", {"spec": {"size": "2Gi"}})
    assert wire.asked[-1].query == {}


async def test_one_beside_another_tells_the_same_and_may_always_write(wire: Wire) -> None:
    told: list[str] = []
    counted: list[tuple[str, str, int]] = []
    held = Client(wire.access, wrote=lambda *what: counted.append(what), may_write=lambda: False)
    held.answered.append(lambda _, raw: told.append(raw["metadata"]["name"]))
    with pytest.raises(Unavailable):
        await held.create(ZMount, "default", mount("held"))
    assert await held.keys(ZMount) == {}, "looking is no writing"
    beside = held.beside()
    await beside.create(ZMount, "default", mount("beside"))
    with pytest.raises(Conflict):
        await beside.create(ZMount, "default", mount("beside"))
    assert told == ["beside"]
    assert counted == [("ZMount", "create", 0), ("ZMount", "create", 200), ("ZMount", "create", 409)]
    for one in (held, beside):
        await one.close()


async def test_a_deletion_is_of_one_incarnation_and_one_that_is_over_is_none(client: Client) -> None:
    made = await client.create(ZMount, "default", mount())
    await client.delete(ZMount, "default", "d", uid="another")
    assert await client.get(ZMount, "default", "d") is not None
    await client.delete(ZMount, "default", "d", uid=made["metadata"]["uid"])
    await client.delete(ZMount, "default", "d")
    assert await client.get(ZMount, "default", "d") is None


async def test_keys_are_of_one_name_or_of_some_labels_and_only_metadata_is_sent(wire: Wire, client: Client) -> None:
    for name, labels in (("a", {}), ("b", {"some": "true"}), ("c", {"some": "true"})):
        await client.create(ZMount, "default", mount(name, labels=labels))
    wire.asked.clear()
    assert {key.name for key in await client.keys(ZMount)} == {"a", "b", "c"}
    one = await client.keys(ZMount, "default", name="b")
    assert one == {Key("ZMount", "default", "b"): wire.server.objects[_path("b")]["metadata"]["resourceVersion"]}
    assert int(one.version) > 0
    assert {key.name for key in await client.keys(ZMount, labels="some")} == {"b", "c"}
    assert [raw["metadata"]["name"] for raw in await client.objects(ZMount, labels="some")] == ["b", "c"]
    assert await client.keys(Secret, "default") == {}
    assert ["PartialObjectMetadataList" in asked.headers["Accept"] for asked in wire.asked] == [True, True, True, False, True]


def _path(name: str) -> str:
    return f"/apis/zos.grid.tf/v1alpha1/namespaces/default/zmounts/{name}"


@pytest.mark.parametrize("fits", [500, 7, 1, 0])
async def test_a_list_comes_whole_however_small_its_pages_have_to_be(
    wire: Wire, client: Client, fits: int, monkeypatch: Any
) -> None:
    """As many objects as ``fits`` are an answer that can be taken in."""
    names = [f"d{number:02}" for number in range(20)]
    for name in names:
        await client.create(ZMount, "default", mount(name))
    monkeypatch.setattr(module, "_LARGEST", 10_000)
    monkeypatch.setattr(module, "_PAGE", 15)
    pages: list[int] = []

    def answer(asked: Asked) -> tuple[int, bytes] | None:
        pages.append(int(asked.query["limit"]))
        return (200, b"x" * 10_001) if pages[-1] > fits else None

    wire.answers = answer
    if not fits:
        with pytest.raises(TooLarge):
            await client.objects(ZMount)
        assert pages == [15, 1]
        return
    assert [raw["metadata"]["name"] for raw in await client.objects(ZMount)] == names
    assert pages == [15, 15] if fits == 500 else [15, *[1] * 20]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 409, 410, 413, 422])
async def test_a_refusal_says_why_and_whether_asking_again_may_help(wire: Wire, client: Client, status: int) -> None:
    said = json.dumps({"kind": "Status", "reason": "Because", "message": "it is so"}).encode()
    wire.answers = lambda _: (status, said)
    with pytest.raises(ApiError) as caught:
        await client.patch(ZMount, "default", "d", {})
    assert (caught.value.status, caught.value.reason, str(caught.value)) == (status, "Because", "it is so")
    assert caught.value.permanent == (status not in (401, 404, 409, 410)), "what time or others' doing changes is not for good"
    assert isinstance(caught.value, NotFound) == (status == 404)
    assert isinstance(caught.value, Conflict) == (status == 409)


@pytest.mark.parametrize("status", [429, 500, 503, 504])
async def test_a_server_in_trouble_is_asked_again_later(wire: Wire, client: Client, status: int) -> None:
    wire.answers = lambda _: (status, b'{"message": "not now"}')
    with pytest.raises(Unavailable, match="not now"):
        await client.get(ZMount, "default", "d")


@pytest.mark.parametrize("words", ["etcdserver: request is too large", "rpc: trying to send message larger than max (5 vs. 4)"])
async def test_what_is_too_large_for_etcd_is_refused_for_good_though_it_is_told_as_a_fault(
    wire: Wire, client: Client, words: str
) -> None:
    wire.answers = lambda _: (500, json.dumps({"message": words}).encode())
    with pytest.raises(ApiError) as caught:
        await client.patch(ZMount, "default", "d", {})
    assert (caught.value.status, caught.value.permanent) == (413, True)


@pytest.mark.parametrize("answer", [b"<html>a proxy</html>", b"[]", b'"text"', b"[" * 100_000])
async def test_what_is_no_answer_of_an_api_server_is_told_as_trouble_and_as_it_is(
    wire: Wire, client: Client, answer: bytes
) -> None:
    wire.answers = lambda _: (200, answer)
    with pytest.raises(Unavailable):
        await client.get(ZMount, "default", "d")
    wire.answers = lambda _: (403, answer)
    with pytest.raises(ApiError) as caught:
        await client.get(ZMount, "default", "d")
    assert caught.value.status == 403
    assert str(caught.value)


async def test_who_does_not_listen_can_not_be_reached(wire: Wire, client: Client) -> None:
    wire.access.configuration.host = "http://127.0.0.1:1"
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1"):
        await client.get(ZMount, "default", "d")


async def test_the_token_is_sent_as_it_is_at_the_time(wire: Wire, client: Client) -> None:
    for token in ("Bearer one", "Bearer two"):
        wire.access.configuration.api_key = {"BearerToken": token}
        await client.get(ZMount, "default", "d")
        assert wire.asked[-1].headers["Authorization"] == token


async def test_half_a_character_is_not_sent_and_where_it_is_is_said(wire: Wire, client: Client) -> None:
    text = "a" * 50 + "before it " + "\ud835" + "b" * 50
    with pytest.raises(ApiError) as caught:
        await client.create(ZMount, "default", mount(labels={"x": text}))
    assert caught.value.permanent
    assert "before it \\ud835'" in str(caught.value)
    assert not wire.asked


async def test_what_a_process_tells_of_itself() -> None:
    wrong: list[str] = []
    lacking: list[str] = []
    registry = CollectorRegistry()
    Gauge("some", "Some.", registry=registry).set(3)
    runner, port = await serve(
        "127.0.0.1:0", lambda: next(iter(wrong), None), registry, waits_for=lambda: next(iter(lacking), None)
    )
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            async with session.get("/metrics") as answer:
                assert answer.headers["Content-Type"].startswith("text/plain; version="), "or Prometheus refuses it"
                assert "some 3.0" in await answer.text()

            async def said(path: str) -> tuple[int, str]:
                async with session.get(path) as answer:
                    return answer.status, await answer.text()

            assert (await said("/healthz"), await said("/readyz")) == ((200, "ok\n"), (200, "ok\n"))
            lacking.append("no account")
            assert await said("/healthz") == (200, "no account\n"), "a restart would not help"
            assert await said("/readyz") == (503, "no account\n")
            wrong.append("deaf")
            assert (await said("/healthz"), await said("/readyz")) == ((503, "deaf\n"), (503, "deaf\n"))
    finally:
        await runner.cleanup()


async def test_a_line_of_a_log_is_json_with_what_is_fixed_what_is_further_and_what_broke(capfd: Any) -> None:
    root, ours, kopfs = (logging.getLogger(name) for name in ("", "zos", "kopf"))
    before = root.handlers[:], root.level, ours.level, kopfs.level
    try:
        log.configure("debug", node="n1")
        logging.getLogger("zos.some").debug("what %s", "happened", extra={"object": "d"})
        logging.getLogger("aiohttp").info("of a library")
        try:
            raise ValueError("broken")
        except ValueError:
            logging.getLogger("zos.some").exception("it")
        log.configure("info")
        logging.getLogger("zos.some").debug("nothing")
    finally:
        root.handlers[:], levels = before[0], before[1:]
        for logger, level in zip((root, ours, kopfs), levels, strict=True):
            logger.setLevel(level)
    await asyncio.sleep(0)
    first, second = (json.loads(line) for line in capfd.readouterr().err.splitlines())
    assert (first["message"], first["level"], first["node"], first["object"]) == ("what happened", "debug", "n1", "d")
    assert "error" not in first
    assert "ValueError: broken" in second["error"]
