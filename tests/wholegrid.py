"""A grid in one process in which all that decides and writes is real: the controller's resolving, ledger and executor, and on
each node lowering, converging, reporting and the writing of statuses. The API server is in memory (`memory`), nodes are dicts
(`zos.agent.simulation`), and time goes on only when nothing else is left to do."""

from __future__ import annotations

import asyncio
import base64
import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from random import Random
from typing import Any

import yaml
from nacl.exceptions import CryptoError
from nacl.public import PrivateKey, SealedBox

from memory import MemoryClient, Request, Server
from zos.agent import knowledge
from zos.agent.converge import Converger, Pass
from zos.agent.simulation import Node, drivers
from zos.agent.statuses import Statuses
from zos.api import names
from zos.api.core import CustomResourceDefinition, Secret
from zos.api.gridnode import GridNode
from zos.api.meta import GROUP, Key, Meta, Object
from zos.api.nodeworkload import NodeWorkload, Owner
from zos.api.zmachine import ZMachine
from zos.controller.executor import Executor, Refused
from zos.controller.ledger import Ledger, Lost
from zos.controller.main import watched
from zos.controller.resolving import resolved
from zos.controller.writing import Exchange
from zos.kinds.registry import KINDS
from zos.kube.client import ApiError, Raw, Unavailable, path_of
from zos.plan.facts import Facts, LostKeyFact
from zos.world.heartbeat import Heartbeat
from zos.world.store import World

_MODELS = {each.model.KIND: each.model for each in watched(KINDS)}
#: Seconds for which it goes on when only time can change anything: what is put off for longer is waited for by who asks for it.
_SOON = 4.0


class Agent:
    """A node and what runs on it. ``idle``: it hears and does nothing. ``lost_keys``: WireGuard keys that it has no more."""

    def __init__(self, grid: Grid, name: str) -> None:
        self.grid = grid
        self.name = name
        self.namespace = names.node_namespace(name)
        self.node = Node(prefixes=("192.0.2.0/24",))
        self.idle = False
        self.lost_keys: frozenset[str] = frozenset()
        self.workloads: dict[str, NodeWorkload] = {}
        self.owners: dict[str, Owner] = {}
        self.key = PrivateKey(name.encode().ljust(32, b"."))
        self._served = drivers(self.node)
        self._stirred = asyncio.Event()
        self.converger = Converger(
            self._served,
            KINDS.on_node,
            self.facts,
            changed=self._stirred.set,
            slow_done=lambda op, ok: None,
            clock=lambda: grid.time,
            wall=lambda: grid.time,
        )
        self.converger.watch()
        self.statuses = Statuses(grid.client, self.workloads.get, lambda: grid.time, grid.now)

    @property
    def sealing_key(self) -> str:
        return base64.b64encode(bytes(self.key.public_key)).decode()

    def facts(self, workloads: Mapping[str, NodeWorkload]) -> Facts:
        return Facts(
            node=self.name,
            now=self.grid.time,
            nameservers=("9.9.9.9",),
            secrets=self._opened(workloads),
            known={**knowledge.known(self._served), LostKeyFact: dict.fromkeys(self.lost_keys, LostKeyFact())},
            unknown=knowledge.unseen(self.converger.blind()),
        )

    def _opened(self, workloads: Mapping[str, NodeWorkload]) -> dict[tuple[str, str], str]:
        found = {}
        for name, workload in workloads.items():
            for sealed in workload.spec.secrets:
                try:
                    found[name, sealed.name] = SealedBox(self.key).decrypt(base64.b64decode(sealed.value)).decode()
                except CryptoError:
                    continue  # of another key
        return found

    async def work(self) -> float | None:
        """Passes until nothing asks for another one, and what that makes of statuses. Gives when there is more to do."""
        result = Pass()
        for _ in range(30):
            self._stirred.clear()
            self.owners |= {name: workload.spec.owner for name, workload in self.workloads.items()}
            orders = self.grid.get(GridNode, "", self.name).spec.quarantine
            result = await self.converger.converge(self.workloads, may_remove=True, origins=self.owners, orders=orders)
            if self.converger.underway:
                await asyncio.wait_for(self._stirred.wait(), 5)
            elif not result.again and not self._stirred.is_set():
                break
        else:
            raise AssertionError(f"node {self.name} doesn't settle")
        shown = [one.wire() for one in result.quarantine]
        node = self.grid.raw(GridNode, "", self.name)
        if node is not None and node.get("status", {}).get("quarantine", []) != shown:
            body = {"status": {"quarantine": shown}}
            await self.grid.client.patch(GridNode, "", self.name, body, subresource="status")
        self.statuses.offer(dict(self.workloads), result.reports, result.clean)
        delay = await self.statuses.write()
        times = [self.grid.time + delay] if delay is not None else []
        return min([*times, *([result.wake_at] if result.wake_at is not None else [])], default=None)


class Grid:
    """``problems`` are objects whose writes the API server refused, with its words. ``time`` in seconds. ``crowd``: what is to
    be resolved is carried out all at once, in that order of chance, and each write takes as long as it likes."""

    def __init__(self, crowd: Random | None = None) -> None:
        self.time = 1000.0
        self.server = Server()
        self.client = MemoryClient(self.server)
        self.client.dawdles = crowd
        self._crowd = crowd
        self.world = World(KINDS.indexes())
        exchange = Exchange(self.client, self.world, self._absorb, self.changed, self._again)
        self.ledger = Ledger(exchange, lambda: self.time, gather=0.0)
        self.executor = Executor(exchange, KINDS, self.ledger, self._secrets_of, lambda: self.time)
        self.agents: dict[str, Agent] = {}
        self.led = True  # else no controller decides anything
        self.problems: dict[Key, str] = {}
        self._events: list[tuple[Key, Raw | None]] = []
        self._due: dict[Key, None] = {}
        self._later: dict[Key, float] = {}
        self.server.hears.append(lambda key, raw: self._events.append((key, raw)))
        for model in KINDS.models:
            self.put(CustomResourceDefinition, {"metadata": {"name": f"{model.PLURAL}.{GROUP}"}})

    # -- what people do

    def put(self, model: type[Object], body: Raw, namespace: str = "") -> None:
        """As `kubectl apply` does it; a status is written as well where the body has one."""
        body = copy.deepcopy(body)
        status = body.pop("status", None)
        path = path_of(model, namespace, body["metadata"]["name"])
        if path in self.server.objects:
            self.ask("PATCH", path, {key: value for key, value in body.items() if key != "kind"}, "merge")
        else:
            self.ask("POST", path_of(model, namespace), body)
        if status is not None:
            self.ask("PATCH", f"{path}/status", {"status": status}, "merge")

    def edit(self, model: type[Object], namespace: str, name: str, **spec: Any) -> None:
        self.ask("PATCH", path_of(model, namespace, name), {"spec": spec}, "merge")

    def annotate(self, model: type[Object], namespace: str, name: str, **annotations: str) -> None:
        self.ask("PATCH", path_of(model, namespace, name), {"metadata": {"annotations": annotations}}, "merge")

    def delete(self, model: type[Object], namespace: str, name: str) -> None:
        self.ask("DELETE", path_of(model, namespace, name), {})

    def load(self, path: Path) -> None:
        """The objects of a case. A node in it gets an agent."""
        for raw in yaml.safe_load_all(path.read_text()):
            kind, meta = raw.pop("kind"), raw["metadata"]
            if kind == Heartbeat.KIND:
                continue
            if kind == "Namespace" and f"/api/v1/namespaces/{meta['name']}" in self.server.objects:
                continue
            model = _MODELS[kind]
            if kind == GridNode.KIND:
                agent = self.agents[meta["name"]] = Agent(self, meta["name"])
                raw["status"] = {**raw.get("status", {}), "sealingKey": agent.sealing_key}
                self.alive(meta["name"])
            self.put(model, raw, "default" if model.NAMESPACED else "")

    def alive(self, node: str, alive: bool = True) -> None:
        """What the controller thinks of an agent."""
        self.changed(self.world.put(Heartbeat(metadata=Meta(name=node, uid=node), alive=alive)))

    def ask(self, method: str, path: str, body: Raw, content: str = "") -> None:
        status, answer = self.server.handle(Request(method, path, body, content))
        assert status < 400, (path, answer)

    # -- what there is

    def raw(self, model: type[Object], namespace: str, name: str) -> Raw | None:
        return self.server.objects.get(path_of(model, namespace, name))

    def get(self, model: type[Object], namespace: str, name: str) -> Any:
        raw = self.raw(model, namespace, name)
        assert raw is not None, f"there is no {model.KIND} {namespace}/{name}"
        return _MODELS.get(model.KIND, model).model_validate(raw)

    def of(self, model: type[Object]) -> list[Any]:
        return [_MODELS.get(model.KIND, model).model_validate(raw) for raw in self.server.of(model)]

    def ready(self, model: type[Object], namespace: str, name: str) -> str:
        """``True Succeeded: the guest runs``"""
        condition = self.get(model, namespace, name).status.condition("Ready")
        return f"{condition.status} {condition.reason}: {condition.message}" if condition is not None else ""

    def workload(self, node: str, kind: str) -> NodeWorkload:
        (found,) = [w for w in self.of(NodeWorkload) if w.namespace == names.node_namespace(node) and w.spec.owner.kind == kind]
        assert isinstance(found, NodeWorkload)
        return found

    # -- going on

    def now(self) -> str:
        seconds = int(self.time)
        return f"2026-01-01T{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}Z"

    def resync(self) -> None:
        for kind in KINDS:
            for obj in self.world.all(kind):
                self._due[obj.key] = None

    async def settle(self, seconds: float = _SOON) -> None:
        """Until nothing is left to do, and nothing will be within so many seconds."""
        until = self.time + seconds
        for _ in range(400):
            self._hear()
            before = len(self.server.requests)
            if self.led:
                await self._resolve()
            times = list(self._later.values()) if self.led else []
            for agent in self.agents.values():
                self._hear()
                if not agent.idle:
                    times.append(await agent.work() or until + 1)
            if (
                (self._due and self.led)
                or self._events
                or len(self.server.writes) != len([r for r in self.server.requests[:before] if _writes(r)])
            ):
                continue
            if not times or min(times) > until:
                return
            self.time = max(self.time, min(times))
            for key in [key for key, at in self._later.items() if at <= self.time]:
                del self._later[key]
                self._due[key] = None
        raise AssertionError(f"it never comes to rest: {[*self._due]}, {self.problems}")

    async def _resolve(self) -> None:
        while self._due:
            keys = [*self._due]
            if self._crowd is None:
                del self._due[keys[0]]
                await self._one(keys[0])
            else:
                self._crowd.shuffle(keys)
                self._due.clear()
                await asyncio.gather(*map(self._one, keys))

    async def _one(self, key: Key) -> None:
        obj = self.world.peek(key)
        if obj is None:
            self.world.forget(key)
            return
        try:
            reader = self.world.reader(key)
            if KINDS[obj.KIND].finalized:  # as the controller does it
                reader.views(NodeWorkload, lambda w: (w.key, w.hindrance, w.deleting), owner=obj.uid)
            await self.executor.carry_out(obj, resolved(KINDS[obj.KIND], obj, reader))
            self.problems.pop(key, None)
        except (Lost, Refused, ApiError, Unavailable) as why:  # again after a moment, as the queue does it
            self.problems[key] = str(why)
            news = self._due.pop(key, self) is None
            self._again(key, 0.2 if news or not isinstance(why, Refused) else 1.0)
        self._hear()

    def _hear(self) -> None:
        while self._events:
            key, raw = self._events.pop(0)
            if key.kind == NodeWorkload.KIND:
                for agent in self.agents.values():
                    if agent.namespace == key.namespace and raw is not None:
                        agent.workloads[key.name] = KINDS.workload.model_validate(raw)
                    elif agent.namespace == key.namespace:
                        agent.workloads.pop(key.name, None)
            if key.kind in _MODELS and key.kind != "Lease":
                self._absorb(key, raw)

    def _absorb(self, key: Key, raw: Raw | None, foreseen: Object | None = None) -> None:
        """As the controller does it, which see."""
        if raw is None:
            self.ledger.forget(key)
            self.changed(self.world.remove(key))
            return
        known = self.world.peek(key)
        version = int(raw["metadata"]["resourceVersion"])
        if known is not None and known.uid == raw["metadata"]["uid"] and int(known.metadata.resource_version or 0) >= version:
            return
        obj = _MODELS[key.kind].model_validate(raw)
        self.changed(self.world.put(self.ledger.rebase(key, obj)))

    def _secrets_of(self, uid: str) -> tuple[Secret, ...]:
        found = [secret for secret in self.world.all(Secret.KIND) if isinstance(secret, Secret)]
        return tuple(secret for secret in found if any(owner.uid == uid for owner in secret.metadata.owner_references))

    def changed(self, keys: Iterable[Key]) -> None:
        for key in keys:
            if key.kind in KINDS:
                self._due[key] = None

    def _again(self, key: Key, after: float) -> None:
        if after <= 0:
            self._due[key] = None
        else:
            self._later[key] = min(self._later.get(key, self.time + after), self.time + after)


def _writes(request: Request) -> bool:
    return request.method != "GET" and not request.path.endswith("/events")


async def standing() -> Grid:
    """A grid in which something of each kind is Ready."""
    made = Grid()
    made.load(Path(__file__).parent / "golden" / "vanished.yaml")
    bare = {"image": "oci://r/i:t", "network": {"name": "net"}, "nodeName": "n2"}
    made.put(ZMachine, {"metadata": {"name": "bare"}, "spec": bare}, "default")
    await made.settle()
    return made
