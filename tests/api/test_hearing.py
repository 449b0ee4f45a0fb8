"""What makes a controller or an agent deaf, and how soon it hears again: the real ones, against a real API server."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from apiserver import CRDS, ApiServer, running
from simulated import sweep, until
from zos.api.contract import Claim, Contract, NameContract
from zos.api.core import Lease
from zos.api.farm import Farm
from zos.api.gridnode import GridNode
from zos.api.meta import Key, Object
from zos.api.network import Network
from zos.api.nodeworkload import NodeWorkload
from zos.api.publicip import PublicIP
from zos.api.zmachine import ZMachine
from zos.api.zmount import ZMount
from zos.controller.main import Controller
from zos.kinds.registry import KINDS
from zos.kube.client import Access, Client, NotFound, Raw
from zos.kube.informer import Deaf, Informer
from zos.kube.watches import Watched
from zos.simulation import Grid, manifest
from zos.simulation import grid as simulated

_HOLDER = {"kind": "NameContract", "namespace": "default", "name": "n", "uid": "00000000-0000-0000-0000-000000000000"}
#: What an object of each kind needs.
SPECS: dict[type[Object], dict[str, object]] = {
    Network: {"ipRange": "10.20.0.0/16", "nodes": [{"name": "one"}]},
    ZMachine: {"image": "oci://registry.example/a", "memory": "256Mi", "network": {"name": "net"}},
    ZMount: {"size": "1Gi"},
    PublicIP: {"contract": "c"},
    Contract: {"farm": "f", "publicIPv4": 1},
    NameContract: {"name": "n"},
    Farm: {},
    GridNode: {},
    NodeWorkload: {"owner": {**_HOLDER, "kind": "ZMount"}, "part": {"zmount": {"size": "1Gi"}}},
    Claim: {"holder": _HOLDER, "thing": "n"},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """An API server of its own, which the tests break and mend."""
    with running(tmp_path_factory.mktemp("hearing")) as made:
        made.kubectl("create", "namespace", "zos-system")
        yield made


@pytest.fixture
async def grid(server: ApiServer, tmp_path: Path) -> AsyncIterator[Grid]:
    async with simulated(server.kubeconfig, tmp_path) as made:
        yield made
        await sweep(made.client)


async def mounted(grid: Grid, name: str) -> bool:
    """Whether a disk is there and ready: controller and agent have heard, and have been heard."""
    raw = await grid.client.get(ZMount, "default", name)
    conditions = (raw or {}).get("status", {}).get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


async def mount(grid: Grid, name: str, seconds: float = 20) -> None:
    await grid.client.create(ZMount, "default", manifest("ZMount", name, {"size": "1Gi"}, "default"))

    async def ready() -> bool:
        return await mounted(grid, name)

    await until(ready, seconds)


def alive(controller: Controller) -> dict[str, bool]:
    return {beat.name: beat.alive for beat in controller.world.all("Heartbeat")}  # type: ignore[attr-defined]


async def apply(server: ApiServer, *kinds: type[Object]) -> None:
    for kind in kinds:
        crd = CRDS / f"{kind.PLURAL}.zos.grid.tf.yaml"
        await asyncio.to_thread(server.kubectl, "apply", "--server-side", "-f", str(crd))


def crds(*kinds: type[Object]) -> list[str]:
    return [f"crd/{kind.PLURAL}.zos.grid.tf" for kind in kinds]


async def persist(client: Client, model: type[Object], body: Raw) -> str:
    """Creates an object of a kind that may not be served yet; gives its uid."""
    made: Raw = {}

    async def try_to() -> bool:
        with contextlib.suppress(NotFound):
            made.update(await client.create(model, body["metadata"].get("namespace", ""), body))
        return bool(made)

    await until(try_to, 20)
    return str(made["metadata"]["uid"])


async def test_a_kind_that_goes_and_comes_back_deafens_nobody(grid: Grid, server: ApiServer) -> None:
    async with grid.controller() as controller:
        await grid.node("one", ipv4="198.51.100.1")
        await mount(grid, "before")
        dead: list[str] = []

        async def watch_for_the_dead() -> None:
            while True:
                dead.extend(name for name, lives in alive(controller).items() if not lives)
                await asyncio.sleep(0.1)

        watching = asyncio.create_task(watch_for_the_dead())
        mine = {GridNode.KIND, NodeWorkload.KIND, ZMount.KIND}
        others = [kind for kind in KINDS.models if kind.KIND not in mine]
        await asyncio.to_thread(server.kubectl, "delete", *crds(*others))
        await mount(grid, "while-others-are-gone", 30)
        assert controller.unhealthy() is None
        await apply(server, *others)
        await persist(grid.client, NameContract, manifest("NameContract", "again", {"name": "again"}, "default"))

        async def heard() -> bool:
            return controller.world.peek(Key("NameContract", "default", "again")) is not None

        await until(heard, 30)
        await mount(grid, "after", 30)
        watching.cancel()
        assert dead == []


async def test_an_older_state_of_etcd_is_taken_for_what_it_is(grid: Grid, server: ApiServer) -> None:
    async with grid.controller():
        await grid.node("one", ipv4="198.51.100.1")
        await mount(grid, "kept")
        await mount(grid, "deleted-later")
    await asyncio.to_thread(server.snapshot, "before")
    # Who leads may lose that in the outage, and ends then; the other one has heard as much.
    async with grid.controller("two") as two, grid.controller("three") as three:
        await mount(grid, "made-later", 30)
        await grid.client.delete(ZMount, "default", "deleted-later")
        for size in ("2Gi", "3Gi"):
            await grid.client.patch(ZMount, "default", "kept", {"spec": {"size": size}})
        for number in range(60):
            await grid.client.patch(ZMount, "default", "kept", {"metadata": {"labels": {"n": str(number)}}})

        async def grown(to: int) -> bool:
            raw = await grid.client.get(ZMount, "default", "kept")
            assert raw is not None
            return ZMount.model_validate(raw).status.size == to

        await until(lambda: grown(3 * 2**30))
        await asyncio.to_thread(server.restore, "before")
        led: list[Controller] = []

        async def as_it_was() -> bool:
            led[:] = [one for one in (two, three) if one.leading]
            for leader in led:
                kept, gone, back = (
                    leader.world.peek(Key("ZMount", "default", name)) for name in ("kept", "made-later", "deleted-later")
                )
                return isinstance(kept, ZMount) and kept.spec.size == 2**30 and gone is None and back is not None
            return False

        await until(as_it_was, 30)
        # A change of today has a lower version than what was known before, and reaches the node all the same.
        await grid.client.patch(ZMount, "default", "kept", {"spec": {"size": "4Gi"}})
        await until(lambda: grown(4 * 2**30), 30)
        await mount(grid, "today", 30)
        assert alive(led[0]) == {"one": True}


class Proxy:
    """Passes TCP connections on to an API server, until they are frozen: open, and dead."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._connections: list[asyncio.Event] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.frozen = False

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[int]:
        server = await asyncio.start_server(self._pass, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def freeze(self, *, future: bool = False) -> None:
        """The connections that are; with ``future`` those to come as well."""
        for flows in self._connections:
            flows.clear()
        self.frozen = future

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        flows = asyncio.Event()
        if not self.frozen:
            flows.set()
        self._connections.append(flows)
        upstream, down = await asyncio.open_connection("127.0.0.1", self._port)

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                while data := await source.read(65536):
                    await flows.wait()
                    sink.write(data)
                    await sink.drain()
            sink.close()

        for flow in (pump(reader, down), pump(upstream, writer)):
            task = asyncio.create_task(flow)
            self._tasks.add(task)


@contextlib.asynccontextmanager
async def informing(
    server: ApiServer, *watched: Watched, port: int = 0
) -> AsyncIterator[tuple[Client, dict[Key, Raw], Informer, asyncio.Task[None]]]:
    """An informer whose watches may go through another port than the client's requests."""
    access, direct = await Access.load(server.kubeconfig), await Access.load(server.kubeconfig)
    if port:
        access.configuration.host = f"https://127.0.0.1:{port}"
    client, there = Client(direct), dict[Key, Raw]()

    def handle(key: Key, raw: Raw | None) -> None:
        if raw is None:
            there.pop(key, None)
        else:
            there[key] = raw

    informer = Informer(access, client, watched, handle, patience=2.0)
    task = asyncio.create_task(informer.run())
    try:
        await asyncio.wait_for(informer.listed.wait(), 10)
        yield client, there, informer, task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await client.close()


async def test_a_watch_that_says_nothing_more_is_begun_anew(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.kubectl("create", "namespace", "deaf")
    proxy = Proxy(server.port)
    async with (
        proxy.serving() as port,
        informing(server, Watched(ZMount, "deaf"), Watched(Lease, "deaf"), port=port) as (client, there, informer, task),
    ):
        await client.create(ZMount, "deaf", manifest("ZMount", "one", {"size": "1Gi"}))
        await until(lambda: there_is(there, "one"))
        await until(lambda: hears(informer))
        proxy.freeze()
        await client.create(ZMount, "deaf", manifest("ZMount", "two", {"size": "1Gi"}))
        assert Key("ZMount", "deaf", "two") not in there
        began = time.monotonic()
        await until(lambda: there_is(there, "two"), 15)
        assert informer.hearing.deafened == 1
        assert time.monotonic() - began > 2.0
        await until(lambda: hears(informer))
        # Where no new watch helps, the process had better end.
        proxy.freeze(future=True)
        monkeypatch.setattr("zos.kube.informer._HOPELESS", 1)
        for number in range(200):
            if task.done():
                break
            await client.patch(ZMount, "deaf", "two", {"metadata": {"labels": {"n": str(number)}}})
            await asyncio.wait([task], timeout=0.3)
        assert isinstance(task.exception(), Deaf)
        assert "begun anew" in (informer.hearing.problem() or "")
        await client.delete(ZMount, "deaf", "one")
        await client.delete(ZMount, "deaf", "two")


@dataclass
class Detour:
    """The way that the watches of controllers and agents take; their requests go straight. ``informers``: who takes it, and
    the kinds that each one watches."""

    proxy: Proxy
    informers: dict[Informer, set[type[Object]]] = field(default_factory=dict)

    async def opened(self) -> bool:
        """Whether all their watches are open, and told what was answered so far. A connection that freezes while it is made
        says nothing of how soon one is missed that was open."""
        return all(informer.hears(kind, 0) for informer, kinds in self.informers.items() for kind in kinds)


@pytest.fixture
async def detour(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Detour]:
    made = Detour(Proxy(server.port))
    begin = Informer.__init__
    async with made.proxy.serving() as port:

        def detoured(
            informer: Informer, access: Access, client: Client, watched: Sequence[Watched], *rest: Any, **options: Any
        ) -> None:
            around = copy.copy(access)
            around.configuration = copy.copy(access.configuration)
            around.configuration.host = f"https://127.0.0.1:{port}"
            begin(informer, around, client, watched, *rest, **options)
            made.informers[informer] = {each.model for each in watched}

        monkeypatch.setattr(Informer, "__init__", detoured)
        yield made


async def test_who_hears_nothing_while_nobody_writes_anything_knows_it_within_half_a_minute(grid: Grid, detour: Detour) -> None:
    async with grid.controller() as leader, grid.controller("two") as other:
        await grid.node("one", ipv4="198.51.100.1")
        await mount(grid, "before")
        await until(detour.opened)
        assert [informer.hearing.deafened for informer in detour.informers] == [0, 0, 0]
        detour.proxy.freeze()
        said: set[Controller] = set()

        async def noticed() -> bool:
            said.update(one for one in (leader, other) if "begun anew" in (one.unhealthy() or ""))
            return len(said) == 2 and all(informer.hearing.deafened for informer in detour.informers)

        def who_did() -> object:
            controllers = {"leader": leader in said, "other": other in said}
            return controllers, [(informer.hearing.deafened, len(kinds)) for informer, kinds in detour.informers.items()]

        await until(noticed, 30, who_did)
        await mount(grid, "after", 30)
        assert leader.unhealthy() is None
        assert [informer.hearing.deafened for informer in detour.informers] == [1, 1, 1]


async def there_is(there: dict[Key, Raw], name: str) -> bool:
    return Key("ZMount", "deaf", name) in there


async def hears(informer: Informer) -> bool:
    return informer.hears(ZMount, 2.0) and informer.hearing.problem() is None


async def test_every_kind_is_heard_again_after_its_definition_was_made_anew(server: ApiServer) -> None:
    async with informing(server, *(Watched(kind) for kind in KINDS.models)) as (client, there, _, _):

        async def make_and_hear() -> None:
            uids = set()
            for kind, spec in SPECS.items():
                body = manifest(kind.KIND, "again", spec, "default" if kind.NAMESPACED else "")
                uids.add(await persist(client, kind, body))

            async def heard() -> bool:
                return {raw["metadata"]["uid"] for raw in there.values()} == uids

            await until(heard, 30)

        await make_and_hear()
        await asyncio.to_thread(server.kubectl, "delete", *crds(*KINDS.models))
        await apply(server, *KINDS.models)
        await make_and_hear()


async def test_a_status_that_is_refused_is_offered_less_and_less_often_and_holds_up_no_other(
    grid: Grid, server: ApiServer
) -> None:
    policy = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": "refused"},
        "spec": {
            "matchConstraints": {"resourceRules": [{
                "apiGroups": ["zos.grid.tf"], "apiVersions": ["*"], "operations": ["UPDATE"],
                "resources": ["nodeworkloads/status"],
            }]},
            "validations": [{"expression": "!object.metadata.name.contains('refused')", "message": "not this one"}],
        },
    }  # fmt: skip
    binding = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": "refused"},
        "spec": {"policyName": "refused", "validationActions": ["Deny"]},
    }
    async with grid.controller():
        await grid.node("one")
        await mount(grid, "before")
        for body in (policy, binding):
            await asyncio.to_thread(server.kubectl, "apply", "-f", "-", stdin=json.dumps(body))

        def refusals() -> int:
            return sum(1 for _, kind, _, status in grid.writes if kind == "NodeWorkload" and status == 422)

        began, tried = time.monotonic(), 0
        while not refusals():  # a policy takes a moment to be in force
            await grid.client.create(ZMount, "default", manifest("ZMount", f"refused{tried}", {"size": "1Gi"}))
            tried += 1
            await asyncio.sleep(1)
            assert time.monotonic() - began < 20
        first, began = refusals(), time.monotonic()
        for name in ("a", "b", "c"):
            await mount(grid, name)
        await asyncio.sleep(max(0.0, began + 4 - time.monotonic()))
        assert refusals() - first <= 3 * tried
        for kind in ("validatingadmissionpolicybinding", "validatingadmissionpolicy"):
            await asyncio.to_thread(server.kubectl, "delete", kind, "refused")
