"""What the controller hears and holds of others' objects: of Secrets only those that are named, of Leases only its own."""

from __future__ import annotations

import base64
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from apiserver import ApiServer
from relay import Relay
from simulated import sweep, until
from zos.api.core import Lease, Secret
from zos.api.meta import Key
from zos.api.network import Network
from zos.api.zmachine import ZMachine
from zos.kube.client import Raw
from zos.simulation import Grid, manifest
from zos.simulation import grid as simulated

_IMAGE = "oci://registry.example/app"


@pytest.fixture
async def relay(controlled: ApiServer) -> AsyncIterator[Relay]:
    async with Relay(controlled).serving() as made:
        yield made


@pytest.fixture
async def grid(relay: Relay, tmp_path: Path) -> AsyncIterator[Grid]:
    async with simulated(relay.kubeconfig(tmp_path), tmp_path) as made:
        yield made
        await sweep(made.client)


def secret(name: str, **data: str) -> Raw:
    values = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": values}


def held(controller: object) -> dict[str, str | None]:
    found = controller.world.all("Secret")  # type: ignore[attr-defined]
    return {secret.name: secret.text("word") for secret in found}


async def condition(grid: Grid, name: str) -> Raw:
    raw = await grid.client.get(ZMachine, "default", name) or {}
    found = [one for one in raw.get("status", {}).get("conditions", ()) if one["type"] == "Ready"]
    return dict(found[0]) if found else {}


async def test_only_secrets_that_are_named_are_held_and_only_as_long(grid: Grid, relay: Relay) -> None:
    for name in ("named", "other"):
        await grid.client.create(Secret, "default", secret(name, word=f"{name} once"))
    net = {"ipRange": "10.20.0.0/16", "nodes": [{"name": "one"}], "access": [{"name": "laptop"}]}
    reference = {"name": "WORD", "valueFrom": {"secretKeyRef": {"name": "named", "key": "word"}}}
    machine = {"image": _IMAGE, "memory": "256Mi", "network": {"name": "net"}, "env": [reference]}
    async with grid.controller() as controller:
        await grid.node("one", ipv4="198.51.100.1")
        await grid.client.create(Network, "default", manifest("Network", "net", net))
        await grid.client.create(ZMachine, "default", manifest("ZMachine", "m", machine))

        async def has(**wanted: str | None) -> bool:
            return held(controller) == wanted

        laptop = "net-laptop-wireguard"
        await until(lambda: has(**{"named": "named once", laptop: None}))
        file = await grid.client.get(Secret, "default", laptop)
        await grid.client.patch(Secret, "default", "named", {"stringData": {"word": "named anew"}})
        await until(lambda: has(**{"named": "named anew", laptop: None}))
        await grid.client.delete(Secret, "default", "named")

        async def says_absent() -> bool:
            return "Secret named" in (await condition(grid, "m")).get("message", "")

        await until(says_absent)
        await until(lambda: has(**{laptop: None}))
        # A controller that comes anew leaves a laptop's key as it is, and what it need not read unread.
    gets: list[str] = []
    relay.held = lambda method, path: bool(gets.append(path)) if method == "GET" and "/secrets/" in path else False
    async with grid.controller("two") as controller:
        await grid.client.create(Secret, "default", secret("named", word="back"))
        await until(lambda: has(**{"named": "back", laptop: None}))
        assert {path.rpartition("/")[2] for path in gets} == {"named", laptop}
        assert await grid.client.get(Secret, "default", laptop) == file
        # What nobody names any more is not held any more; a laptop that is gone takes its Secret along.
        await grid.client.patch(ZMachine, "default", "m", {"spec": {"env": []}})
        await grid.client.patch(Network, "default", "net", {"spec": {"access": []}})
        await until(has)

        async def gone() -> bool:
            return await grid.client.get(Secret, "default", laptop) is None

        await until(gone)


async def test_a_secret_that_can_not_be_had_is_waited_for_and_nothing_is_made_in_its_place(grid: Grid, relay: Relay) -> None:
    net = {"ipRange": "10.21.0.0/16", "nodes": [{"name": "one"}], "access": [{"name": "laptop"}]}
    laptop = "net-laptop-wireguard"
    async with grid.controller():
        await grid.node("one", ipv4="198.51.100.1")
        await grid.client.create(Network, "default", manifest("Network", "net", net))

        async def there() -> bool:
            return await grid.client.get(Secret, "default", laptop) is not None

        await until(there)
    before = await grid.client.get(Secret, "default", laptop)
    network = await grid.client.get(Network, "default", "net")
    assert network is not None
    relay.held = lambda method, path: method == "GET" and path.endswith(f"/secrets/{laptop}")
    async with grid.controller("two") as controller:
        began = time.monotonic()

        async def asks() -> bool:
            return relay.waiting > 0

        await until(asks)
        await grid.client.patch(Network, "default", "net", {"metadata": {"labels": {"look": "again"}}})
        while time.monotonic() - began < 3:
            assert not [one for one in grid.writes if one[0] == "two" and one[1] in ("Secret", "Network", "NodeWorkload")]
            await until(asks)
        relay.held = lambda *_: False

        async def has_it() -> bool:
            return laptop in held(controller)

        await until(has_it)
        assert await grid.client.get(Secret, "default", laptop) == before


async def test_of_leases_only_agents_and_leaders_are_heard(grid: Grid) -> None:
    foreign: Raw = {"apiVersion": Lease.API_VERSION, "kind": "Lease", "metadata": {"name": "agent"}, "spec": {}}
    async with grid.controller() as controller:
        await grid.client.create(Lease, "default", foreign)
        await grid.node("one", ipv4="198.51.100.1")

        async def alive() -> bool:
            return [beat.alive for beat in controller.world.all("Heartbeat")] == [True]  # type: ignore[attr-defined]

        await until(alive)
        heard = controller.heard(Lease)
        assert {Key("Lease", "zos-node-one", "agent"), Key("Lease", "zos-system", "zos-controller")} <= heard
        assert Key("Lease", "default", "agent") not in heard
        await grid.client.delete(Lease, "default", "agent")
