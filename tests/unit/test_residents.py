"""Networks know no kind of what runs in them: whatever declares that it has an address there is treated as machines are."""

from __future__ import annotations

from typing import Any

import pytest

from cases import GRID
from ping.model import Ping
from zos.api import names
from zos.api.gridnode import GridNode
from zos.api.meta import Meta, Object, Reason
from zos.api.network import Network
from zos.api.nodeworkload import Nic
from zos.api.zmachine import ZMachine
from zos.controller.resolving import resolved
from zos.kinds.registry import KINDS
from zos.world import residents
from zos.world.heartbeat import Heartbeat
from zos.world.resolution import Resolution, Verdict
from zos.world.store import World

OTHERS = "take another of 10.20.2.2 to 10.20.2.254, or leave it out"
PLACES = {"nodes": [{"name": "n1", "subnet": "10.20.2.0/24", "publicKey": "k", "listenPort": 52000}]}


def made(model: type[Object], name: str, spec: Any = None, status: Any = None, **meta: Any) -> Any:
    about = {"name": name, "uid": f"uid-{name}", "generation": 1, "namespace": "default" if model.NAMESPACED else ""}
    return model.model_validate({"metadata": about | meta, "spec": spec or {}, "status": status or {}})


def network(*entries: dict[str, Any], **meta: Any) -> Network:
    found: Network = made(Network, "net", {"ipRange": "10.20.0.0/16"}, PLACES | {"addresses": [*entries]}, **meta)
    return found


def entry(kind: str, name: str, ip: str) -> dict[str, Any]:
    return {"ip": ip, "owner": {"kind": kind, "name": name, "uid": f"uid-{name}"}, "node": "n1"}


def machine(name: str = "web", net: str = "net", **status: Any) -> ZMachine:
    found: ZMachine = made(ZMachine, name, {"image": "oci://r/i:1", "network": {"name": net}}, {"nodeName": "n1"} | status)
    return found


def ping(name: str = "p", net: str = "net", ip: str | None = None, node: str = "n1", **status: Any) -> Ping:
    spec = {"network": {"name": net, "ip": ip}, "wordFrom": {"secretKeyRef": {"name": "word", "key": "word"}}}
    found: Ping = made(Ping, name, spec | {"nodeName": node}, {"nodeName": node} | status)
    return found


def world(*objects: Object) -> World:
    found = World(GRID.indexes())
    capacity = {"cpu": 8, "memory": "16Gi", "storage": "100Gi"}
    for node in ("n1", "n2"):
        found.put(made(GridNode, node, {}, {"capacity": capacity}))
        found.put(Heartbeat(metadata=Meta(name=node, uid=f"beat-{node}"), alive=True))
    for obj in objects:
        found.put(obj)
    return found


def resolution(subject: Any, grid: World) -> Resolution:
    return resolved(GRID[subject.KIND], subject, grid.reader(subject.key))


def addresses(found: Resolution) -> list[Any]:
    return [hold.entry for hold in found.holds if hold.pool.kind == "Network"]


def given(subject: Any, grid: World) -> str:
    """The address that it comes to, or what it says."""
    found = resolution(subject, grid)
    return next((entry.ip for entry in addresses(found)), found.verdict.message)


def held(net: Network, grid: World) -> list[str]:
    status: Any = resolution(net, grid).status
    return [str(one.owner) for one in status.addresses]


def test_nobody_gets_an_address_of_another_kind() -> None:
    grid = world(network(entry("Ping", "p", "10.20.2.2"), entry("ZMachine", "web", "10.20.2.3")), machine(), ping())
    assert given(ping("q"), grid) == given(machine("next"), grid) == "10.20.2.4"
    assert given(ping(), grid) == "10.20.2.2"
    assert given(machine(), grid) == "10.20.2.3"
    assert given(ping("q", ip="10.20.2.3"), grid) == f"network.ip 10.20.2.3 is taken by ZMachine web: {OTHERS}"
    assert given(ping("q", ip="10.20.2.2"), grid) == f"network.ip 10.20.2.2 is taken by Ping p: {OTHERS}"
    assert given(ping("q", ip="10.20.2.1"), grid) == f"network.ip 10.20.2.1 is the network's own: {OTHERS}"
    outside = "network.ip 10.20.3.2 is outside 10.20.2.0/24, the sub-range of net on node n1"
    assert given(ping("q", ip="10.20.3.2"), grid) == f"{outside}: {OTHERS}"


@pytest.mark.parametrize("runs", [machine(ip="10.20.2.2"), ping(ip="10.20.2.2")], ids=["machine", "ping"])
def test_nobody_gets_what_another_runs_with_in_a_network_that_was_made_anew(runs: Any) -> None:
    runs = runs.model_copy(update={"status": runs.status.model_copy(update={"ip": "10.20.2.2"})})
    grid = world(network(), runs)
    assert given(ping("q"), grid) == given(machine("next"), grid) == "10.20.2.3"
    assert given(runs, grid) == "10.20.2.2"


def test_the_node_of_any_resident_belongs_to_the_network() -> None:
    net = made(Network, "net", {"ipRange": "10.20.0.0/16"})
    status: Any = resolution(net, world(net, ping(nodeName="n1"))).status
    assert status.ready_nodes == "0/1"
    status = resolution(net, world(net, ping(net="other"))).status
    assert status.ready_nodes == "0/0"


def test_a_network_waits_for_residents_of_any_kind() -> None:
    going = network(entry("Ping", "p", "10.20.2.2"), deletionTimestamp="2026-01-01T00:00:00Z")
    found = resolution(going, world(going, machine(), ping()))
    assert found.waits_for == ("ZMachine web", "Ping p")
    assert found.verdict.message == "waiting for ZMachine web, Ping p to be deleted"
    assert resolution(going, world(going)).waits_for == ()
    grid = world(going)
    grid.put_unreadable(Ping.key_of("default", "q"), Meta(name="q", namespace="default", uid="uid-q"), "newer")
    assert "Ping default/q" in resolution(going, grid).waits_for[0], "it may be in the network"


def test_an_address_is_given_back_when_its_owner_is_known_to_be_gone() -> None:
    net = network(entry("Ping", "p", "10.20.2.2"))
    assert held(net, world(net, ping())) == ["Ping p"]
    assert held(net, world(net)) == []
    assert held(net, world(net, ping(net="other"))) == []
    owner = {"kind": "Ping", "namespace": "default", "name": "p", "uid": "uid-p"}
    there = KINDS.workload.model_validate(
        {"metadata": {"name": "w", "namespace": names.node_namespace("n1"), "uid": "w"}, "spec": {"owner": owner}}
    )
    assert held(net, world(net, there)) == ["Ping p"], "its node has something of it"
    grid = world(net)
    grid.put_unreadable(Ping.key_of("default", "p"), Meta(name="p", namespace="default", uid="uid-p"), "newer")
    assert held(net, grid) == ["Ping p"], "it is there, and may be in the network"


@pytest.mark.parametrize("kind", ["Tomorrow", "ZMount"])
def test_an_address_of_a_kind_that_is_not_known_here_to_have_any_stays(kind: str) -> None:
    net = network(entry(kind, "p", "10.20.2.2"))
    grid = world(net)
    assert held(net, grid) == [f"{kind} p"]
    going = network(entry(kind, "p", "10.20.2.2"), deletionTimestamp="2026-01-01T00:00:00Z")
    assert resolution(going, grid).waits_for == (f"{kind} p",)
    assert given(machine(), grid) == "10.20.2.3"


def test_what_a_controller_of_release_0_2_took_for_a_machines_is_put_right_by_its_owner() -> None:
    net = network({"ip": "10.20.2.2", "machine": "p", "uid": "uid-p", "node": "n1"})
    grid = world(net, ping())
    assert held(net, grid) == ["ZMachine p"], "whoever it is, who has that uid is there"
    (given_now,) = addresses(resolution(ping(), grid))
    assert (str(given_now.owner), given_now.ip) == ("Ping p", "10.20.2.2")


def test_a_resident_that_is_not_in_a_network_yet_waits_for_it() -> None:
    assert resolution(ping(), world()).verdict.message == "network net does not exist in this namespace: apply it"
    going = network(deletionTimestamp="2026-01-01T00:00:00Z")
    assert resolution(ping(), world(going)).verdict.message == "network net is being deleted: apply it again when it is gone"
    found = resolution(ping(node="n2"), world(network()))
    assert (found.verdict.reason, found.verdict.stalled) == (Reason.DEPENDENCY_NOT_READY, False)
    assert found.verdict.message == "network net is not on node n2 yet: it joins by itself"


def test_its_interface_is_in_the_nodes_sub_range() -> None:
    grid = world(network(entry("Ping", "p", "10.20.2.2")))
    net = residents.network(grid.reader(ping().key), "default", "net", "uid-p")
    assert not isinstance(net, Verdict)
    assert residents.nic("uid-p", net, "n1", "10.20.2.2") == Nic(
        network_uid="uid-net", mac=names.mac("uid-p/uid-net"), ip="10.20.2.2", prefixlen=24, gateway="10.20.2.1",
        mtu=1420, ip_range="10.20.0.0/16", domain="net.zos",
    )  # fmt: skip
