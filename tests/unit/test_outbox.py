"""Events on their way: each once, and never so many that they are a burden."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from virtual import virtual
from zos.controller.outbox import Outbox
from zos.kube.client import ApiError, Conflict, Raw, Unavailable


class Server:
    """Remembers what was sent to it; ``error`` is its answer."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.error: Exception | None = None

    async def request(self, method: str, path: str, *, body: Raw) -> Raw:
        assert (method, path) == ("POST", "/api/v1/namespaces/default/events")
        self.sent.append(body["metadata"]["name"])
        if self.error is not None:
            raise self.error
        return body


class Time:
    now = 1000.0


def outbox(server: Server) -> Outbox:
    client: Any = server
    return Outbox(client, lambda: Time.now)


def event(name: str, uid: str = "u") -> Raw:
    return {"metadata": {"name": name, "namespace": "default"}, "involvedObject": {"uid": uid}}


async def sent(server: Server) -> list[str]:
    for _ in range(500):
        await asyncio.sleep(0)
    return server.sent


@pytest.mark.parametrize("error", [None, Conflict(409, "AlreadyExists", "it is there"), Conflict(409, "Conflict", "")])
async def test_what_was_told_is_not_told_again_nor_what_was_before(error: Exception | None) -> None:
    server = Server()
    server.error = error
    box = outbox(server)
    for _ in range(3):
        box.put(event("a"))
        box.put(event("b"))
        assert await sent(server) == ["a", "b"]


@pytest.mark.parametrize("error", [ApiError(403, "Forbidden", "no"), Unavailable("not now")])
async def test_what_was_not_taken_may_be_told_later(error: Exception) -> None:
    server = Server()
    server.error = error
    box = outbox(server)
    box.put(event("a"))
    assert await sent(server) == ["a"]
    box.put(event("a"))
    assert await sent(server) == ["a", "a"]


async def test_one_object_that_has_news_all_the_time_is_heard_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    box = outbox(server)
    for number in range(3600):
        monkeypatch.setattr(Time, "now", 1000.0 + number)
        box.put(event(f"news-{number}", "crashing"))
        await sent(server) if number % 50 == 0 else await asyncio.sleep(0)
    told = len(await sent(server))
    assert 60 <= told <= 25 + 60
    box.put(event("another's", "quiet"))
    assert len(await sent(server)) == told + 1


@virtual
async def test_many_objects_at_once_are_told_little_by_little_and_not_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    box = outbox(server)
    for number in range(10_000):
        box.put(event(f"e-{number}", f"uid-{number}"))
    assert len(await sent(server)) == 100
    monkeypatch.setattr(Time, "now", 1010.0)
    await asyncio.sleep(0.2)
    assert len(server.sent) == 200
    await box.close()
    monkeypatch.setattr(Time, "now", 5000.0)
    await asyncio.sleep(0.1)
    assert len(server.sent) == 200
