"""The metrics of the services on this node, under the names of the objects that they are for."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from zos.agent.metricstext import SAMPLES, Said, Sample, parse
from zos.api.nodeworkload import Owner
from zos.drivers import DriverError, netns
from zos.drivers.service import MetricsSource

log = logging.getLogger("zos.services")

#: Seconds for one service, and for all of them; what was heard less than so many seconds ago is not asked for again.
_ANSWER = 2.0
_ALL = 5.0
_FRESH = 1.0
#: Bytes of an answer; services asked at once; samples of all of them.
_LARGEST = 256 << 10
_AT_ONCE = 8
_TOGETHER = 20 * SAMPLES
_UCRED = struct.Struct("3i")  # struct ucred, unix(7)


@dataclass(frozen=True)
class Heard:
    """One service's answer: what it said, or why it could not be asked."""

    endpoint: MetricsSource
    owner: Owner
    said: Said = field(default_factory=Said)
    error: str = ""

    @property
    def labels(self) -> dict[str, str]:
        return {
            "kind": str(self.owner.kind),
            "namespace": self.owner.namespace,
            "name": self.owner.name,
            "service": self.endpoint.service,
        }


class ServiceMetrics(Collector):
    """``endpoints`` says where services tell metrics, ``owner_of`` gives the user's object of a NodeWorkload by its name.

    `scrape` asks the services, whenever somebody is about to ask for the agent's own metrics; `collect` tells what they said
    last. Neither fails for what a service does."""

    def __init__(
        self,
        endpoints: Callable[[], Iterable[MetricsSource]],
        owner_of: Callable[[str], Owner | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._endpoints = endpoints
        self._owner_of = owner_of
        self._clock = clock
        self._heard: tuple[Heard, ...] = ()
        self._at: float | None = None
        self._going: asyncio.Task[None] | None = None

    async def scrape(self) -> None:
        if self._at is not None and self._clock() - self._at < _FRESH:
            return
        if self._going is None:
            self._going = asyncio.create_task(self._scrape(), name="scrape services")
        await asyncio.shield(self._going)

    def describe(self) -> Iterable[Metric]:
        """Nobody else is kept from a name by this: what services are called is not known."""
        return ()

    def collect(self) -> Iterable[Metric]:
        return exposed(self._heard)

    async def _scrape(self) -> None:
        try:
            asked = [
                (endpoint, owner) for endpoint in self._endpoints() if (owner := self._owner_of(endpoint.owner)) is not None
            ]
            slots = asyncio.Semaphore(_AT_ONCE)
            tasks = [asyncio.create_task(_ask(endpoint, owner, slots)) for endpoint, owner in asked]
            if tasks:
                _, late = await asyncio.wait(tasks, timeout=_ALL)
                for task in late:
                    task.cancel()
                if late:
                    await asyncio.wait(late)
            answers = [None if task.cancelled() else task.result() for task in tasks]
            self._heard = tuple(
                answer or Heard(endpoint, owner, error="not in time")
                for answer, (endpoint, owner) in zip(answers, asked, strict=True)
            )
            self._at = self._clock()
        finally:
            self._going = None


async def _ask(endpoint: MetricsSource, owner: Owner, slots: asyncio.Semaphore) -> Heard:
    try:
        async with slots, asyncio.timeout(_ANSWER):
            text = await fetch(endpoint)
        return Heard(endpoint, owner, await asyncio.to_thread(parse, text))
    except (DriverError, OSError, ValueError, asyncio.IncompleteReadError) as error:  # TimeoutError is an OSError
        log.debug("metrics of %s: %s", endpoint.service, error or type(error).__name__)
        return Heard(endpoint, owner, error=str(error) or type(error).__name__)


async def fetch(endpoint: MetricsSource) -> str:
    """What the service answers. Raises OSError, DriverError, or ValueError for what is no such answer."""
    sock = await _connect(endpoint)
    reader, writer = await asyncio.open_connection(sock=sock)
    try:
        path = endpoint.where.path
        if not path.startswith("/") or not path.isascii() or not path.isprintable() or " " in path:
            raise ValueError(f"{path!r} is no path of a URL")
        # Of version 1.0: the answer ends with the connection, in one piece.
        writer.write(f"GET {path} HTTP/1.0\r\nHost: localhost\r\nAccept: text/plain;version=0.0.4\r\n\r\n".encode())
        answer = b""
        while chunk := await reader.read(65536):
            answer += chunk
            if len(answer) > _LARGEST:
                raise ValueError(f"an answer of more than {_LARGEST >> 10} KiB")
    finally:
        writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head.split(b"\r\n")[0].split(b" ")
    if not head.startswith(b"HTTP/1.") or status[1:2] != [b"200"] or b"chunked" in head.lower():
        raise ValueError(f"it answers {head[:60]!r}")
    return body.decode(errors="replace")


async def _connect(endpoint: MetricsSource) -> socket.socket:
    """A socket belongs to the namespace that it was made in, wherever it is used."""
    family = socket.AF_UNIX if endpoint.where.socket else socket.AF_INET

    def make() -> socket.socket:
        return socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)

    sock = make() if family is socket.AF_UNIX else await netns.inside(endpoint.netns, make)
    try:
        address = endpoint.where.socket or ("127.0.0.1", endpoint.where.port)
        await asyncio.get_running_loop().sock_connect(sock, address)
        if family is socket.AF_UNIX:  # what lies at that path is up to the service: it may lead to anybody
            _, uid, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
            if uid != endpoint.uid:
                raise ValueError("its socket is somebody else's")
    except BaseException:
        sock.close()
        raise
    return sock


def exposed(heard: Sequence[Heard]) -> Sequence[Metric]:
    """What services said, each under its object's labels, and how well it could be heard."""
    names = ("kind", "namespace", "name", "service")
    readable = GaugeMetricFamily("zos_service_metrics_readable", "1 for a service whose metrics can be had.", labels=names)
    dropped = GaugeMetricFamily("zos_service_metrics_dropped", "Lines that are no metrics, or too many.", labels=names)
    for one in heard:
        readable.add_metric(tuple(one.labels.values()), float(not one.error))
        dropped.add_metric(tuple(one.labels.values()), float(one.said.dropped))
    return (readable, dropped, *merged(heard))


def merged(heard: Iterable[Heard]) -> Iterable[Metric]:
    """All that was said, each family once: of the type that all who have it say, or of none."""
    families: dict[str, dict[tuple[str, frozenset[tuple[str, str]]], Sample]] = {}
    types: dict[str, str] = {}
    left = _TOGETHER
    for one in heard:
        labels = one.labels
        for name, said in one.said.families.items():
            own = one.said.types.get(name, "unknown")
            if types.setdefault(name, own) != own:
                types[name] = "unknown"
            for sample in [_labelled(sample, labels) for sample in said[:left]]:
                families.setdefault(name, {}).setdefault((sample.name, frozenset(sample.labels.items())), sample)
            left -= len(said[:left])
    for name, samples in families.items():
        counts = types[name] == "counter" and name.endswith("_total") and name != "_total"
        kind = types[name] if counts or types[name] != "counter" else "unknown"
        metric = Metric(name.removesuffix("_total") if counts else name, "Of a service.", kind)
        for sample in samples.values():
            metric.add_sample(sample.name, dict(sample.labels), sample.value)
        yield metric


def _labelled(sample: Sample, labels: Mapping[str, str]) -> Sample:
    """The object's labels; those that the service has by the same names are told as such (as Prometheus does)."""
    own = {(f"exported_{name}" if name in labels else name): value for name, value in sample.labels.items()}
    return Sample(sample.name, {**own, **labels}, sample.value)
