"""Lives of objects of each kind, as the API server shows them, from their first moment over all that may become of them to
their last. Everything that decides and writes is real (`wholegrid`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kstatus import served
from wholegrid import Grid
from zos.api.contract import Contract, NameContract
from zos.api.farm import Farm
from zos.api.gridnode import GridNode
from zos.api.meta import Key, Object
from zos.api.network import Network
from zos.api.publicip import PublicIP
from zos.api.quota import Quota
from zos.api.zmachine import ZMachine
from zos.api.zmount import ZMount
from zos.kinds.registry import KINDS
from zos.kube.client import Raw

_CASE = Path(__file__).parent / "golden" / "vanished.yaml"
_NEAR = {"image": "oci://r/i:t", "network": {"name": "net"}, "nodeName": "n2"}


@dataclass(frozen=True)
class Moment:
    """An object after a change. ``chapter`` says what was done to it, or to what it needs."""

    chapter: str
    raw: Raw

    @property
    def name(self) -> str:
        """``ZMachine default/web``; a NodeWorkload has the name of what it is for."""
        raw, meta = self.raw, self.raw["metadata"]
        of = f"{raw['spec']['owner']['kind']} {raw['spec']['owner']['name']}" if raw["kind"] == "NodeWorkload" else meta["name"]
        return f"{raw['kind']} {meta['namespace']}/{of}" if meta.get("namespace") else f"{raw['kind']} {of}"


class Recorder:
    """Keeps each moment that differs from the one before in what it says: not in numbers, times and addresses."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.chapter = ""
        self.moments: list[Moment] = []
        self._last: dict[Key, tuple[Any, ...]] = {}
        grid.server.hears.append(self._hear)

    def _hear(self, key: Key, raw: Raw | None) -> None:
        if key.kind not in KINDS or raw is None or "status" not in KINDS[key.kind].model.model_fields:
            return
        raw = served(raw)
        status, meta = raw["status"], raw["metadata"]
        said = tuple((found["type"], found["status"], found["reason"]) for found in status.get("conditions", ()))
        shape = (key.kind, "deletionTimestamp" in meta, status["observedGeneration"] == meta["generation"], said)
        if shape != self._last.get(key):
            self.moments.append(Moment(self.chapter, raw))
        self._last[key] = shape


async def recorded() -> list[Moment]:
    """From created to gone."""
    grid = Grid()
    told = Recorder(grid)

    async def then(chapter: str, seconds: float = 4.0) -> None:
        told.chapter = chapter
        await grid.settle(seconds)

    def do(chapter: str) -> None:
        told.chapter = chapter

    do("created")
    grid.led = False
    grid.load(_CASE)
    grid.put(ZMachine, {"metadata": {"name": "bare"}, "spec": _NEAR}, "default")
    labels = {"matchLabels": {"team": "a"}}
    grid.put(Quota, {"metadata": {"name": "small"}, "spec": {"namespaces": labels, "cpu": 8}})
    grid.led = True
    await then("made")

    do("changed")
    for agent in grid.agents.values():
        agent.idle = True
    grid.edit(ZMachine, "default", "bare", cpu=2)
    grid.edit(ZMount, "default", "data", size="12Gi")
    grid.edit(Network, "default", "net", mtu=1400)
    grid.edit(GridNode, "", "n1", unschedulable=True)
    grid.edit(GridNode, "", "n1", unschedulable=False)
    grid.edit(Contract, "default", "contract", publicIPv4=3)
    grid.edit(PublicIP, "default", "address", ipv6=False)
    grid.edit(Quota, "", "small", cpu=9)
    grid.edit(Farm, "", "lab", publicIPv6=[])
    await grid.settle()
    for agent in grid.agents.values():
        agent.idle = False
    grid.edit(Farm, "", "lab", publicIPv6=[{"prefix": "2001:db8:1::/64"}])
    await then("changed, and done", 60)

    do("halted")
    grid.edit(ZMachine, "default", "bare", runPolicy="Halted")
    await then("halted", 60)
    grid.edit(ZMachine, "default", "bare", runPolicy="Always")
    await then("started again", 60)

    do("its node is under maintenance")
    grid.edit(GridNode, "", "n1", maintenance=True)
    await grid.settle(60)
    grid.edit(GridNode, "", "n1", maintenance=False)
    await then("its maintenance is over", 60)

    do("its node does not answer")
    grid.alive("n1", False)
    await grid.settle()
    grid.alive("n1")
    await then("its node answers again")

    do("it fails on its node")
    node = grid.agents["n1"].node
    (root,) = [key for key in node.things if key.startswith("disk/root-")]
    node.faults[root] = "no space left"
    grid.edit(ZMachine, "default", "web", rootSize="8Gi")
    await grid.settle()
    del node.faults[root]
    await then("it fails no more", 400)

    do("it asks for too much")
    grid.put(ZMachine, {"metadata": {"name": "huge"}, "spec": {**_NEAR, "memory": "900Gi"}}, "default")
    grid.put(ZMount, {"metadata": {"name": "huge"}, "spec": {"size": "900Gi"}}, "default")
    grid.put(Contract, {"metadata": {"name": "huge"}, "spec": {"farm": "lab", "publicIPv4": 100}}, "default")
    await grid.settle()

    do("it names what is not there")
    grid.put(ZMachine, {"metadata": {"name": "lost"}, "spec": {**_NEAR, "network": {"name": "none"}}}, "default")
    grid.put(PublicIP, {"metadata": {"name": "lost"}, "spec": {"contract": "none"}}, "default")
    grid.put(Contract, {"metadata": {"name": "lost"}, "spec": {"farm": "none", "publicIPv4": 1}}, "default")
    grid.put(GridNode, {"metadata": {"name": "lost"}, "spec": {"farm": "none"}})
    grid.put(Network, {"metadata": {"name": "lost"}, "spec": {"ipRange": "10.30.0.0/16", "nodes": [{"name": "n9"}]}}, "default")
    await grid.settle()

    do("it contradicts itself")
    spec = {"ipRange": "10.40.0.0/16", "nodes": [{"name": "n1"}], "relay": "n9"}
    grid.put(Network, {"metadata": {"name": "odd"}, "spec": spec}, "default")
    await grid.settle()

    do("somebody else has it")
    grid.ask("POST", "/api/v1/namespaces", {"metadata": {"name": "other"}})
    grid.put(NameContract, {"metadata": {"name": "shop"}, "spec": {"name": "shop"}}, "other")
    farm = {"publicIPv4": [{"range": "203.0.113.16/28", "gateway": "203.0.113.17"}], "allowNonGlobal": True}
    grid.put(Farm, {"metadata": {"name": "second"}, "spec": farm})
    await grid.settle()

    do("deleted while it is used")
    used: list[tuple[type[Object], str]] = [(Network, "net"), (ZMount, "data"), (PublicIP, "address"), (Contract, "contract")]
    for model, name in used:
        grid.delete(model, "default", name)
    grid.delete(Farm, "", "lab")
    await grid.settle(10)

    do("deleted")
    for agent in grid.agents.values():
        agent.idle = True
    for machine in grid.of(ZMachine):
        grid.delete(ZMachine, machine.namespace, machine.name)
    await grid.settle(10)
    for agent in grid.agents.values():
        agent.idle = False
    for kind in KINDS.values():
        for obj in grid.of(kind.model) if kind.finalized and kind.model is not GridNode else ():
            grid.delete(kind.model, obj.namespace, obj.name)
    await grid.settle(60)
    grid.agents.clear()  # nothing is on them any more
    for node in grid.of(GridNode):
        grid.delete(GridNode, "", node.name)
    await grid.settle(60)
    left = [obj.key for kind in KINDS.values() for obj in grid.of(kind.model)]
    assert left == [], left
    return told.moments
