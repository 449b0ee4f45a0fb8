"""Who leads, when connections are slow: two controllers over a real API server, one of them on a way that can be held up."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from apiserver import ApiServer
from relay import Relay
from simulated import sweep, until
from zos.api.core import Lease
from zos.api.farm import Farm
from zos.api.names import CONTROLLER, CONTROLLER_NAMESPACE
from zos.controller.main import Controller, ControllerSettings
from zos.kube.client import Access, Client, Raw, Unavailable
from zos.kube.election import Times
from zos.simulation import manifest

_TIMES = Times(duration=8, renew=2.0, give_up=6.0, retry=1.2, attempt=2.0)
_LEASES = "/coordination.k8s.io/"


@pytest.fixture
async def client(controlled: ApiServer) -> AsyncIterator[Client]:
    made = Client(await Access.load(controlled.kubeconfig))
    yield made
    await sweep(made)
    await made.delete(Lease, CONTROLLER_NAMESPACE, CONTROLLER)
    await made.close()


@pytest.fixture
async def relay(controlled: ApiServer) -> AsyncIterator[Relay]:
    async with Relay(controlled).serving() as made:
        yield made


@contextlib.asynccontextmanager
async def controller(kubeconfig: str, identity: str) -> AsyncIterator[tuple[Controller, asyncio.Task[None]]]:
    made = Controller(await Access.load(kubeconfig), ControllerSettings(kubeconfig, identity, election=_TIMES))
    stop = asyncio.Event()
    task = asyncio.create_task(made.run(stop))
    try:
        yield made, task
    finally:
        stop.set()
        await asyncio.gather(task, return_exceptions=True)


async def lease(client: Client) -> Raw:
    found = await client.get(Lease, CONTROLLER_NAMESPACE, CONTROLLER)
    spec: Raw = (found or {}).get("spec", {})
    return spec


async def led_by(client: Client, identity: str, seconds: float) -> None:
    """For so long that another would have led, had the Lease not been renewed in time."""
    renewals = set()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = await lease(client)
        assert found["holderIdentity"] == identity
        renewals.add(found["renewTime"])
        await asyncio.sleep(0.1)
    assert len(renewals) >= seconds / _TIMES.duration


async def served(client: Client, count: int) -> bool:
    return sum("finalizers" in raw["metadata"] for raw in await client.objects(Farm)) == count


async def test_who_is_busy_renews_in_time(client: Client, relay: Relay, controlled: ApiServer, tmp_path: Path) -> None:
    for number in range(60):
        await client.create(Farm, "", manifest("Farm", f"f{number}", {}))
    # The first list takes longer than a Lease holds.
    relay.held = lambda method, path: method == "GET" and path.endswith("/farms")
    async with controller(relay.kubeconfig(tmp_path), "one") as (one, _):

        async def leads() -> bool:
            return one.leading

        await until(leads)
        async with controller(controlled.kubeconfig, "two") as (two, _):
            await led_by(client, "one", 2 * _TIMES.duration)
            # Then every connection of those who work is held up.
            relay.held = lambda method, path: method != "GET" and _LEASES not in path

            async def stuck() -> bool:
                return relay.waiting >= 16

            await until(stuck)
            await led_by(client, "one", 2 * _TIMES.duration)
            relay.held = lambda *_: False

            async def done() -> bool:
                return await served(client, 60)

            await until(done)
            assert not two.leading


async def test_who_can_not_renew_writes_nothing_when_another_leads(
    client: Client, relay: Relay, controlled: ApiServer, tmp_path: Path
) -> None:
    async with controller(relay.kubeconfig(tmp_path), "one") as (_, task):
        await client.create(Farm, "", manifest("Farm", "before", {}))

        async def done() -> bool:
            return await served(client, 1)

        await until(done)
        async with controller(controlled.kubeconfig, "two") as (two, _):
            last = (await lease(client))["renewTime"]
            relay.held = lambda method, path: method != "GET" and _LEASES in path
            began = time.monotonic()
            number = 0
            while not two.leading:
                assert time.monotonic() - began < 4 * _TIMES.duration
                await client.create(Farm, "", manifest("Farm", f"f{number}", {}))
                number += 1
                await asyncio.sleep(0.05)
            await asyncio.wait([task], timeout=20)  # it has all that it was at to end
            assert task.done()
            ours = [at for at, _, path in relay.writes if _LEASES not in path]
            assert began < ours[-1] < began + _TIMES.duration, "it led on until its time was over, and no longer"
            relay.held = lambda *_: False
            assert (await lease(client))["renewTime"] > last

            async def all_done() -> bool:
                return await served(client, number + 1)

            await until(all_done)


async def test_nothing_is_sent_that_waited_until_leading_was_over(client: Client, relay: Relay, tmp_path: Path) -> None:
    """However long its turn takes to come: a process that was frozen, or writes that wait for their connections."""
    leads = True
    held_up = Client(await Access.load(relay.kubeconfig(tmp_path)), may_write=lambda: leads)
    relay.held = lambda method, _: method == "POST"
    writes = [asyncio.create_task(held_up.create(Farm, "", manifest("Farm", f"late-{number}", {}))) for number in range(20)]

    async def full() -> bool:
        return relay.waiting == 16

    await until(full)
    leads = False
    relay.held = lambda *_: False
    results = await asyncio.gather(*writes, return_exceptions=True)
    assert [isinstance(result, Unavailable) for result in results] == [False] * 16 + [True] * 4
    assert len(await held_up.keys(Farm)) == 16, "it may still look"
    await held_up.close()
