"""kopf's watching, over HTTP: what comes of it as plain calls, each event once and in its order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from memory import Request, Server
from wire import Wire, until
from zos.api.core import HEARTBEAT, Lease, Secret
from zos.api.farm import Farm
from zos.api.gridnode import GridNode
from zos.api.meta import Object
from zos.api.zmount import ZMount
from zos.kube import watches as module
from zos.kube.client import Raw, path_of
from zos.kube.watches import Watched, Watches


class Told:
    """``events`` as (type, kind, name, version)."""

    def __init__(self, wire: Wire, *watched: Watched) -> None:
        self.events: list[tuple[str | None, str, str, int]] = []
        self.objects: list[Raw] = []
        self.lists = 0
        self.watches = Watches(wire.access, watched, self.event, self.stir, time.monotonic)

    def event(self, type: str | None, raw: Raw) -> None:
        meta = raw["metadata"]
        self.events.append((type, raw["kind"], meta["name"], int(meta["resourceVersion"])))
        self.objects.append(raw)

    def stir(self) -> None:
        if self.watches.listed:
            self.lists += 1
            self.watches.listed = False

    @property
    def names(self) -> list[tuple[str | None, str]]:
        return [(type, name) for type, _, name, _ in self.events]


@pytest.fixture
async def wire(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Wire]:
    """kopf is as patient as it is with a server that is in the next room."""
    monkeypatch.setenv("SSL_CERT_FILE", "/dev/null")
    settings = module.kopf_settings

    def hasty(watched: Any) -> Any:
        made = settings(watched)
        made.networking.error_backoffs = [0.01] * 4
        made.watching.reconnect_backoff = 0.01
        return made

    monkeypatch.setattr(module, "kopf_settings", hasty)
    async with Wire(Server()).serving() as made:
        yield made


@asynccontextmanager
async def told(wire: Wire, *watched: Watched) -> AsyncIterator[Told]:
    made = Told(wire, *watched)
    try:
        await until(lambda: all(wire.watched(one.model) for one in watched))
        yield made
    finally:
        await made.watches.stop()


def put(wire: Wire, model: type[Object], name: str, namespace: str = "default", **body: Any) -> None:
    meta = {"name": name, **body.pop("metadata", {})}
    path = path_of(model, namespace if model.NAMESPACED else "")
    method = "PATCH" if f"{path}/{name}" in wire.server.objects else "POST"
    place = f"{path}/{name}" if method == "PATCH" else path
    status, answer = wire.server.handle(Request(method, place, {"metadata": meta, **body}, "merge"))
    assert status == 200, answer


def delete(wire: Wire, model: type[Object], name: str, namespace: str = "default") -> None:
    wire.server.handle(Request("DELETE", path_of(model, namespace, name), {}, ""))


SIZE = {"size": "1Gi"}


@pytest.mark.parametrize("torn", [False, True])
async def test_what_is_there_is_told_then_each_change_once_over_connections_that_end(wire: Wire, torn: bool) -> None:
    wire.torn = torn
    put(wire, ZMount, "before", spec=SIZE)
    async with told(wire, Watched(ZMount), Watched(Farm)) as made:
        await until(lambda: made.lists)
        assert made.watches.begun
        assert made.watches.opened.keys() == {path_of(ZMount), path_of(Farm)}
        assert made.names == [(None, "before")]
        lists = len([asked for asked in wire.asked if "watch" not in asked.query])
        for name in "abc":
            put(wire, ZMount, name, spec=SIZE)
        put(wire, ZMount, "b", spec={"size": "2Gi"})
        await until(lambda: len(made.events) == 5)
        wire.cut()
        delete(wire, ZMount, "a")  # while nobody listens
        put(wire, Farm, "f", spec={})
        await until(lambda: len(made.events) == 7)
        await until(lambda: wire.watched(ZMount) and wire.watched(Farm))
        put(wire, ZMount, "c", spec={"size": "2Gi"})
        await until(lambda: len(made.events) >= 8)
        assert made.names[1:5] == [("ADDED", "a"), ("ADDED", "b"), ("ADDED", "c"), ("MODIFIED", "b")]
        assert sorted(made.names[5:7]) == [("ADDED", "f"), ("DELETED", "a")]
        assert made.names[7:] == [("MODIFIED", "c")]
        assert len([asked for asked in wire.asked if "watch" not in asked.query]) == lists, "it goes on from where it was"
        assert {raw["kind"] for raw in made.objects} == {"ZMount", "Farm"}
        assert made.objects[4]["spec"] == {"size": "2Gi"}


async def test_a_watch_that_can_not_go_on_lists_and_says_so(wire: Wire) -> None:
    async with told(wire, Watched(ZMount)) as made:
        await until(lambda: made.lists)
        lists = made.lists
        put(wire, ZMount, "a", spec=SIZE)
        await until(lambda: len(made.events) == 1)
        wire.deaf.add("ZMount")
        put(wire, ZMount, "b", spec=SIZE)
        delete(wire, ZMount, "a")
        wire.deaf.clear()
        wire.forget()
        wire.cut()
        await until(lambda: made.lists > lists)
        await until(lambda: wire.watched(ZMount))
        assert made.names == [("ADDED", "a"), (None, "b")], "nobody tells of what went in between"
        put(wire, ZMount, "c", spec=SIZE)
        await until(lambda: made.names[-1] == ("ADDED", "c"))


async def test_a_server_that_breaks_down_may_have_lost_versions_so_that_it_answers_again_counts_as_a_list(wire: Wire) -> None:
    async with told(wire, Watched(ZMount)) as made:
        await until(lambda: made.lists)
        lists = made.lists
        wire.answers = lambda asked: (500, b"{}") if "watch" in asked.query else None
        wire.cut()
        await until(lambda: made.watches.cut)
        assert not made.watches.opened
        wire.answers = lambda _: None
        await until(lambda: wire.watched(ZMount) and made.lists > lists)
        assert not made.watches.cut
        assert made.watches.opened


async def test_of_some_only_what_was_asked_for_is_asked_for_and_no_more_than_that(wire: Wire) -> None:
    wire.access.configuration.api_key = {"BearerToken": "Bearer mine"}
    put(wire, Secret, "s", data={"value": "aHVzaA=="})
    for name in ("n1", "n2"):
        put(wire, GridNode, name, spec={})
    put(wire, Lease, "other", "zos-system", spec={})
    watched = (
        Watched(Secret, metadata=True), Watched(GridNode, name="n1"), Watched(Lease, labels=HEARTBEAT),
    )  # fmt: skip
    async with told(wire, *watched) as made:
        await until(lambda: made.lists)
        put(wire, Secret, "t", data={"value": "aHVzaA=="})
        put(wire, GridNode, "n2", spec={"unschedulable": True})
        put(wire, GridNode, "n1", spec={"unschedulable": True})
        put(wire, Lease, "agent", "zos-system", spec={}, metadata={"labels": {HEARTBEAT: "true"}})
        await until(lambda: len(made.events) == 5)
        assert sorted(made.names, key=str) == sorted(
            [(None, "s"), (None, "n1"), ("ADDED", "t"), ("MODIFIED", "n1"), ("ADDED", "agent")], key=str
        )
        secrets = [raw for raw in made.objects if raw["metadata"]["name"] in "st"]
        assert [(raw["apiVersion"], raw["kind"], "data" in raw) for raw in secrets] == [("v1", "Secret", False)] * 2
        assert {asked.headers.get("Authorization") for asked in wire.asked} == {"Bearer mine"}


async def test_who_watches_a_namespace_needs_no_right_elsewhere(wire: Wire) -> None:
    wire.server.handle(Request("POST", "/api/v1/namespaces", {"metadata": {"name": "other"}}, ""))
    wire.server.refuses = lambda asked: None if "/namespaces/default/" in asked.path or asked.method != "GET" else (403, "no")
    async with told(wire, Watched(ZMount, "default")) as made:
        await until(lambda: made.lists)
        put(wire, ZMount, "elsewhere", "other", spec=SIZE)
        put(wire, ZMount, "here", spec=SIZE)
        await until(lambda: made.events)
        assert made.names == [("ADDED", "here")]
        assert made.watches.opened.keys() == {path_of(ZMount, "default")}


async def test_a_connection_that_begins_says_who_asks_as_it_is_then(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token lasts for less than kopf's session does; and it is asked for in the loop whose it is."""
    loop, said = asyncio.get_running_loop(), ["one"]
    given: list[str] = []

    async def authorization() -> str:
        assert asyncio.get_running_loop() is loop
        given.append(said[0])
        if said[0] == "none":
            raise OSError("no token")
        return f"Bearer {said[0]}"

    monkeypatch.setattr(wire.access, "authorization", authorization)
    put(wire, ZMount, "d", spec={"size": "1Gi"})
    async with told(wire, Watched(ZMount)) as made:
        for token in ("two", "none", "three"):
            await until(lambda: wire.watched(ZMount))
            said[0] = token
            wire.cut()
            await until(lambda token=token: given[-1] == token)
        await until(lambda: wire.watched(ZMount))
        put(wire, ZMount, "e", spec={"size": "1Gi"})
        await until(lambda: ("ADDED", "e") in made.names)
    watches = [asked.headers.get("Authorization") for asked in wire.asked if "watch" in asked.query]
    assert list(dict.fromkeys(watches)) == ["Bearer one", "Bearer two", None, "Bearer three"]


async def test_kopf_that_gives_up_says_so_before_the_five_seconds_that_it_has_for_what_hangs(wire: Wire) -> None:
    """Its thread, which has nothing to tell any more, is not waited for."""
    wire.answers = lambda asked: (404, b"{}") if "zmounts" in asked.path else None
    made = Told(wire, Watched(ZMount), Watched(Farm))
    await until(lambda: made.watches.ended, 4)
    put(wire, Farm, "f", spec={})
    await asyncio.sleep(0.01)
    assert not made.events


async def test_after_its_end_nothing_is_told(wire: Wire) -> None:
    async with told(wire, Watched(ZMount)) as made:
        await until(lambda: made.lists)
        await made.watches.stop()
        assert made.watches.ended
        put(wire, ZMount, "late", spec=SIZE)
        await asyncio.sleep(0)
        assert not made.events
        assert not wire.watched(ZMount)
