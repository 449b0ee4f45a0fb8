"""A node that will never come back, and that its administrator has given up: how everything ends that was there, what of it can
be had again elsewhere, and what follows should the node be back after all."""

from __future__ import annotations

import pytest

from wholegrid import Agent, Grid, standing
from zos.api.contract import Claim, Contract, NameContract
from zos.api.core import Namespace
from zos.api.gridnode import GridNode
from zos.api.meta import ABANDON, Object
from zos.api.network import Network
from zos.api.nodeworkload import NodeWorkload
from zos.api.publicip import PublicIP
from zos.api.quota import Quota
from zos.api.zmachine import ZMachine
from zos.api.zmount import ZMount
from zos.plan.items import Domain


@pytest.fixture
async def grid() -> Grid:
    made = await standing()
    made.put(Namespace, {"metadata": {"name": "default", "labels": {"plan": "small"}}})
    made.put(Quota, {"metadata": {"name": "all"}, "spec": {"namespaces": {}, "machines": 2, "storage": "30Gi"}})
    await made.settle(60)
    return made


async def gives_up(grid: Grid) -> Agent:
    """n1, whose agent has died."""
    agent = grid.agents.pop("n1")
    grid.alive("n1", False)
    uid = grid.get(GridNode, "", "n1").uid
    grid.delete(GridNode, "", "n1")
    await grid.settle(60)
    said = grid.ready(GridNode, "", "n1")
    assert said.startswith("False DeletionBlocked: waits for "), "what is there is named first, with the way out"
    assert f"{ABANDON}={uid} gives up what is there" in said
    grid.annotate(GridNode, "", "n1", **{ABANDON: uid})
    await grid.settle(100)
    return agent


def stands(grid: Grid) -> dict[str, str]:
    kinds: tuple[type[Object], ...] = (GridNode, Network, ZMachine, ZMount, PublicIP, Contract, NameContract)
    return {f"{m.KIND} {one.name}": grid.ready(m, one.namespace, one.name) for m in kinds for one in grid.of(m)}


async def test_everything_that_was_there_says_how_it_ends(grid: Grid) -> None:
    await gives_up(grid)
    why = "node n1 is not in the grid any more and has its data: apply its GridNode again, or delete this object"
    removed = f"False NodeRemoved: {why}"
    found = stands(grid)
    assert found == {
        "GridNode n2": "True Succeeded: ",
        # It is n1's still for the machine that has its place there.
        "Network net": "False DependencyNotReady: node n1 does not exist: kubectl get gridnodes shows those that do",
        "ZMachine web": removed,
        "ZMachine bare": "True Succeeded: the guest runs",
        "ZMount data": removed,
        "PublicIP address": found["PublicIP address"],
        "Contract contract": "True Succeeded: 2 addresses reserved, 1 in use",
        "NameContract shop": "True Succeeded: holds shop",
    }
    assert found["PublicIP address"].endswith("used by ZMachine web"), "nobody else gets it while its machine stands"
    assert {workload.namespace for workload in grid.of(NodeWorkload)} == {"zos-node-n2"}
    assert grid.problems == {}
    (quota,) = grid.of(Quota)
    assert quota.status.used[0].used.machines == 1, "what is on no node is not held"


async def test_what_was_there_can_be_deleted_and_had_again_elsewhere(grid: Grid) -> None:
    await gives_up(grid)
    machine, mount = (grid.raw(model, "default", name) for model, name in ((ZMachine, "web"), (ZMount, "data")))
    assert machine is not None
    assert mount is not None
    grid.delete(ZMachine, "default", "web")
    grid.delete(ZMount, "default", "data")
    await grid.settle(100)
    assert "ZMachine web" not in stands(grid)
    assert "ZMount data" not in stands(grid)
    assert stands(grid)["Network net"].startswith("True")
    assert [entry.name for entry in grid.get(Network, "default", "net").status.nodes] == ["n2"]
    assert stands(grid)["PublicIP address"].endswith("not used by a machine")
    grid.put(ZMount, {"metadata": {"name": "data"}, "spec": mount["spec"]}, "default")
    spec = {name: value for name, value in machine["spec"].items() if name not in ("publicIP", "nodeName")}
    grid.put(ZMachine, {"metadata": {"name": "web"}, "spec": spec}, "default")
    await grid.settle(60)
    assert stands(grid)["ZMount data"].startswith("True")
    assert stands(grid)["ZMachine web"].startswith("True"), "with a disk that is new and empty, as its user has seen"
    for model, name in ((ZMachine, "web"), (ZMachine, "bare"), (ZMount, "data"), (Network, "net"), (PublicIP, "address")):
        grid.delete(model, "default", name)
    grid.delete(Contract, "default", "contract")
    grid.delete(NameContract, "default", "shop")
    await grid.settle(100)
    assert [*stands(grid)] == ["GridNode n2"]
    assert grid.of(Claim) == []
    assert grid.of(NodeWorkload) == []


async def test_a_node_that_is_back_after_all_goes_on_whatever_its_namespace_may_hold_by_now(grid: Grid) -> None:
    before = grid.raw(GridNode, "", "n1")
    assert before is not None
    agent = await gives_up(grid)
    (guest,) = (item for item in agent.node.things.values() if isinstance(item, Domain))
    grid.edit(Quota, "", "all", machines=1)
    await grid.settle(60)
    grid.agents["n1"] = agent
    grid.alive("n1")
    told = {
        name: value for name, value in before["status"].items() if name in ("capacity", "agentVersion", "sealingKey", "prekeys")
    }
    left = {
        "uid": grid.get(ZMachine, "default", "web").uid, "kind": "ZMachine", "namespace": "default", "name": "web",
        "running": True, "cpu": 1, "memory": "1152Mi", "storage": "1Gi",
    }  # fmt: skip
    grid.put(GridNode, {"metadata": {"name": "n1"}, "spec": before["spec"], "status": {**told, "quarantine": [left]}})
    await grid.settle(100)
    assert stands(grid)["ZMachine web"].startswith("True"), grid.problems
    assert agent.node.things[f"domain/{guest.name}"] == guest


async def test_rights_that_somebody_deleted_are_given_anew_when_its_agent_falls_silent(grid: Grid) -> None:
    """Nobody tells the controller of it otherwise."""
    account = "/api/v1/namespaces/zos-node-n1/serviceaccounts/agent"
    binding = "/apis/rbac.authorization.k8s.io/v1/namespaces/zos-node-n1/rolebindings/zos-agent"
    for path in (account, binding):
        grid.ask("DELETE", path, {})
        assert path not in grid.server.objects
    grid.alive("n1", False)
    await grid.settle(60)
    assert {account, binding} <= grid.server.objects.keys()
