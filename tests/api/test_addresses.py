"""Public addresses against a real API server: what must hold whoever leads and however often it restarts."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest
from prometheus_client import REGISTRY

from apiserver import ApiServer
from simulated import sweep, until
from zos.api.contract import Claim, Contract, NameContract
from zos.api.farm import Farm
from zos.api.meta import Object
from zos.api.publicip import PublicIP
from zos.controller.main import Controller
from zos.kube.client import ApiError, NotFound
from zos.simulation import Grid, manifest
from zos.simulation import grid as simulated

T = TypeVar("T", bound=Object)


@pytest.fixture
def server(controlled: ApiServer) -> ApiServer:
    return controlled


@pytest.fixture
async def grid(server: ApiServer, tmp_path: Path) -> AsyncIterator[Grid]:
    async with simulated(server.kubeconfig, tmp_path) as made:
        yield made
        await sweep(made.client)


async def listed(grid: Grid, model: type[T], namespace: str = "") -> list[T]:
    return [model.model_validate(raw) for raw in await grid.client.objects(model, namespace)]


async def get(grid: Grid, model: type[T], name: str, namespace: str = "default") -> T:
    raw = await grid.client.get(model, namespace, name)
    assert raw is not None, f"there is no {model.KIND} {name}"
    return model.model_validate(raw)


async def create(grid: Grid, model: type[Object], name: str, namespace: str = "default", /, **spec: object) -> None:
    place = namespace if model.NAMESPACED else ""
    await grid.client.create(model, place, manifest(model.KIND, name, spec, place))


async def edit(grid: Grid, model: type[Object], name: str, namespace: str = "default", **spec: object) -> None:
    await grid.client.patch(model, namespace if model.NAMESPACED else "", name, {"spec": spec})


async def delete_all(grid: Grid, *models: type[Object], seconds: float = 60) -> None:
    for model in models:
        await asyncio.gather(
            *(grid.client.delete(model, obj.namespace, obj.name) for obj in await listed(grid, model) if not obj.deleting)
        )
    for model in models:

        async def gone(model: type[Object] = model) -> bool:
            return not await grid.client.keys(model)

        await until(gone, seconds)


async def quiet(grid: Grid, seconds: float = 1.5) -> None:
    """Until nobody writes for a while (leadership is renewed all the time)."""

    def count() -> int:
        return sum(1 for _, kind, *_ in grid.writes if kind != "Lease")

    before = -1
    while before != (before := count()):
        await asyncio.sleep(seconds)


async def says(grid: Grid, model: type[Object], name: str, reason: str, *words: str, namespace: str = "default") -> None:
    last = None

    async def look() -> bool:
        nonlocal last
        last = (await get(grid, model, name, namespace)).status.condition("Ready")
        return last is not None and last.reason == reason and all(word in last.message for word in words)

    await until(look, 45, lambda: f"{name} does not say {reason} {words}: {last}")


@contextlib.asynccontextmanager
async def leader(grid: Grid, identity: str, **settings: str) -> AsyncIterator[Controller]:
    async with grid.controller(identity, **settings) as controller:

        async def leads() -> bool:
            return controller.leading and controller.listed

        await until(leads)
        yield controller


def usurper(grid: Grid, identity: str) -> contextlib.AbstractAsyncContextManager[Controller]:
    """A second controller that leads beside the one that does, as it asks another Lease."""
    return leader(grid, identity, lease="usurped")


def v4(range: str, gateway: str) -> dict[str, str]:
    return {"range": range, "gateway": gateway}


async def ledger(grid: Grid, seconds: float = 60) -> Mapping[str, tuple[str, ...]]:
    """Contract uid → addresses, as soon as nothing is on its way: Claims and contracts agree, nothing is held twice or leaked.

    What two contracts say to have reserved is never the same, settled or not.
    """
    found: dict[str, tuple[str, ...]] = {}

    async def at_odds() -> list[str]:
        contracts = await listed(grid, Contract)
        reserved = Counter(address for contract in contracts for address in contract.status.reserved)
        assert not [address for address, count in reserved.items() if count > 1], "held twice"
        claims = [claim for claim in await listed(grid, Claim) if claim.spec.farm]
        held: dict[str, list[str]] = {contract.uid: [] for contract in contracts}
        problems = []
        for claim in claims:
            assert claim.name == f"ipv4.{claim.spec.thing}"
            if claim.spec.holder.uid in held:
                held[claim.spec.holder.uid].append(claim.spec.thing)
            else:
                problems.append(f"{claim.name} is leaked: its holder is gone")
        for contract in contracts:
            mine, status = sorted(held[contract.uid]), contract.status
            if status.taking or sorted(status.reserved) != mine or not {e.ip for e in status.in_use} <= set(mine):
                problems.append(f"{contract.name} claims {mine}, says {status}")
        found.update({contract.uid: contract.status.reserved for contract in contracts})
        return problems

    async def agree() -> bool:
        found.clear()
        return not await at_odds()

    try:
        await until(agree, seconds)
    except AssertionError as error:
        raise AssertionError("; ".join(await at_odds()) or error) from None
    return found


async def test_two_leaders_hold_nothing_twice_and_leak_nothing(grid: Grid) -> None:
    chance = random.Random(4)
    ranges = [v4("203.0.113.0/24", "203.0.113.1"), v4("198.51.100.0/25", "198.51.100.1")]
    async with leader(grid, "first"), usurper(grid, "second"):
        await create(grid, Farm, "races", publicIPv4=ranges, allowNonGlobal=True)
        names = [f"c{number}" for number in range(200)]

        async def live(name: str) -> None:
            """A contract's life: it may grow, shrink, go, and come back under its name."""
            await asyncio.sleep(chance.uniform(0, 2))
            await create(grid, Contract, name, farm="races", publicIPv4=chance.randint(1, 3))
            for _ in range(chance.randint(0, 2)):
                await asyncio.sleep(chance.uniform(0, 2))
                if chance.random() < 0.5:
                    await grid.client.delete(Contract, "default", name)
                    return
                with contextlib.suppress(NotFound):
                    await edit(grid, Contract, name, publicIPv4=chance.randint(1, 4))

        await asyncio.gather(*(live(name) for name in names))
        await quiet(grid)
        await ledger(grid)
        await quiet(grid)
        contracts = await listed(grid, Contract)
        assert 60 < len(contracts) < 200, "the dice were to leave some and to delete some"
        free = (await get(grid, Farm, "races")).status.ipv4.free
        for contract in contracts:
            missing = contract.spec.public_ipv4 - len(contract.status.reserved)
            assert missing == 0 or missing > free, f"{contract.name} lacks {missing}, {free} are free"
        took_part = {who for who, kind, verb, status in grid.writes if (kind, verb, status) == ("Claim", "create", 200)}
        assert took_part == {"first", "second"}, "one of the two never got an address: no race was run"
        holder = {"kind": "Contract", "namespace": "default", "name": "nobody", "uid": "nobody"}
        await create(grid, Claim, "ipv4.192.0.2.254", holder=holder, thing="192.0.2.254", farm="races")
        await delete_all(grid, Contract)
        await quiet(grid)
        assert not await grid.client.keys(Claim), "orphans are not collected"
        assert (await get(grid, Farm, "races")).status.ipv4.held == 0
        await delete_all(grid, Farm)


@dataclass(frozen=True)
class Had:
    """What living contracts have reserved and living PublicIPs have, by uid."""

    reserved: dict[str, frozenset[str]]
    given: dict[str, tuple[object, ...]]

    def moved(self, later: Had) -> list[object]:
        """What is not where it was. A PublicIP keeps what it has, and may get more; a contract grows or (when it is asked to)
        shrinks, but exchanges nothing."""
        found: list[object] = []
        for uid, had in self.reserved.items():
            has = later.reserved.get(uid, had)
            if not (had <= has or has <= had):
                found.append((uid, had, has))
        for uid, own in self.given.items():
            now = later.given.get(uid, own)
            found += [(uid, own, now) for was, is_ in zip(own, now, strict=True) if was is not None and was != is_]
        return found


async def addresses(grid: Grid) -> Had:
    contracts = {c.uid: frozenset(c.status.reserved) for c in await listed(grid, Contract) if not c.deleting}
    given: dict[str, tuple[object, ...]] = {}
    for ip in await listed(grid, PublicIP):
        if not ip.deleting:
            v4, v6 = ip.status.ipv4, ip.status.ipv6
            given[ip.uid] = (v4 and v4.address, v4 and v4.gateway, v6 and v6.address, ip.status.mac)
    return Had(contracts, given)


async def test_restarts_move_no_address(grid: Grid) -> None:
    chance = random.Random(7)
    prefixes = [{"prefix": "2001:db8:7::/64"}]
    ranges = [v4("203.0.113.0/24", "203.0.113.1"), v4("198.51.100.0/25", "198.51.100.1")]
    await create(grid, Farm, "steady", publicIPv4=ranges, publicIPv6=prefixes, allowNonGlobal=True)
    contracts = [f"s{number}" for number in range(200)]
    ips = {f"ip{number}": chance.choice(contracts) for number in range(400)}

    async def begin() -> None:
        await asyncio.gather(
            *(create(grid, Contract, name, farm="steady", publicIPv4=chance.choice((1, 2, 2, 3))) for name in contracts),
            *(create(grid, PublicIP, name, contract=contract, ipv6=chance.random() < 0.7) for name, contract in ips.items()),
        )

    async def unrest() -> None:
        """Some go (a contract in use waits for its users), some grow or shrink, some come."""
        for name in chance.sample(contracts, 10):
            if chance.random() < 0.3:
                await grid.client.delete(Contract, "default", name)
            else:
                with contextlib.suppress(NotFound):
                    await edit(grid, Contract, name, publicIPv4=chance.randint(1, 4))
        for name in chance.sample(sorted(ips), 15):
            await grid.client.delete(PublicIP, "default", name)

    async with leader(grid, "life-0"):
        await begin()
        # The first end comes while much is half done.
    before = await addresses(grid)
    for number in range(1, 6):
        async with leader(grid, f"life-{number}"):
            await asyncio.sleep(chance.uniform(0.5, 1.5))
            if number == 1:
                await quiet(grid)
            during = await addresses(grid)
            assert not before.moved(during)
            await unrest()
            await asyncio.sleep(chance.uniform(0, 1))
        before = during
    async with leader(grid, "last"):
        await quiet(grid)
        after = await addresses(grid)
        assert not before.moved(after)
        held = await ledger(grid)
        given = [ip.status.ipv4.address.split("/")[0] for ip in await listed(grid, PublicIP) if ip.status.ipv4]
        assert len(given) > 150, "the farm was to be in use"
        assert len(set(given)) == len(given), "one address for two"
        assert set(given) <= {address for reserved in held.values() for address in reserved}
        reasons = Counter(c.status.condition("Ready").reason for c in await listed(grid, Contract))
        assert reasons.keys() >= {"Succeeded", "InsufficientCapacity"}, f"the states were to be many: {reasons}"
        await delete_all(grid, PublicIP, Contract, Farm)
        assert not await grid.client.keys(Claim)


async def test_a_name_has_one_holder_and_goes_to_the_next(grid: Grid, server: ApiServer) -> None:
    server.kubectl("create", "namespace", "names")
    async with leader(grid, "first"), usurper(grid, "second"):
        await create(grid, NameContract, "mine", name="Example")
        await says(grid, NameContract, "mine", "Succeeded", "holds example")
        await create(grid, NameContract, "theirs", "names", name="eXample")
        await says(grid, NameContract, "theirs", "Conflict", "held by another namespace", namespace="names")
        await asyncio.sleep(1.1)  # ages are counted in seconds
        await create(grid, NameContract, "later", name="EXAMPLE")
        await says(grid, NameContract, "later", "Conflict", "held by NameContract mine")
        await grid.client.delete(NameContract, "default", "mine")
        await says(grid, NameContract, "theirs", "Succeeded", "holds example", namespace="names")
        await says(grid, NameContract, "later", "Conflict", "held by another namespace")
        claim = await get(grid, Claim, "name.example", "")
        assert (claim.spec.holder.namespace, claim.spec.holder.name) == ("names", "theirs")
        await delete_all(grid, NameContract)
        assert not await grid.client.keys(Claim)


async def test_a_farm_is_edited_under_live_addresses(grid: Grid, server: ApiServer) -> None:
    wide, late = v4("203.0.113.0/28", "203.0.113.1"), v4("198.51.100.0/29", "198.51.100.1")
    async with leader(grid, "first"):
        await create(grid, Farm, "live", publicIPv4=[wide], allowNonGlobal=True)
        await create(grid, Contract, "c", farm="live", publicIPv4=13)
        for number in range(13):
            await create(grid, PublicIP, f"ip{number}", contract="c", ipv6=False)
        await says(grid, PublicIP, "ip12", "Succeeded")
        await quiet(grid)

        async def where() -> dict[str, str]:
            return {ip.name: ip.status.ipv4.address.split("/")[0] for ip in await listed(grid, PublicIP) if ip.status.ipv4}

        before = await where()
        assert len(set(before.values())) == 13
        halves = [v4("203.0.113.0/29", "203.0.113.1"), v4("203.0.113.8/29", "203.0.113.9")]
        edits: list[tuple[list[dict[str, str]], list[str]]] = [
            ([v4("203.0.113.0/27", "203.0.113.1")], []),  # grow
            (halves, ["203.0.113.7", "203.0.113.8", "203.0.113.9"]),  # split: what became broadcast, network and gateway
            (halves[:1], [f"203.0.113.{last}" for last in range(7, 15)]),  # remove one
            ([late], [f"203.0.113.{last}" for last in range(2, 15)]),  # replace all
            ([wide, late], []),
        ]
        for ranges, outside in edits:
            await edit(grid, Farm, "live", publicIPv4=ranges)

            async def reported(outside: list[str] = outside) -> bool:
                farm = await get(grid, Farm, "live")
                return farm.status.observed_generation == farm.metadata.generation and farm.status.out_of_range == tuple(
                    outside
                )

            await until(reported)
            await quiet(grid, 0.5)
            assert await where() == before
            if outside:
                await says(grid, Farm, "live", "Succeeded", "kept until released", outside[0])
        # Exhaustion: numbers, an event, and healing by itself, the oldest first.
        await create(grid, Contract, "older", farm="live", publicIPv4=6)
        await says(grid, Contract, "older", "InsufficientCapacity", "farm live: 6 asked, 0 held, 5 free")
        await asyncio.sleep(1.1)
        await create(grid, Contract, "younger", farm="live", publicIPv4=7)
        await says(grid, Contract, "younger", "InsufficientCapacity", "7 asked")
        events = await grid.client.request("GET", "/api/v1/namespaces/default/events")
        told = [e for e in events["items"] if e["involvedObject"].get("name") == "older" and e["type"] == "Warning"]
        assert any(e["reason"] == "InsufficientCapacity" and "6 asked" in e["message"] for e in told)
        await edit(grid, Farm, "live", publicIPv4=[wide, late, v4("198.51.100.8/29", "198.51.100.9")])
        await says(grid, Contract, "older", "Succeeded")
        await says(grid, Contract, "younger", "InsufficientCapacity", "7 asked, 0 held, 4 free")

        # What Prometheus is told of it.
        def told(name: str, **labels: str) -> float | None:
            return REGISTRY.get_sample_value(name, labels)

        async def counted() -> bool:
            farm = (await get(grid, Farm, "live")).status.ipv4
            states = [
                told("zos_farm_addresses", farm="live", family="ipv4", state=state) for state in ("total", "held", "free")
            ]
            return states == [farm.total, farm.held, farm.free] == [23, 19, 4]

        await until(counted)
        assert told("zos_contracts_waiting", farm="live") == 1
        assert told("zos_objects", kind="PublicIP", reason="Succeeded") == 13
        await grid.client.delete(Contract, "default", "older")
        await says(grid, Contract, "younger", "Succeeded")
        # What is in no range any more is not given again.
        await edit(grid, Farm, "live", publicIPv4=[halves[0]])
        await grid.client.delete(PublicIP, "default", next(name for name, ip in before.items() if ip == "203.0.113.14"))
        await edit(grid, Contract, "c", publicIPv4=12)

        async def released() -> bool:
            return "203.0.113.14" not in (await get(grid, Farm, "live")).status.out_of_range

        await until(released)
        await delete_all(grid, PublicIP, Contract, Farm)


async def test_farms_that_overlap_and_namespaces_that_may_not(grid: Grid, server: ApiServer) -> None:
    server.kubectl("create", "namespace", "gold")
    server.kubectl("label", "namespace", "gold", "tier=gold")
    async with leader(grid, "first"):
        selector = {"matchLabels": {"tier": "gold"}}
        await create(
            grid, Farm, "one", publicIPv4=[v4("203.0.113.0/24", "203.0.113.1")], allowNonGlobal=True, allowedNamespaces=selector
        )
        await create(grid, Farm, "two", publicIPv4=[v4("203.0.113.64/26", "203.0.113.65")], allowNonGlobal=True)
        await says(grid, Farm, "one", "Conflict", "203.0.113.0/24 of farm one overlaps 203.0.113.64/26 of farm two")
        await says(grid, Farm, "two", "Conflict", "203.0.113.64/26 of farm two overlaps 203.0.113.0/24 of farm one")
        assert (await get(grid, Farm, "two")).status.condition("Stalled").status == "True"
        await create(grid, Contract, "c", farm="one", publicIPv4=100)
        await create(grid, Contract, "c", "gold", farm="one", publicIPv4=100)
        await says(grid, Contract, "c", "InvalidSpec", "farm one does not admit namespace default")
        await says(grid, Contract, "c", "Succeeded", namespace="gold")
        await create(grid, Contract, "elsewhere", farm="two", publicIPv4=10)
        await says(grid, Contract, "elsewhere", "Succeeded")
        await ledger(grid)  # also of farms at odds nothing is given twice
        await edit(grid, Farm, "two", publicIPv4=[v4("198.51.100.0/26", "198.51.100.1")])
        await says(grid, Farm, "one", "Succeeded")
        await says(grid, Farm, "two", "Succeeded", "10 held addresses are in no range any more")
        server.kubectl("label", "namespace", "default", "tier=gold")
        await says(grid, Contract, "c", "Succeeded")
        # Who is not admitted any more keeps what it has, and gets no more.
        server.kubectl("label", "namespace", "gold", "tier-")
        await edit(grid, Contract, "c", "gold", publicIPv4=101)
        await says(grid, Contract, "c", "InvalidSpec", "does not admit namespace gold", namespace="gold")
        assert len((await get(grid, Contract, "c", "gold")).status.reserved) == 100
        await delete_all(grid, Contract, Farm)
    server.kubectl("label", "namespace", "default", "tier-")


async def test_quotas_of_kubernetes_limit_contracts_and_addresses(grid: Grid, server: ApiServer) -> None:
    server.kubectl("create", "namespace", "small")
    server.start_controllers("resourcequota-controller")
    hard = [f"count/{kind}.zos.grid.tf={count}" for kind, count in (("contracts", 1), ("publicips", 2))]
    server.kubectl("create", "quota", "zos", "-n", "small", f"--hard={','.join(hard)}")

    async def counted() -> bool:
        return "publicips" in server.kubectl("get", "quota", "zos", "-n", "small", "-o", "jsonpath={.status.used}")

    await until(counted)
    await create(grid, Contract, "c", "small", farm="f", publicIPv4=2)
    with pytest.raises(ApiError, match=r"exceeded quota: zos, requested: count/contracts\.zos\.grid\.tf=1"):
        await create(grid, Contract, "more", "small", farm="f", publicIPv4=2)
    for name in "ab":
        await create(grid, PublicIP, name, "small", contract="c")
    with pytest.raises(ApiError, match=r"exceeded quota: zos, requested: count/publicips\.zos\.grid\.tf=1"):
        await create(grid, PublicIP, "c", "small", contract="c")
    await grid.client.delete(PublicIP, "small", "a")

    async def again() -> bool:
        with contextlib.suppress(ApiError):
            await create(grid, PublicIP, "c", "small", contract="c")
            return True
        return False

    await until(again)
    await delete_all(grid, PublicIP, Contract)
    server.kill("kube-controller-manager")
