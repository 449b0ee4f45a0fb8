"""Metrics of real services, fetched in their namespaces."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from services import PYTHON, Bench, converge, until
from zos.agent.servicemetrics import ServiceMetrics
from zos.api.nodeworkload import Owner
from zos.plan.items import MetricsEndpoint, Readiness, Service

SERVER = """
import socket, sys, time
if sys.argv[1] == "port":
    s = socket.socket(); s.setsockopt(1, 2, 1); s.bind(("127.0.0.1", 9100))
else:
    s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1])
s.listen()
while True:
    client, _ = s.accept()
    request = client.recv(65536).decode()
    if not request: continue
    head = "HTTP/1.0 200 OK\\r\\nContent-Type: text/plain\\r\\n\\r\\n"
    match sys.argv[2]:
        case "good": client.sendall((head + f'requests_total{{path="{request.split()[1]}"}} 7\\n').encode())
        case "silent": time.sleep(1000)
        case "endless":
            client.sendall(head.encode())
            try:
                while True: client.sendall(b"x 1\\n" * 10000)
            except OSError: pass
        case "refuses": client.sendall(b"HTTP/1.1 403 Forbidden\\r\\n\\r\\nx 1\\n")
        case "rubbish": client.sendall(bytes(range(256)) * 100)
    client.close()
"""


@pytest.fixture
def space() -> Iterator[str]:
    name = "zos-bbbbbbbbbb"
    subprocess.run(["ip", "netns", "add", name], check=True)
    subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
    yield name
    subprocess.run(["ip", "netns", "delete", name], check=False)


def server(name: str, at: str, how: str, netns: str) -> Service:
    where = MetricsEndpoint(port=9100) if at == "port" else MetricsEndpoint(socket=at, path="/more/metrics")
    ready = Readiness(by="port", at="127.0.0.1:9100") if at == "port" else Readiness(by="socket", at=at)
    argv = (PYTHON, "-I", "-S", "-c", SERVER, at, how)
    return Service(name=name, argv=argv, netns=netns, metrics=where, ready=ready, owner="w-1")


def owner(name: str) -> Owner | None:
    return Owner(kind="ZMachine", namespace="team", name="web", uid="6a3bb6a5-8a2f-4ffb-a1ac-6a4d8b1c5b1e")


async def test_metrics_are_fetched_where_the_service_is_and_nothing_hostile_gets_far(bench: Bench, space: str) -> None:
    hostile = ("silent", "endless", "refuses", "rubbish")
    await converge(
        bench.driver, server("one", "port", "good", space), server("two", "{run}/s", "good", ""),
        *(server(how, "{run}/s", how, "") for how in hostile),
    )  # fmt: skip
    for name in ("one", "two", *hostile):
        await bench.until_fact(name, lambda fact: fact.ready)
    # A socket that leads to another service's.
    leads = bench.scan / "zos-svc-rubbish" / "var" / "s"
    leads.unlink()
    leads.symlink_to(bench.scan / "zos-svc-two" / "var" / "s")
    metrics = ServiceMetrics(bench.driver.endpoints, owner)
    registry = CollectorRegistry()
    registry.register(metrics)
    assert b"requests_total" not in generate_latest(registry)
    began = time.monotonic()
    await metrics.scrape()
    assert time.monotonic() - began < 10
    text = generate_latest(registry).decode()
    whose = 'kind="ZMachine",name="web",namespace="team"'
    assert f'requests_total{{{whose},path="/metrics",service="one"}} 7.0' in text
    assert f'requests_total{{{whose},path="/more/metrics",service="two"}} 7.0' in text
    readable = {
        name: f'zos_service_metrics_readable{{{whose},service="{name}"}} 1.0' in text for name in ("one", "two", *hostile)
    }
    assert readable == {"one": True, "two": True, **dict.fromkeys(hostile, False)}
    assert text.count("\nrequests_total{") == 2
    await converge(bench.driver)
    await bench.driver.observe([])
    await asyncio.sleep(1.1)
    await metrics.scrape()
    assert "requests_total{" not in generate_latest(registry).decode()


async def test_many_who_ask_at_once_ask_a_service_once(bench: Bench) -> None:
    await converge(bench.driver, server("two", "{run}/s", "good", ""))
    await bench.until_fact("two", lambda fact: fact.ready)
    asked = 0

    def endpoints() -> tuple[object, ...]:
        nonlocal asked
        asked += 1
        return bench.driver.endpoints()

    metrics = ServiceMetrics(endpoints, owner)  # type: ignore[arg-type]
    await asyncio.gather(*(metrics.scrape() for _ in range(20)))
    assert asked == 1
    await until(lambda: bool(list(metrics.collect())))
