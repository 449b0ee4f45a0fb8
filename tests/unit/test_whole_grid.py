"""A whole grid, from manifests to guests and back, with everything real but the wire, the kernel and the time."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from wholegrid import Grid, standing
from zos.api.contract import Claim, Contract, NameContract
from zos.api.farm import Farm
from zos.api.gridnode import GridNode
from zos.api.meta import AGENT_FINALIZER, CONTROLLER_FINALIZER, Key, Object
from zos.api.network import Network
from zos.api.nodeworkload import NodeWorkload
from zos.api.publicip import PublicIP
from zos.api.zmachine import ZMachine
from zos.api.zmount import ZMount
from zos.kinds.network.part import NetworkOnNode
from zos.kinds.registry import KINDS
from zos.kube.client import Raw
from zos.plan.items import Disk, Domain

CASES = Path(__file__).parent.parent / "golden"
KEPT = [kind.model for kind in KINDS.values() if kind.finalized]
TENANTS: list[type[Object]] = [ZMachine, ZMount, Network, PublicIP, Contract, NameContract]


@pytest.fixture
async def grid() -> Grid:
    return await standing()


async def test_everything_gets_ready_and_a_resync_writes_nothing(grid: Grid) -> None:
    for model in KEPT:
        for obj in grid.of(model):
            assert grid.ready(model, obj.namespace, obj.name).startswith("True"), (obj.key, grid.problems)
    assert grid.problems == {}
    before = len(grid.server.writes)
    grid.resync()
    await grid.settle()
    assert grid.server.writes[before:] == []


def shown(grid: Grid, model: type[Object], name: str) -> str:
    return grid.ready(model, "default", name)


def guests(grid: Grid, node: str) -> list[Domain]:
    return [item for item in grid.agents[node].node.things.values() if isinstance(item, Domain)]


CHANGES: list[tuple[type[Object], str, dict[str, object]]] = [
    (ZMachine, "bare", {"cpu": 2}),
    (ZMount, "data", {"size": "12Gi"}),
    (Network, "net", {"mtu": 1400}),
]


@pytest.mark.parametrize(("model", "name", "change"), CHANGES, ids=lambda value: getattr(value, "KIND", None))
async def test_what_is_asked_is_ready_when_its_node_has_done_it(
    grid: Grid, model: type[Object], name: str, change: dict[str, object]
) -> None:
    for agent in grid.agents.values():
        agent.idle = True
    grid.edit(model, "default", name, **change)
    await grid.settle()
    assert shown(grid, model, name).startswith("False Progressing")
    for agent in grid.agents.values():
        agent.idle = False
    await grid.settle()
    assert shown(grid, model, name).startswith("True")


async def test_statuses_say_what_nodes_have_and_not_what_is_asked(grid: Grid) -> None:
    agent = grid.agents["n1"]
    agent.idle = True
    grid.edit(ZMount, "default", "data", size="12Gi")
    grid.edit(Network, "default", "net", mtu=1400)
    await grid.settle()
    assert grid.get(ZMount, "default", "data").status.size == 10 * 2**30
    assert grid.get(Network, "default", "net").status.ready_nodes == "1/2"
    agent.idle = False
    await grid.settle()
    assert grid.get(ZMount, "default", "data").status.size == 12 * 2**30
    assert grid.get(Network, "default", "net").status.ready_nodes == "2/2"


async def test_a_guest_that_runs_keeps_what_it_has_and_says_what_restarts_it(grid: Grid) -> None:
    grid.edit(ZMachine, "default", "web", cpu=2)
    await grid.settle()
    conditions = {c.type: c for c in grid.get(ZMachine, "default", "web").status.conditions}
    assert conditions["RestartRequired"].message.startswith("cpu changed: ")
    (guest,) = guests(grid, "n1")
    assert guest.cpu == 1


async def test_whose_agent_is_silent_is_not_ready_and_says_so(grid: Grid) -> None:
    for node in grid.agents:
        grid.alive(node, False)
    await grid.settle()
    for model, name in ((ZMachine, "bare"), (ZMount, "data"), (Network, "net")):
        assert shown(grid, model, name).startswith("False NodeUnreachable"), name
    assert grid.ready(GridNode, "", "n1").startswith("False NodeUnreachable")
    assert len(guests(grid, "n1")) == 1
    for node in grid.agents:
        grid.alive(node)
    await grid.settle()
    assert shown(grid, ZMachine, "web").startswith("True")


async def test_what_fails_on_a_node_is_told_and_is_over_when_it_is(grid: Grid) -> None:
    node = grid.agents["n1"].node
    (root,) = [key for key in node.things if key.startswith("disk/root-")]
    node.faults[root] = "no space left"
    grid.edit(ZMachine, "default", "web", rootSize="8Gi")
    await grid.settle()
    assert shown(grid, ZMachine, "web") == f"False Failed: node n1: {root}: no space left"
    del node.faults[root]
    await grid.settle(400)
    assert shown(grid, ZMachine, "web").startswith("True")
    grown = node.things[root]
    assert isinstance(grown, Disk)
    assert grown.size == 8 * 2**30


async def test_a_node_under_maintenance_stops_its_machines_and_keeps_all_that_they_have(grid: Grid) -> None:
    before = grid.get(GridNode, "", "n1").status.holds
    addresses = grid.get(Network, "default", "net").status.addresses
    disks = {key for key in grid.agents["n1"].node.things if key.startswith("disk/")}
    grid.edit(GridNode, "", "n1", maintenance=True)
    await grid.settle(60)
    assert shown(grid, ZMachine, "web").startswith("False NodeMaintenance: its node is under maintenance: it is stopped")
    assert grid.get(ZMachine, "default", "web").status.state == "Stopped"
    assert [guest.running for guest in guests(grid, "n1")] == [False]
    assert (
        grid.ready(GridNode, "", "n1")
        == "True NodeMaintenance: under maintenance: takes nothing new, and its machines are stopped"
    )
    for model, name in ((ZMachine, "bare"), (ZMount, "data"), (Network, "net"), (PublicIP, "address")):
        assert shown(grid, model, name).startswith("True"), "the other node's machines, and all that is no guest, go on"
    # Its agent begins anew, or hears nothing more: it is stopped still.
    grid.resync()
    await grid.settle(60)
    assert [guest.running for guest in guests(grid, "n1")] == [False]
    image = {"image": "oci://r/i:t", "network": {"name": "net"}, "cpu": 8}
    grid.put(ZMachine, {"metadata": {"name": "new"}, "spec": image}, "default")
    grid.put(ZMount, {"metadata": {"name": "named"}, "spec": {"size": "1Gi", "nodeName": "n1"}}, "default")
    await grid.settle(60)
    assert "n1 takes nothing new" in shown(grid, ZMachine, "new")
    assert shown(grid, ZMount, "named").startswith("False NodeMaintenance: node n1 is under maintenance and takes nothing new")
    grid.delete(ZMachine, "default", "new")
    grid.delete(ZMount, "default", "named")
    # What is deleted meanwhile goes; what waits for something else is started again all the same.
    grid.edit(ZMachine, "default", "web", disks=[{"name": "lacking", "mountPath": "/data"}])
    await grid.settle(60)
    grid.edit(GridNode, "", "n1", maintenance=False)
    await grid.settle(60)
    assert shown(grid, ZMachine, "web").startswith("False DependencyNotReady")
    assert [guest.running for guest in guests(grid, "n1")] == [True]
    after = grid.get(ZMachine, "default", "web").status
    assert (after.state, after.restarts) == ("Running", 0)
    assert grid.get(GridNode, "", "n1").status.holds == before
    assert grid.get(Network, "default", "net").status.addresses == addresses
    assert disks <= grid.agents["n1"].node.things.keys()


async def test_what_everybody_deletes_is_gone_everywhere(grid: Grid) -> None:
    for model in TENANTS:
        for obj in grid.of(model):
            grid.delete(model, obj.namespace, obj.name)
    await grid.settle()
    for model in (*TENANTS, Claim, NodeWorkload):
        assert grid.of(model) == [], grid.problems
    left = {key for agent in grid.agents.values() for key in agent.node.things}
    assert left == set()
    for node in grid.of(GridNode):
        assert node.status.holds == ()
        assert node.status.free.memory == node.offered.memory
    for one in grid.server.requests:
        if one.method == "DELETE" and ("/nodeworkloads/" in one.path or "/claims/" in one.path):
            assert one.body["preconditions"]["uid"], one.path


async def test_a_used_disk_stays_for_a_deletion_that_waits_and_for_one_without_a_word(grid: Grid) -> None:
    grid.delete(ZMount, "default", "data")
    await grid.settle()
    assert shown(grid, ZMount, "data") == "False DeletionBlocked: waits for ZMachine web"
    workload = grid.workload("n1", "ZMount")
    assert (workload.deleting, workload.spec.erase) == (False, None)
    assert any(key.startswith("disk/mount-") for key in grid.agents["n1"].node.things)
    machine = grid.workload("n1", "ZMachine")
    grid.delete(NodeWorkload, machine.namespace, machine.name)  # by hand: nobody has said that it is unwanted
    await grid.settle()
    assert len(guests(grid, "n1")) == 1
    assert grid.agents["n1"].node.starts == {guests(grid, "n1")[0].name: 1}


async def test_a_finalizer_is_taken_away_only_from_what_is_as_it_was_seen(grid: Grid) -> None:
    grid.delete(ZMachine, "default", "web")
    await grid.settle()
    ends = [
        one.body["metadata"]
        for one in grid.server.requests
        if one.method == "PATCH"
        and "/nodeworkloads/zmachine-" in one.path
        and "merge" in one.content
        and "status" not in one.body
    ]
    assert [AGENT_FINALIZER in meta["finalizers"] for meta in ends] == [False]
    assert all(meta["resourceVersion"] and meta["uid"] for meta in ends)


async def test_secrets_are_sealed_anew_when_the_node_has_another_key(grid: Grid) -> None:
    agent = grid.agents["n1"]
    (before,) = grid.workload("n1", "ZMachine").spec.secrets  # type: ignore[union-attr]
    grid.resync()
    await grid.settle()
    (same,) = grid.workload("n1", "ZMachine").spec.secrets  # type: ignore[union-attr]
    assert same == before
    agent.key = type(agent.key)(b"another key".ljust(32, b"."))
    grid.put(GridNode, {"metadata": {"name": "n1"}, "status": {"sealingKey": agent.sealing_key}})
    agent.idle = True
    await grid.settle()
    agent.idle = False
    agent.converger.resync()
    (sealed,) = grid.workload("n1", "ZMachine").spec.secrets  # type: ignore[union-attr]
    assert sealed.value != before.value
    await grid.settle()
    assert shown(grid, ZMachine, "web").startswith("True")
    assert agent.facts(agent.workloads).secrets[grid.workload("n1", "ZMachine").name, "env/PASSWORD"] == "hush"


async def test_a_lost_wireguard_key_is_replaced(grid: Grid) -> None:
    agent = grid.agents["n2"]
    lost = grid.workload("n2", "Network").part(NetworkOnNode).public_key  # type: ignore[union-attr]
    agent.lost_keys = frozenset({lost})
    await grid.settle()
    assert grid.workload("n2", "Network").part(NetworkOnNode).public_key not in ("", lost)  # type: ignore[union-attr]
    assert shown(grid, Network, "net").startswith("True")
    other = grid.workload("n1", "Network").part(NetworkOnNode).peers  # type: ignore[union-attr]
    assert lost not in {peer.public_key for peer in other}


async def test_what_the_api_server_refuses_is_said_and_the_rest_goes_on(grid: Grid) -> None:
    def refuses(request: object) -> tuple[int, str] | None:
        return (422, "no such thing here") if "/nodeworkloads/network" in getattr(request, "path", "") else None

    grid.server.refuses = refuses
    grid.edit(Network, "default", "net", mtu=1400)
    await grid.settle()
    assert shown(grid, Network, "net").startswith("False Refused: node n")
    assert "no such thing here" in shown(grid, Network, "net")
    assert grid.get(Network, "default", "net").status.nodes[0].public_key
    grid.server.refuses = lambda _: None
    grid.resync()
    await grid.settle()
    assert shown(grid, Network, "net").startswith("True")


async def test_a_relay_that_is_asked_for_serves_and_one_that_serves_goes_on(grid: Grid) -> None:
    def relay() -> str:
        return str(grid.get(Network, "default", "net").status.relay)

    for asked in ("n1", "n2", "n1"):
        grid.edit(Network, "default", "net", relay=asked)
        await grid.settle()
        assert relay() == asked
    grid.edit(Network, "default", "net", relay=None)
    await grid.settle()
    assert relay() == "n1"
    grid.alive("n1", False)
    await grid.settle()
    assert relay() == "n2"
    grid.alive("n1")
    await grid.settle()
    assert relay() == "n2"


async def test_addresses_are_reserved_when_every_one_of_them_is_claimed(grid: Grid) -> None:
    grid.server.refuses = lambda one: (
        (422, "not this one") if one.method == "POST" and "203.0.113.20" in str(one.body) else None
    )
    grid.put(Contract, {"metadata": {"name": "more"}, "spec": {"farm": "lab", "publicIPv4": 2}}, "default")
    await grid.settle()
    assert grid.get(Contract, "default", "more").status.reserved == ()
    assert not shown(grid, Contract, "more").startswith("True")
    grid.server.refuses = lambda _: None
    grid.resync()
    await grid.settle()
    assert len(grid.get(Contract, "default", "more").status.reserved) == 2
    assert shown(grid, Contract, "more").startswith("True")


@pytest.mark.parametrize(("addresses", "ipv6"), [(100, False), (1, True)])
async def test_who_waits_for_what_somebody_has_to_mend_does_not_say_that_it_goes_on_by_itself(
    grid: Grid, addresses: int, ipv6: bool
) -> None:
    grid.put(Farm, {"metadata": {"name": "lab"}, "spec": {"publicIPv6": []}})
    grid.put(Contract, {"metadata": {"name": "more"}, "spec": {"farm": "lab", "publicIPv4": addresses}}, "default")
    grid.put(PublicIP, {"metadata": {"name": "new"}, "spec": {"contract": "more", "ipv6": ipv6}}, "default")
    machine = {"image": "oci://r/i:t", "network": {"name": "net"}, "publicIP": "new"}
    grid.put(ZMachine, {"metadata": {"name": "new"}, "spec": machine}, "default")
    await grid.settle(60.0)
    for model in (PublicIP, ZMachine):
        found = grid.get(model, "default", "new").status
        assert found.stalled, found
        assert found.condition("Reconciling") is None


@pytest.mark.parametrize(("last", "taken"), [(0, False), (1, False), (2, True), (254, True), (255, False)])
async def test_addresses_that_are_not_for_machines_are_not_given(grid: Grid, last: int, taken: bool) -> None:
    (subnet,) = (n.subnet for n in grid.get(Network, "default", "net").status.nodes if n.name == "n2")
    ip = f"{subnet.rpartition('.')[0]}.{last}"
    network = {"name": "net", "ip": ip}
    grid.delete(ZMachine, "default", "bare")
    await grid.settle()
    spec = {"image": "oci://r/i:t", "network": network, "nodeName": "n2"}
    grid.put(ZMachine, {"metadata": {"name": "asks"}, "spec": spec}, "default")
    await grid.settle()
    assert shown(grid, ZMachine, "asks").startswith("True" if taken else "False InvalidSpec")
    assert grid.get(ZMachine, "default", "asks").status.ip == (ip if taken else None)


async def test_machines_come_and_go_and_their_network_stays_ready(grid: Grid) -> None:
    """Their names are told to nodes, and what else would change there is waited for."""
    seen: list[str] = []

    def look(key: Key, raw: Raw | None) -> None:
        if key.kind == Network.KIND and raw is not None:
            seen.extend(one["status"] for one in raw["status"]["conditions"] if one["type"] == "Ready")

    def told() -> set[str]:
        parts = [workload.part(NetworkOnNode) for workload in grid.of(NodeWorkload)]
        return {name.name for part in parts if part is not None and part.names is not None for name in part.names.names}

    grid.server.hears.append(look)
    spec = {"image": "oci://r/i:t", "network": {"name": "net"}, "nodeName": "n2"}
    grid.put(ZMachine, {"metadata": {"name": "more"}, "spec": spec}, "default")
    await grid.settle()
    assert shown(grid, ZMachine, "more").startswith("True")
    assert "more" in told()
    grid.delete(ZMachine, "default", "more")
    await grid.settle()
    assert "more" not in told()
    assert seen
    assert set(seen) == {"True"}
    grid.edit(Network, "default", "net", mtu=1399)
    await grid.settle()
    assert "False" in seen, "that is no news of names alone"


async def test_what_the_life_of_a_machine_writes(grid: Grid) -> None:
    """In a network on two nodes, with an image that is there. What several machines share is written once for those that come
    or go together."""
    before = len(grid.server.requests)
    body = {"image": "oci://r/i:t", "network": {"name": "net"}, "nodeName": "n2"}
    grid.put(ZMachine, {"metadata": {"name": "fly", "finalizers": [CONTROLLER_FINALIZER]}, "spec": body}, "default")
    await grid.settle()
    assert shown(grid, ZMachine, "fly").startswith("True")
    grid.delete(ZMachine, "default", "fly")
    await grid.settle(60)
    counted: Counter[str] = Counter()
    for request in grid.server.requests[before:]:
        if request.method != "GET":
            kind = next(word for word in request.path.split("/")[3:] if word.endswith("s") and word != "namespaces")
            counted[f"{request.method} {kind}{'/status' if request.path.endswith('/status') else ''}"] += 1
    assert counted == {
        "POST zmachines": 1,  # its user
        "PATCH gridnodes/status": 4,  # its share of the node, and what is left there; twice
        "PATCH networks/status": 2,  # its address
        "PATCH nodeworkloads": 7,  # it; the word that it may be erased; letting go; its name on two nodes, twice
        "PATCH nodeworkloads/status": 3,  # it; that both nodes know their names, in time
        "PATCH zmachines/status": 1,
        "POST events": 2,  # placed, started
        "DELETE zmachines": 1,  # its user
        "DELETE nodeworkloads": 1,
        "PATCH zmachines": 1,  # letting go
    }


async def test_names_that_come_together_are_told_together(grid: Grid) -> None:
    before = len(grid.server.writes)
    body = {"image": "oci://r/i:t", "network": {"name": "net"}, "nodeName": "n2"}
    for name in ("one", "two", "three"):
        grid.put(ZMachine, {"metadata": {"name": name}, "spec": body}, "default")
        await grid.settle(0.4)
    await grid.settle()
    told = [one for one in grid.server.writes[before:] if "network-default-net" in one.path and one.method == "PATCH"]
    assert len(told) == 2, "one for each of its nodes"
    assert all(name in str(write.body) for write in told for name in ("one", "two", "three"))


async def test_that_something_ends_is_said_when_it_takes_its_time(grid: Grid) -> None:
    grid.agents["n2"].idle = True
    grid.delete(ZMachine, "default", "bare")
    await grid.settle(2.0)
    assert shown(grid, ZMachine, "bare").startswith("True")
    await grid.settle(4.0)
    assert shown(grid, ZMachine, "bare").startswith("False Deleting")
