"""A way to the API server on which requests can be held up: what is slow in a test is the connection, not our code."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from aiohttp import web

from apiserver import ApiServer, free_port
from zos.kube.client import Access


@dataclass
class Relay:
    """Passes requests on, except those for which ``held`` (of method and path) is true: they wait until it is not, or their
    sender gives up. ``writes`` has (when, method, path) of each write that was passed on."""

    server: ApiServer
    port: int = field(default_factory=free_port)
    held: Callable[[str, str], bool] = lambda *_: False
    waiting: int = 0
    writes: list[tuple[float, str, str]] = field(default_factory=list)
    _token: str = ""
    _session: aiohttp.ClientSession | None = None

    def kubeconfig(self, directory: Path) -> str:
        """An administrator's, for this way."""
        config = json.loads(Path(self.server.kubeconfig).read_text())
        config["clusters"][0]["cluster"] = {"server": f"http://127.0.0.1:{self.port}"}
        path = directory / f"kubeconfig-{self.port}"
        path.write_text(json.dumps(config))
        return str(path)

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[Relay]:
        access = await Access.load(self.server.kubeconfig)
        connector = aiohttp.TCPConnector(limit=0, ssl=access.ssl())
        timeout = aiohttp.ClientTimeout(total=None)
        app = web.Application(client_max_size=2**26)
        app.router.add_route("*", "/{path:.*}", self._pass)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as self._session:
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", self.port).start()
            try:
                yield self
            finally:
                await runner.cleanup()

    async def _pass(self, request: web.Request) -> web.StreamResponse:
        assert self._session is not None
        body = await request.read()
        self.waiting += 1
        try:
            while self.held(request.method, request.path):
                await asyncio.sleep(0.02)
        finally:
            self.waiting -= 1
        if request.method != "GET":
            self.writes.append((time.monotonic(), request.method, request.path))
        headers = {name: value for name, value in request.headers.items() if name.lower() not in ("host", "content-length")}
        url = self.server.url + request.raw_path
        async with self._session.request(request.method, url, data=body or None, headers=headers) as there:
            skipped = ("content-length", "transfer-encoding", "connection")
            kept = {name: value for name, value in there.headers.items() if name.lower() not in skipped}
            answer = web.StreamResponse(status=there.status, headers=kept)
            await answer.prepare(request)
            async for chunk in there.content.iter_any():
                await answer.write(chunk)
            await answer.write_eof()
            return answer
