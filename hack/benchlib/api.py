"""What benches of the control plane have in common: a plain client, the programs as processes, what the API server counted."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

import aiohttp

from apiserver import free_port
from zos.kube.client import Access, Raw

CONNECTIONS = 16
MERGE, APPLY = "application/merge-patch+json", "application/apply-patch+yaml"
T = TypeVar("T")

#: (verb, resource, subresource), as the API server counts it.
Write = tuple[str, str, str]


class Api:
    """What any asyncio program would do: aiohttp, sixteen connections, one write after the other on each."""

    def __init__(self, server: str, session: aiohttp.ClientSession) -> None:
        self.server = server
        self.session = session

    async def write(
        self, method: str, path: str, body: object, kind: str = "application/json", params: dict[str, str] | None = None
    ) -> None:
        async with self.session.request(
            method, self.server + path, data=json.dumps(body), headers={"Content-Type": kind}, params=params
        ) as response:
            text = await response.text()
            if response.status >= 300:
                raise RuntimeError(f"{method} {path}: {response.status} {text[:500]}")

    async def items(self, path: str) -> list[Raw]:
        async with self.session.get(self.server + path) as response:
            items: list[Raw] = (await response.json())["items"]
            return items

    async def clear(self, path: str) -> None:
        """Deletes a collection, all in one request (kubectl takes its time for each), and waits until it is empty."""
        await self.write("DELETE", path, {})
        while True:
            async with self.session.get(self.server + path, params={"limit": "1"}) as response:
                if not (await response.json())["items"]:
                    return
            await asyncio.sleep(0.5)

    async def seen(self, path: str, count: int, is_it: Callable[[Raw], bool] = lambda _: True) -> float:
        """When a watch had shown ``count`` objects of a collection for which ``is_it`` holds. Of those that are Ready only,
        as only they are worth a parser's time: the bench shares the cores with what it measures."""
        found: set[tuple[str, str]] = set()
        while True:
            timeout = aiohttp.ClientTimeout(total=600)
            async with self.session.get(
                self.server + path, params={"watch": "1"}, timeout=timeout, read_bufsize=2**24
            ) as watch:
                if watch.status != 200:  # a server that has just learned of the kind needs a moment
                    await asyncio.sleep(0.2)
                    continue
                async for line in watch.content:
                    if b'"type":"Ready"' not in line or b'"True"' not in line:
                        continue
                    obj = json.loads(line)["object"]
                    if ready(obj) and is_it(obj):
                        found.add((obj["metadata"].get("namespace", ""), obj["metadata"]["name"]))
                    if len(found) == count:
                        return time.monotonic()


def ready(obj: Raw) -> bool:
    """As what it is now: not as what it was before its last change."""
    status = obj.get("status", {})
    conditions = status.get("conditions", ())
    current = status.get("observedGeneration") == obj["metadata"].get("generation")
    return current and any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


@contextlib.asynccontextmanager
async def connected(kubeconfig: str) -> AsyncIterator[Api]:
    access = await Access.load(kubeconfig)
    headers = {"Authorization": await access.authorization() or ""}
    connector = aiohttp.TCPConnector(limit=CONNECTIONS + 2, ssl=access.ssl())
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
        yield Api(access.server, session)


async def each(things: Iterable[T], work: Callable[[T], Awaitable[None]]) -> None:
    """Over as many connections as there are."""
    left = iter(things)

    async def worker() -> None:
        for thing in left:
            await work(thing)

    async with asyncio.TaskGroup() as group:
        for _ in range(CONNECTIONS):
            group.create_task(worker())


@contextlib.contextmanager
def controller(kubeconfig: str, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    argv = [sys.executable, "-m", "zos.controller", "--kubeconfig", kubeconfig, "--metrics", f"127.0.0.1:{free_port()}", *words]
    started = subprocess.Popen(argv, stderr=subprocess.DEVNULL)
    try:
        yield started
    finally:
        started.terminate()
        try:
            started.wait(20)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


class Agents:
    """The process with the simulated nodes: ``node-0`` and so on."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, word: str = "") -> str:
        """``writes`` or ``resync``: see `benchlib.simulated`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if word:
            self._process.stdin.write(word + "\n")
            self._process.stdin.flush()
        return self._process.stdout.readline().strip()


@contextlib.contextmanager
def agents(kubeconfig: str, directory: Path, count: int) -> Iterator[Agents]:
    directory.mkdir()
    argv = [sys.executable, "-m", "benchlib.simulated", kubeconfig, str(count), str(directory)]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        made = Agents(process)
        if made.ask() != "ready":
            raise RuntimeError("the simulated nodes did not get ready")
        yield made
    finally:
        process.kill()
        process.wait()


_COUNTED = re.compile(r"^apiserver_request_total{(?P<labels>.*)} (?P<count>\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class Written:
    """Writes that an API server has taken, and how many it refused (conflicts)."""

    taken: Counter[Write] = field(default_factory=Counter)
    refused: int = 0

    @property
    def total(self) -> int:
        return sum(self.taken.values()) + self.refused

    @property
    def split(self) -> dict[str, int]:
        """Those that were taken, by sort, in words."""
        return {" ".join(filter(None, write)): number for write, number in sorted(self.taken.items())}

    def __sub__(self, before: Written) -> Written:
        return Written(self.taken - before.taken, self.refused - before.refused)


class Counted(Protocol):
    """An API server that can be asked how it fared."""

    def kubectl(self, *words: str) -> str: ...


def written(server: Counted, resources: Collection[str]) -> Written:
    """So far, whoever asked for them."""
    taken: Counter[Write] = Counter()
    refused = 0
    for match in _COUNTED.finditer(server.kubectl("get", "--raw", "/metrics")):
        labels = dict(re.findall(r'(\w+)="([^"]*)"', match["labels"]))
        if labels["verb"] not in ("POST", "PUT", "PATCH", "APPLY", "DELETE") or labels["resource"] not in resources:
            continue
        if labels["code"].startswith("2"):
            taken[labels["verb"], labels["resource"], labels["subresource"]] += int(float(match["count"]))
        else:
            refused += int(float(match["count"]))
    return Written(taken, refused)


async def settled(server: Counted, resources: Collection[str], seconds: float = 3.0) -> Written:
    """What has been written when nobody has written for a while."""
    before, since = written(server, resources), time.monotonic()
    while time.monotonic() - since < seconds:
        await asyncio.sleep(0.5)
        if (now := written(server, resources)) != before:
            before, since = now, time.monotonic()
    return before
