"""The API server in memory (`memory`), over HTTP: lists in pages, by selectors and as metadata only, watches that go on from a
version, and what kopf asks to learn which kinds there are."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer
from kubernetes.aio.client import Configuration

from memory import _MODELS, _REASONS, Request, Server, _parsed
from zos.api.meta import Key, Object
from zos.kube.client import Access, Raw


@dataclass(frozen=True)
class Asked:
    """A request as it came."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


class Wire:
    """``asked`` is every request but those for kinds. ``answers`` may answer one itself: a status and bytes. ``deaf`` are kinds
    whose watches tell nothing. ``torn``: what a watch tells comes
    in two pieces."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.asked: list[Asked] = []
        self.answers: Callable[[Asked], tuple[int, bytes] | None] = lambda _: None
        self.deaf: set[str] = set()
        self.torn = False
        self.access = Access(Configuration())
        self._events: list[tuple[int, Key, str, Raw]] = []  # version, key, type, object
        self._last: dict[Key, Raw] = {}
        self._lost = 0  # versions up to here are not known any more
        self._watches: set[asyncio.Queue[bytes | None]] = set()
        self._streams: dict[asyncio.Queue[bytes | None], Asked] = {}
        for path, raw in server.objects.items():
            if (model := _model(path)) is not None:
                self._last[_key(model, raw)] = raw
        server.hears.append(self._hear)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Wire]:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        server = TestServer(app)
        await server.start_server(access_log=None)
        self.access.configuration.host = str(server.make_url("")).rstrip("/")
        try:
            yield self
        finally:
            self.cut()
            await server.close()

    def cut(self) -> None:
        """Every watch ends, as the API server ends them now and then."""
        for queue in list(self._streams):
            queue.put_nowait(None)

    def forget(self) -> None:
        """What happened until now is not told any more (410): who wants to go on from there must list."""
        self._lost = self._events[-1][0] if self._events else 0
        self._events.clear()

    def watched(self, model: type[Object]) -> int:
        """How many watches of a kind are open."""
        return sum(_model(asked.path) is model for asked in self._streams.values())

    def _hear(self, key: Key, raw: Raw | None) -> None:
        before = self._last.get(key)
        if raw is not None:
            self._last[key] = raw
            event = ("ADDED" if before is None or before["metadata"]["uid"] != raw["metadata"]["uid"] else "MODIFIED", raw)
        else:
            if before is None:
                return
            del self._last[key]
            meta = {**before["metadata"], "resourceVersion": str(next(self.server.versions))}
            event = ("DELETED", {**before, "metadata": meta})
        self._events.append((int(event[1]["metadata"]["resourceVersion"]), key, *event))
        for queue, asked in self._streams.items():
            if (line := self._line(asked, key, *event)) is not None:
                queue.put_nowait(line)

    def _line(self, asked: Asked, key: Key, type: str, raw: Raw) -> bytes | None:
        model = _model(asked.path)
        if model is None or key.kind != model.KIND or key.kind in self.deaf or not _selected(asked, raw):
            return None
        return json.dumps({"type": type, "object": _shown(asked, raw)}).encode() + b"\n"

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        headers = {
            name: request.headers[name] for name in ("Accept", "Content-Type", "Authorization") if name in request.headers
        }
        asked = Asked(request.method, request.path, dict(request.query), headers, await request.read())
        if (kinds := _kinds(asked.path)) is not None:
            return web.json_response(kinds)
        self.asked.append(asked)
        if (answer := self.answers(asked)) is not None:
            return web.Response(status=answer[0], body=answer[1])
        if "watch" in asked.query:
            return await self._watch(request, asked)
        return self._answer(asked)

    def _answer(self, asked: Asked) -> web.Response:
        content = asked.headers.get("Content-Type", "")
        if "apply" in content and "fieldManager" not in asked.query:
            return _refusal(400, "fieldManager is required for apply patch")
        body = json.loads(asked.body) if asked.body else None
        status, answer = self.server.handle(Request(asked.method, asked.path, body, content))
        if status == 200 and "items" in answer:
            items = [_shown(asked, raw) for raw in answer["items"] if _selected(asked, raw)]
            start, limit = int(asked.query.get("continue", 0)), int(asked.query.get("limit", 0)) or len(items) or 1
            answer["items"] = items[start : start + limit]
            if start + limit < len(items):
                answer["metadata"]["continue"] = str(start + limit)
        elif status == 200:
            answer = _shown(asked, answer)
        return web.json_response(answer, status=status)

    async def _watch(self, request: web.Request, asked: Asked) -> web.StreamResponse:
        since = int(asked.query["resourceVersion"])
        if (refused := self.server.refuses(Request("GET", asked.path, None, ""))) is not None:
            return _refusal(*refused)
        response = web.StreamResponse()
        await response.prepare(request)
        if since < self._lost:
            gone = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "message": "too old resource version"}}
            await response.write(json.dumps(gone).encode() + b"\n")
            return response
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._streams[queue] = asked
        try:
            for version, key, type, raw in self._events:
                if version > since and (line := self._line(asked, key, type, raw)) is not None:
                    queue.put_nowait(line)
            while (line := await queue.get()) is not None:
                if self.torn:
                    await response.write(line[: len(line) // 2])
                    await asyncio.sleep(0.005)
                    line = line[len(line) // 2 :]
                await response.write(line)
        finally:
            del self._streams[queue]
        return response


def _model(path: str) -> type[Object] | None:
    version, _, plural, *_ = _parsed(path)
    return _MODELS.get((version, plural))


def _key(model: type[Object], raw: Raw) -> Key:
    return model.key_of(raw["metadata"].get("namespace", ""), raw["metadata"]["name"])


def _selected(asked: Asked, raw: Raw) -> bool:
    meta = raw["metadata"]
    for name, value in asked.query.items():
        label, _, wanted = value.partition("=")
        if name == "labelSelector" and (label not in meta.get("labels", {}) or wanted not in ("", meta["labels"][label])):
            return False
        if name == "fieldSelector" and (label != "metadata.name" or meta["name"] != wanted):
            return False
    namespace = _parsed(asked.path)[1]
    return namespace in ("", meta.get("namespace", ""))


def _shown(asked: Asked, raw: Raw) -> Raw:
    if "PartialObjectMetadata" not in asked.headers.get("Accept", ""):
        return raw
    return {"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": raw["metadata"]}


def _refusal(status: int, message: str) -> web.Response:
    return web.json_response({"kind": "Status", "reason": _REASONS.get(status, ""), "message": message}, status=status)


def _kinds(path: str) -> Raw | None:
    """What is answered to who asks what there is."""
    groups: dict[str, set[str]] = {}
    for version, _ in _MODELS:
        group, _, number = version.rpartition("/")
        groups.setdefault(group, set()).add(number)
    if path == "/version":
        return {"major": "1", "minor": "34"}
    if path == "/api":
        return {"versions": sorted(groups[""])}
    if path == "/apis":
        listed = []
        for group, numbers in groups.items():
            versions = [{"groupVersion": f"{group}/{number}", "version": number} for number in sorted(numbers)]
            listed += [{"name": group, "versions": versions, "preferredVersion": versions[0]}] if group else []
        return {"groups": listed}
    resources: list[Any] = [
        {
            "name": model.PLURAL,
            "singularName": model.KIND.lower(),
            "kind": model.KIND,
            "namespaced": model.NAMESPACED,
            "verbs": ["get", "list", "watch", "create", "update", "patch", "delete"],
        }
        for (version, _), model in _MODELS.items()
        if path == ("/apis/" if "/" in version else "/api/") + version
    ]
    return {"resources": resources} if resources else None


async def until(condition: Callable[[], object], seconds: float = 20) -> None:
    """What comes over a wire comes when it comes."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.002)
