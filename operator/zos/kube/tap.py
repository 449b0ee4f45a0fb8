"""Takes what the API server tells off kopf's connections, before kopf takes each object in hand.

kopf discovers, lists, watches, and goes on where a watch ended or lists anew. What it then does for each event (a task, a queue
and a memory for each object, causes, handlers) is for handlers that we have none of, and was a third of the controller's
processor time. So its lists look empty to it, and its watches tell it of versions only, from which it goes on.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Collection
from typing import Any, cast

import aiohttp

from zos.kube.client import Raw

#: Is told the path of a collection, the event's type (None: it is from a list) and the object.
Heard = Callable[[str, str | None, Raw], None]


def tapped(collections: Collection[str], heard: Heard) -> type[aiohttp.ClientResponse]:
    """The class of responses that tell ``heard`` what the API server says of these collections."""

    class Tapped(aiohttp.ClientResponse):
        async def json(self, **how: Any) -> Any:
            found = await super().json(**how)
            if self.url.path not in collections or "items" not in found:
                return found
            for item in found["items"] or ():
                heard(self.url.path, None, item)
            return {**found, "items": []}

        async def start(self, connection: Any) -> aiohttp.ClientResponse:
            await super().start(connection)
            if self.url.path in collections and "watch" in self.url.query and self.status == 200:
                self.content = cast("aiohttp.StreamReader", _Versions(self.content, self.url.path, heard))
            return self

    return Tapped


class _Versions:
    """The stream of a watch as kopf reads it: a bookmark for each lot of events that came together."""

    def __init__(self, content: aiohttp.StreamReader, path: str, heard: Heard) -> None:
        self._content = content
        self._path = path
        self._heard = heard

    def __getattr__(self, name: str) -> Any:
        """Whatever else aiohttp asks of it."""
        return getattr(self._content, name)

    async def iter_chunked(self, _: int) -> AsyncIterator[bytes]:
        rest = bytearray()
        async for data in self._content.iter_any():
            searched = len(rest)
            rest += data
            if (end := rest.rfind(b"\n", searched)) < 0:
                continue
            whole = bytes(rest[:end])
            del rest[: end + 1]
            if told := self._told(whole.split(b"\n")):
                yield told
        if rest:
            yield bytes(rest)

    def _told(self, lines: list[bytes]) -> bytes:
        """Hands events on; gives what is left for kopf."""
        left: list[bytes] = []
        version: str | None = None
        for line in filter(None, lines):
            event = json.loads(line)
            if event["type"] in ("ADDED", "MODIFIED", "DELETED"):
                version = event["object"]["metadata"]["resourceVersion"]
                self._heard(self._path, event["type"], event["object"])
            else:
                left.append(line)
        if version is not None:
            bookmark = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": version}}}
            left.insert(0, json.dumps(bookmark).encode())
        return b"".join(line + b"\n" for line in left)
