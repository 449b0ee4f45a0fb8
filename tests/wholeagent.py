"""An agent's whole process in a loop without time (`virtual`): all that it composes is real but its node, which is dicts
(`zos.agent.simulation`), the wire (`memory`), and kopf, in whose place the API server tells its changes itself."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import importlib
import json
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from kubernetes.aio.client import Configuration

import virtual
import zos.agent
from memory import MemoryClient, Request, Server
from zos.agent import agent, memory, surroundings
from zos.agent.metrics import Metrics
from zos.agent.settings import Settings
from zos.agent.simulation import Node, drivers
from zos.api import names
from zos.api.core import Lease, Namespace
from zos.api.gridnode import GridNode, NodeFeatures
from zos.api.meta import AGENT_FINALIZER, Key, Object
from zos.api.nodeworkload import NodeWorkload
from zos.drivers.gueststats import GuestUse
from zos.drivers.imageprogress import ImageMeasures
from zos.drivers.keyring import Keyring
from zos.kinds.registry import KINDS
from zos.kube import informer, lease
from zos.kube.client import Access, Raw, path_of
from zos.kube.watches import Watched


def _without_drivers() -> Any:
    """The agent's main module. What it equips itself with needs libvirt, and quick tests do without: `Home` equips it."""
    name, drivers = "zos.agent.main", "zos.agent.composition"
    if drivers in sys.modules:
        return importlib.import_module(name)
    sys.modules[drivers] = ModuleType(drivers)
    sys.modules[drivers].equip = None  # type: ignore[attr-defined]
    try:
        return importlib.import_module(name)
    finally:
        for one in (name, drivers):
            del sys.modules[one]
        del zos.agent.main


main = _without_drivers()

#: Seconds since the epoch when everything begins, less the loop's own.
EPOCH = 1_900_000_000.0


@dataclass(frozen=True)
class _Ran:
    output: str

    @property
    def stdout(self) -> str:
        return self.output


class _Watches:
    """What `zos.kube.watches.Watches` is, of a server in memory."""

    def __init__(
        self,
        home: Home,
        served: Sequence[Watched],
        event: Callable[[str | None, Raw], None],
        stir: Callable[[], None],
    ) -> None:
        self._home = home
        self._served = served
        self._event = event
        self.begun, self.listed, self.ended, self.cut = True, False, False, False
        self.opened = {watched.path: virtual.clock() for watched in served}
        for model in {each.model for each in served}:
            for raw in home.server.of(model):
                self._tell(None, model.key_of(raw["metadata"].get("namespace", ""), raw["metadata"]["name"]), raw)
        home.watching.append(self._tell)
        self.listed = True
        asyncio.get_running_loop().call_soon(stir)

    def _tell(self, type: str | None, key: Key, raw: Raw) -> None:
        if any(watched.covers(key) for watched in self._served):
            asyncio.get_running_loop().call_soon(self._event, type, copy.deepcopy(raw))

    async def stop(self) -> None:
        self._home.watching.remove(self._tell)


class Home:
    """A node, its state directory and its API server; agents come and go (`agent`), with a ``connection`` each. ``links`` is
    what ``ip`` says of the node's addresses."""

    NAME = "n"

    def __init__(self, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.server = Server()
        self.client = MemoryClient(self.server)
        self.node = Node(prefixes=("192.168.7.0/24",))
        self.watching: list[Callable[[str | None, Key, Raw], None]] = []
        self.connection = self.client
        self.links: list[Raw] | Exception = [{"addr_info": [{"local": "8.8.4.4"}]}]
        self.metrics = Metrics()
        self.kinds = KINDS
        self.served: Any = None
        self.closed: list[str] = []
        self.rests = 0
        self._last: dict[Key, Raw] = {}
        self.server.hears.append(self._changed)
        self.settings = Settings(
            node=self.NAME, state=state, run=state / "run", kubeconfig="none", metrics=None,
            capacity_cpu=4, capacity_memory=8 * 2**30, capacity_storage=100 * 2**30,
        )  # fmt: skip
        self.put(Namespace, {"metadata": {"name": self.namespace}})

        async def loaded(_: object) -> Access:
            return Access(Configuration())

        async def ran(*argv: str, **_: Any) -> _Ran:
            assert argv == ("ip", "-json", "address", "show", "scope", "global")
            if isinstance(self.links, Exception):
                raise self.links
            return _Ran(json.dumps(self.links))

        def metered() -> Metrics:
            self.metrics = Metrics()
            return self.metrics

        def rested() -> None:
            self.rests += 1

        def connected(access: Access, wrote: Callable[[str, str, int], None], connections: int) -> MemoryClient:
            made = MemoryClient(self.server, wrote=wrote)
            made.away = self.client.away
            self.connection = made
            return made

        monkeypatch.setattr(memory, "give_back", rested)
        monkeypatch.setattr(surroundings, "run", ran)
        monkeypatch.setattr(surroundings, "nameservers", lambda: ("9.9.9.9",))
        monkeypatch.setattr(main.Access, "load", loaded)
        monkeypatch.setattr(main, "Client", connected)
        monkeypatch.setattr(main, "Metrics", metered)
        monkeypatch.setattr(main, "equip", self._equip)
        monkeypatch.setattr(main, "raise_inotify", lambda: None)
        monkeypatch.setattr(agent, "time", SimpleNamespace(monotonic=virtual.clock, time=virtual.clock))
        monkeypatch.setitem(agent.Agent.__init__.__kwdefaults__, "wall", lambda: EPOCH + virtual.clock())
        monkeypatch.setitem(informer.Informer.__init__.__kwdefaults__, "clock", virtual.clock)
        monkeypatch.setattr(lease, "now", lambda: f"{EPOCH + virtual.clock():.6f}")
        monkeypatch.setattr(informer, "Watches", lambda access, served, event, stir, clock: _Watches(self, served, event, stir))

    @property
    def namespace(self) -> str:
        return names.node_namespace(self.NAME)

    @property
    def keyring(self) -> Keyring:
        return Keyring(self.settings.state / "keys")

    # -- what people and the controller do

    def join(self, **spec: Any) -> None:
        self.put(
            GridNode, {"apiVersion": GridNode.API_VERSION, "kind": "GridNode", "metadata": {"name": self.NAME}, "spec": spec}
        )

    def make(self, kind: str, name: str, part: Raw, **more: Any) -> None:
        body = {
            "apiVersion": NodeWorkload.API_VERSION,
            "kind": "NodeWorkload",
            "metadata": {"name": name, "finalizers": [AGENT_FINALIZER]},
            "spec": {
                "owner": {"kind": kind, "namespace": "default", "name": name, "uid": f"uid-{name}"},
                "part": {kind.lower(): part},
                **more,
            },
        }
        self.put(NodeWorkload, body, self.namespace)

    def mount(self, name: str, size: str = "1Gi", **more: Any) -> None:
        self.make("ZMount", name, {"size": size, **more})

    def machine(self, name: str, secrets: Sequence[Raw] = (), **more: Any) -> None:
        machine = {"hostname": name, "image": "oci://r/i:1", "cpu": 2, "memory": "1Gi", "rootSize": "1Gi", "disks": []}
        self.make("ZMachine", name, machine | more, secrets=list(secrets))

    def put(self, model: type[Object], body: Raw, namespace: str = "") -> None:
        self.ask("POST", path_of(model, namespace), body)

    def edit(self, name: str, **spec: Any) -> None:
        self.ask("PATCH", path_of(NodeWorkload, self.namespace, name), {"spec": spec})

    def edit_node(self, subresource: str = "", **body: Any) -> None:
        self.ask("PATCH", path_of(GridNode, "", self.NAME) + (f"/{subresource}" if subresource else ""), body)

    def delete(self, name: str) -> None:
        self.ask("DELETE", path_of(NodeWorkload, self.namespace, name), {})

    def erase(self, name: str, **more: Any) -> None:
        """As the controller does it for a user: first the word."""
        self.edit(name, erase=f"uid-{name}", **more)
        self.delete(name)

    def ask(self, method: str, path: str, body: Raw) -> None:
        refuses, self.server.refuses = self.server.refuses, lambda _: None
        try:
            status, answer = self.server.handle(Request(method, path, body, "merge" if method == "PATCH" else ""))
        finally:
            self.server.refuses = refuses
            self.server.requests.pop()
        assert status < 400, (path, answer)

    # -- what there is

    def gridnode(self) -> GridNode:
        return GridNode.model_validate(self.server.objects[path_of(GridNode, "", self.NAME)])

    def workload(self, name: str) -> NodeWorkload | None:
        raw = self.server.objects.get(path_of(NodeWorkload, self.namespace, name))
        return KINDS.workload.model_validate(raw) if raw is not None else None

    def ready(self, name: str) -> str:
        """``True Succeeded: …``; empty: nothing is said of it."""
        workload = self.workload(name)
        condition = workload.status.condition("Ready") if workload is not None else None
        return f"{condition.status} {condition.reason}: {condition.message}" if condition is not None else ""

    def lease(self) -> Raw | None:
        return self.server.objects.get(path_of(Lease, self.namespace, "agent"))

    def written(self, model: type[Object]) -> list[Request]:
        return [one for one in self.server.writes if f"/{model.PLURAL}" in one.path]

    def metric(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)

    # -- the agent

    @contextlib.asynccontextmanager
    async def agent(self) -> AsyncIterator[asyncio.Task[None]]:
        task = asyncio.create_task(main.run(self.settings, self.kinds))
        try:
            yield task
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _equip(self, settings: Settings, keyring: Keyring) -> SimpleNamespace:
        served = self.served = drivers(self.node)
        for driver in served:
            self._tell_of_closing(driver)
        return SimpleNamespace(
            drivers=tuple(served),
            features=lambda: NodeFeatures(wireguard="kernel", accelerator="kvm"),
            endpoints=tuple,
            usage=tuple,
            images=ImageMeasures,
            guest_use=self._guest_use,
            guests=dict,
        )

    async def _guest_use(self) -> dict[str, GuestUse]:
        return {}

    def _tell_of_closing(self, driver: Any) -> None:
        close = driver.close

        async def closing() -> None:
            self.closed.append(type(driver).__name__)
            await close()

        driver.close = closing

    def _changed(self, key: Key, raw: Raw | None) -> None:
        before = self._last.get(key)
        if raw is None:
            self._last.pop(key, None)
            for tell in [*self.watching]:
                tell("DELETED", key, before or {})
            return
        self._last[key] = raw
        for tell in [*self.watching]:
            tell("ADDED" if before is None else "MODIFIED", key, raw)


@contextlib.contextmanager
def refusing(home: Home, status: int, words: str, plural: str, method: str = "PATCH") -> Iterator[None]:
    """The API server answers such writes like that."""

    def answer(request: Request) -> tuple[int, str] | None:
        return (status, words) if request.method == method and f"/{plural}" in request.path else None

    home.server.refuses, before = answer, home.server.refuses
    try:
        yield
    finally:
        home.server.refuses = before
