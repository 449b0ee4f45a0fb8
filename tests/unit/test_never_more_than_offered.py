"""However many ask at once, and whatever is changed meanwhile: no node has more held of it than it offers, and no namespace
holds more than it may. Who waits is served when something is given back."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from wholegrid import Grid
from zos.api.contract import Contract
from zos.api.core import Namespace
from zos.api.farm import Farm
from zos.api.gridnode import GridNode
from zos.api.meta import Key, Object
from zos.api.network import Network
from zos.api.quota import Amounts, Quota
from zos.api.resources import Resources
from zos.api.zmachine import ZMachine
from zos.api.zmount import ZMount
from zos.kube.client import Raw

NODES = ("n1", "n2", "n3")
TEAMS = ("team-a", "team-b", "free")
LIMITS = {"cpu": 14, "memory": "9Gi", "storage": "60Gi", "machines": 7, "publicIPv4": 5}
GIB = 2**30


def node(number: int) -> str:
    return f"""
kind: GridNode
metadata: {{name: n{number}}}
spec: {{endpoint: {{ipv4: 198.51.100.{number}}}, cpuOvercommitPercent: {50 + 50 * number}}}
status:
  capacity: {{cpu: 8, memory: 8Gi, storage: 40Gi}}
  agentVersion: 9.9.9
  prekeys: [key-{number}-1, key-{number}-2, key-{number}-3, key-{number}-4]
"""


class Watch:
    """Looks at every write of a pool, as the API server has it then."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._before: dict[str, Resources] = {}
        self.wrong: list[str] = []
        self.held: dict[str, Amounts] = {}
        grid.server.hears.append(self._heard)

    def _heard(self, key: Key, raw: Raw | None) -> None:
        if raw is not None and key.kind == GridNode.KIND:
            one = GridNode.model_validate(raw)
            held, before = one.allocated(one.status.holds), self._before.get(one.name, Resources())
            self._before[one.name] = held
            for what in Resources.model_fields:
                now, most = getattr(held, what), getattr(one.offered, what)
                if now > most and now > getattr(before, what):
                    self.wrong.append(f"{one.name}: {what} {now} of {most}")
        if raw is not None and key.kind in (GridNode.KIND, Contract.KIND):
            for team in TEAMS[:2]:
                self._judge(team)

    def _judge(self, team: str) -> None:
        held = Amounts()
        for one in self._grid.of(GridNode):
            for hold in one.status.holds:
                if f" {team}/" in hold.owner:
                    machines = int(hold.owner.startswith("ZMachine "))
                    held += Amounts(cpu=hold.cpu, memory=hold.memory, storage=hold.storage, machines=machines)
        for contract in self._grid.of(Contract):
            if contract.namespace == team:
                held += Amounts(public_ipv4=len({*contract.status.reserved, *contract.status.taking}))
        before = self.held.get(team, Amounts())
        self.held[team] = held
        for quota in self._grid.of(Quota):
            for words in quota.spec.above(held):
                what = words.split()[0].replace("publicIPv4", "public_ipv4")
                if getattr(held, what) > getattr(before, what):
                    self.wrong.append(f"{team}: {words}")


async def crowded(chance: Random, path: Any) -> tuple[Grid, Watch]:
    grid = Grid(chance)
    (path / "nodes.yaml").write_text("---".join(node(number) for number in (1, 2, 3)))
    watch = Watch(grid)
    for number, team in enumerate(TEAMS):
        labels = {"plan": "small"} if team != "free" else {}
        grid.put(Namespace, {"metadata": {"name": team, "labels": labels}})
        grid.put(Network, {"metadata": {"name": "net"}, "spec": {"ipRange": f"10.{20 + number}.0.0/16"}}, team)
    grid.put(
        Farm,
        {
            "metadata": {"name": "lab"},
            "spec": {"publicIPv4": [{"range": "203.0.113.0/24", "gateway": "203.0.113.1"}], "allowNonGlobal": True},
        },
    )
    grid.put(Quota, {"metadata": {"name": "small"}, "spec": {"namespaces": {"matchLabels": {"plan": "small"}}, **LIMITS}})
    grid.load(path / "nodes.yaml")
    await grid.settle()
    return grid, watch


def one_more(grid: Grid, chance: Random, name: str) -> tuple[type[Object], str, str]:
    team, kind = chance.choice(TEAMS), chance.choice((ZMachine, ZMachine, ZMount, Contract))
    spec: Raw
    if kind is ZMachine:
        memory = f"{chance.choice((512, 1024, 2048))}Mi"
        spec = {"image": "oci://r/i:t", "network": {"name": "net"}, "cpu": chance.randint(1, 4), "memory": memory}
        spec |= {"nodeName": chance.choice(NODES)} if chance.random() < 0.3 else {}
    elif kind is ZMount:
        spec = {"size": f"{chance.randint(1, 20)}Gi"}
    else:
        spec = {"farm": "lab", "publicIPv4": chance.randint(1, 3)}
    grid.put(kind, {"metadata": {"name": name}, "spec": spec}, team)
    return kind, team, name


def change(grid: Grid, chance: Random, there: list[tuple[type[Object], str, str]]) -> None:
    kind, team, name = chance.choice(there)
    if chance.random() < 0.5:
        there.remove((kind, team, name))
        grid.delete(kind, team, name)
    elif kind is ZMachine:
        grid.edit(kind, team, name, cpu=chance.randint(1, 8))
    elif kind is ZMount:
        grid.edit(kind, team, name, size=f"{chance.randint(1, 40)}Gi")
    else:
        grid.edit(kind, team, name, publicIPv4=chance.randint(1, 4))


@pytest.mark.parametrize("seed", range(6))
async def test_nothing_is_promised_twice_however_many_ask_at_once(seed: int, tmp_path: Any) -> None:
    chance = Random(seed)
    grid, watch = await crowded(chance, tmp_path)
    there: list[tuple[type[Object], str, str]] = []
    waited: set[str] = set()
    step = 0
    while step < 8 or not waited >= {"InsufficientCapacity", "QuotaExceeded"}:  # which of them comes when is chance
        step += 1
        assert step < 40, "too little was asked for"
        there += [one_more(grid, chance, f"o{step}-{number}") for number in range(chance.randint(4, 9))]
        for _ in range(chance.randint(0, 4)):
            change(grid, chance, there)
        grid.edit(GridNode, "", chance.choice(NODES), cpuOvercommitPercent=chance.choice((100, 150, 250)))
        await grid.settle(60)
        for kind, team, name in there:
            waited.add(grid.ready(kind, team, name).split(":")[0].split()[-1])
    assert watch.wrong == []
    held = {one.name: one.status.holds for one in grid.of(GridNode)}
    grid.resync()  # and nobody has been forgotten who could have something by now
    await grid.settle(60)
    assert {one.name: one.status.holds for one in grid.of(GridNode)} == held


async def test_a_namespace_that_may_have_no_more_waits_until_something_is_given_back(tmp_path: Any) -> None:
    grid, watch = await crowded(Random(0), tmp_path)
    spec = {"image": "oci://r/i:t", "network": {"name": "net"}, "cpu": 5, "memory": "512Mi"}
    for number in range(3):
        grid.put(ZMachine, {"metadata": {"name": f"m{number}"}, "spec": spec}, "team-a")
    await grid.settle(60)
    said = [grid.ready(ZMachine, "team-a", f"m{number}") for number in range(3)]
    (refused,) = [words for words in said if not words.startswith("True")]
    assert refused == (
        "False QuotaExceeded: cpu: 10 of 14 used, 5 asked (Quota small); delete something, ask for less, or have an "
        "administrator raise it"
    )
    waits = f"m{said.index(refused)}"
    (quota,) = grid.of(Quota)
    assert [(one.namespace, one.used.cpu, one.used.machines) for one in quota.status.used] == [("team-a", 10, 2)]
    grid.put(ZMachine, {"metadata": {"name": "m"}, "spec": spec}, "free")
    await grid.settle(60)
    assert grid.ready(ZMachine, "free", "m").startswith("True"), "another namespace has nothing to do with it"
    gone = next(f"m{number}" for number in range(3) if f"m{number}" != waits)
    grid.delete(ZMachine, "team-a", gone)
    await grid.settle(60)
    assert grid.ready(ZMachine, "team-a", waits).startswith("True")
    assert watch.wrong == []


async def test_a_quota_that_changes_goes_or_selects_others_is_heard_of_and_takes_nothing_away(tmp_path: Any) -> None:
    grid, _ = await crowded(Random(1), tmp_path)
    spec = {"image": "oci://r/i:t", "network": {"name": "net"}, "cpu": 4, "memory": "512Mi"}
    grid.put(ZMachine, {"metadata": {"name": "first"}, "spec": spec}, "team-a")
    await grid.settle(60)
    grid.edit(Quota, "", "small", cpu=1)
    await grid.settle(60)
    assert grid.ready(ZMachine, "team-a", "first").startswith("True")
    assert grid.ready(Quota, "", "small").endswith("held by: team-a (cpu 4 of 1)")
    grid.put(ZMachine, {"metadata": {"name": "second"}, "spec": spec}, "team-a")
    await grid.settle(60)
    assert "cpu: 4 of 1 used, 4 asked" in grid.ready(ZMachine, "team-a", "second")
    grid.edit(Quota, "", "small", cpu=8)
    await grid.settle(60)
    assert grid.ready(ZMachine, "team-a", "second").startswith("True")
    grid.edit(Quota, "", "small", machines=2)
    for name in ("third", "fourth"):
        grid.put(ZMachine, {"metadata": {"name": name}, "spec": spec | {"cpu": 1}}, "team-a")
    grid.put(ZMachine, {"metadata": {"name": "third"}, "spec": spec}, "team-b")
    await grid.settle(60)
    assert "machines: 2 of 2 used" in grid.ready(ZMachine, "team-a", "third")
    grid.put(Namespace, {"metadata": {"name": "team-a", "labels": {"plan": "large"}}})
    await grid.settle(60)
    assert grid.ready(ZMachine, "team-a", "third").startswith("True")
    grid.put(Namespace, {"metadata": {"name": "team-a", "labels": {"plan": "small"}}})
    grid.edit(ZMachine, "team-a", "fourth", cpu=2)
    grid.delete(Quota, "", "small")
    await grid.settle(60)
    assert grid.of(Quota) == []
    assert grid.ready(ZMachine, "team-a", "fourth").startswith("True")
