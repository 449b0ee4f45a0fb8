"""Controller and agents of this release and of 0.2, side by side: nobody loses anything, and nobody restarts anything."""

from __future__ import annotations

from typing import Any

import pytest

from wholegrid import Grid, standing
from zos.api import names
from zos.api.gridnode import GridNode
from zos.api.meta import Model
from zos.api.network import AddressOwner, Network, NetworkAddress
from zos.api.nodeworkload import NodeWorkload
from zos.kinds.registry import KINDS
from zos.kinds.zmachine.part import MachineOnNode, MachineState
from zos.kinds.zmount.part import MountOnNode, MountState
from zos.kube.client import Raw
from zos.plan.items import Domain

OWNER = {"kind": "ZMachine", "namespace": "default", "name": "web", "uid": "uid-web"}
MACHINE = {"hostname": "web", "image": "oci://r/i:1", "cpu": 1, "memory": "1Gi", "rootSize": "1Gi"}
OLDER = {
    "owner": OWNER,
    "machine": MACHINE | {"sealedEnv": [{"name": "PASSWORD", "source": "s", "value": "eA=="}]},
}
TODAY = {
    "owner": OWNER,
    "part": {"zmachine": MACHINE},
    "secrets": [{"name": "env/PASSWORD", "source": "s", "value": "eA=="}],
}


@pytest.fixture
async def grid() -> Grid:
    return await standing()


def workload(spec: Raw, status: Raw | None = None) -> NodeWorkload:
    return KINDS.workload.model_validate({"metadata": {"name": "w"}, "spec": spec, "status": status or {}})


def test_the_older_form_says_the_same() -> None:
    older, today = workload(OLDER), workload(TODAY)
    assert older.spec.part == today.spec.part
    assert older.spec.secrets == today.spec.secrets
    assert (older.spec.older, today.spec.older) == (True, False)


@pytest.mark.parametrize("spec", [OLDER, TODAY], ids=["older", "today"])
def test_what_is_written_back_is_in_the_form_in_which_it_was_read(spec: Raw) -> None:
    wire = workload(spec).spec.wire()
    assert wire.keys() - {"retain"} == spec.keys()
    assert workload(wire) == workload(spec)
    word = workload(spec).spec.model_copy(update={"erase": "uid-web"}).wire()
    assert word == wire | {"erase": "uid-web"}


@pytest.mark.parametrize(("spec", "member"), [(OLDER, "machine"), (TODAY, "state")], ids=["older", "today"])
def test_a_node_answers_in_the_form_in_which_it_was_asked(spec: Raw, member: str) -> None:
    asked = workload(spec)
    answer = asked.saying(MachineState(state="Running", restarts=2)).wire()
    assert answer.keys() - {"observedGeneration", "conditions"} == {member}
    read = workload(spec, answer)
    assert read.state(MachineState) == MachineState(state="Running", restarts=2)


@pytest.mark.parametrize(
    "spec",
    [
        {"owner": OWNER},
        {"owner": OWNER, "part": {}},
        {"owner": OWNER, "part": {"tomorrow": {"size": "1Gi"}}},
        {"owner": OWNER, "tomorrow": {"size": "1Gi"}},
    ],
)
def test_a_part_that_is_not_known_here_is_no_error_and_no_part(spec: Raw) -> None:
    found = workload(spec)
    assert found.spec.part is None
    assert found.part(MachineOnNode) is None
    assert KINDS.on_node(found) is None


def test_both_forms_at_once_are_read_as_today_says() -> None:
    """An older controller wrote over what this one had written, or the reverse: what is left of the other is no word."""
    found = workload(TODAY | {"mount": {"size": "1Gi"}})
    assert found.part(MachineOnNode) is not None
    assert found.part(MountOnNode) is None
    assert not found.spec.older


def forms(grid: Grid, node: str) -> set[str]:
    """Members of the specs that a node is asked for."""
    raw = grid.server.of(NodeWorkload)
    return {key for one in raw if one["metadata"]["namespace"] == names.node_namespace(node) for key in one["spec"]}


def statuses(grid: Grid, node: str) -> set[str]:
    raw = grid.server.of(NodeWorkload)
    return {key for one in raw if one["metadata"]["namespace"] == names.node_namespace(node) for key in one.get("status", {})}


def starts(grid: Grid) -> dict[str, Any]:
    """What runs on the first node, and with what."""
    return {key: thing for key, thing in grid.agents["n1"].node.things.items() if isinstance(thing, Domain)}


async def test_an_agent_of_release_0_2_is_asked_in_its_words_and_in_todays_when_it_is_upgraded(grid: Grid) -> None:
    before, ran = forms(grid, "n1"), starts(grid)
    assert "part" in before
    assert ran
    grid.put(GridNode, {"metadata": {"name": "n1"}, "status": {"agentVersion": "0.2.0"}})
    await grid.settle()
    assert forms(grid, "n1") - {"owner", "retain"} == {"machine", "mount", "network"}
    assert not {"state"} & statuses(grid, "n1")
    assert "part" in forms(grid, "n2"), "only that node's"
    (sealed,) = next(one for one in grid.server.of(NodeWorkload) if "machine" in one["spec"])["spec"]["machine"]["sealedEnv"]
    assert sealed["name"] == "PASSWORD"
    assert starts(grid) == ran, "it is another way to say the same"
    grid.put(GridNode, {"metadata": {"name": "n1"}, "status": {"agentVersion": "0.3.0"}})
    await grid.settle()
    assert forms(grid, "n1") == before
    assert not {"machine", "mount", "network"} & statuses(grid, "n1")
    assert starts(grid) == ran


async def test_what_an_older_controller_wrote_is_served_and_taken_over(grid: Grid) -> None:
    """A rollback, and the way back."""
    ran = starts(grid)
    grid.led = False
    for found in grid.of(NodeWorkload):
        older = found.spec.model_copy(update={"older": True}).wire()
        grid.edit(NodeWorkload, found.namespace, found.name, **older, part=None, secrets=None)
    await grid.settle()
    assert "part" not in forms(grid, "n1")
    assert "state" not in statuses(grid, "n1")
    assert starts(grid) == ran
    grid.led = True
    grid.resync()
    await grid.settle()
    assert "part" in forms(grid, "n1")
    assert "state" in statuses(grid, "n1")
    assert starts(grid) == ran


def test_the_state_of_a_disk_is_read_in_both_forms() -> None:
    owner = OWNER | {"kind": "ZMount"}
    older = {"owner": owner, "mount": {"size": "1Gi"}}
    assert workload(older, {"mount": {"size": "1Gi", "used": True}}).state(MountState) == MountState(size=2**30, used=True)
    assert workload(older, {"state": {"zmount": {"size": "1Gi"}}}).state(MountState) == MountState(size=2**30)


# -- who has which address of a network


class AddressOf02(Model):
    """As release 0.2 has it."""

    ip: str
    machine: str
    uid: str
    node: str
    next: str | None = None


ADDRESS = {"ip": "10.20.2.2", "machine": "web", "uid": "uid-web", "node": "n1", "next": "10.20.2.3"}


def test_an_address_of_release_0_2_is_a_machines_and_is_written_in_both_forms() -> None:
    read = NetworkAddress.model_validate(ADDRESS)
    assert (read.owner, read.uid) == (AddressOwner(kind="ZMachine", name="web", uid="uid-web"), "uid-web")
    today = NetworkAddress(ip=read.ip, owner=read.owner, node=read.node, next=read.next)
    assert read != today, "its owner writes it anew"
    for one in (read, today):
        wire = one.wire()
        assert wire == ADDRESS | {"owner": {"kind": "ZMachine", "name": "web", "uid": "uid-web"}}
        assert AddressOf02.model_validate(wire).wire() == ADDRESS
        assert NetworkAddress.model_validate(wire) == today


def addresses(grid: Grid) -> Any:
    return grid.get(Network, "default", "net").status.addresses


async def test_who_has_which_address_survives_a_controller_of_release_0_2(grid: Grid) -> None:
    """It writes the whole list in its form, also under today's definitions; so do those of 0.2 leave it."""
    ran, had = starts(grid), addresses(grid)
    assert {(entry.owner.name, entry.older) for entry in had} == {("web", False), ("bare", False)}
    grid.led = False
    written = [AddressOf02.model_validate(entry.wire()).wire() for entry in had]
    grid.put(Network, {"metadata": {"name": "net"}, "status": {"addresses": written}}, "default")
    await grid.settle()
    assert all(entry.older for entry in addresses(grid))
    grid.led = True
    grid.resync()
    await grid.settle()
    assert set(addresses(grid)) == set(had)
    assert starts(grid) == ran
