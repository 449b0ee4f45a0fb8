"""What nodes say that they have left over is believed only as far as it can't harm: no node attracts or erases by it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cases import world_of
from fixpoint import carried_out, resolve
from zos.api.gridnode import GridNode, QuarantinedNic
from zos.api.meta import Condition, Meta, Reason
from zos.api.network import Network
from zos.api.nodeworkload import MachineOnNode, NodeWorkload, NodeWorkloadSpec, NodeWorkloadStatus, Owner
from zos.api.zmachine import ZMachine
from zos.api.zmount import ZMount
from zos.plan.diff import Observed
from zos.plan.items import Domain, GuestDisk, GuestNic
from zos.plan.ownership import Origin, quarantine
from zos.world.heartbeat import Heartbeat
from zos.world.store import World

GIB = 2**30


def node(name: str, *quarantine: dict[str, Any], spec: dict[str, Any] | None = None, **status: Any) -> GridNode:
    capacity = {"cpu": 8, "memory": "8Gi", "storage": "100Gi"}
    text = {"metadata": {"name": name, "uid": f"uid-{name}"}, "spec": spec or {}}
    return GridNode.model_validate(text | {"status": {"capacity": capacity, "quarantine": [*quarantine]} | status})


def mount(name: str = "data", *, on: str | None = None, **status: Any) -> ZMount:
    spec = {"size": "1Gi"} | ({"nodeName": on} if on else {})
    meta = {"name": name, "namespace": "default", "uid": f"uid-{name}", "generation": 1}
    return ZMount.model_validate({"metadata": meta, "spec": spec, "status": status})


def left(uid: str, kind: str = "ZMount", name: str = "data") -> dict[str, Any]:
    return {"uid": uid, "kind": kind, "namespace": "default", "name": name, "storage": "1Gi"}


def grid(*objects: Any) -> World:
    beats = [Heartbeat(metadata=Meta(name=obj.name, uid=obj.name), alive=True) for obj in objects if isinstance(obj, GridNode)]
    return world_of([*objects, *beats])


def hold(uid: str) -> dict[str, Any]:
    return {"uid": uid, "owner": "ZMount default/data", "storage": "1Gi"}


def test_no_node_draws_a_disk_that_is_elsewhere_to_itself() -> None:
    thief = node("thief", left("uid-data"))
    for here in (mount(on="home"), mount(nodeName="home"), mount(nodeName="home", used=True, size="1Gi")):
        found = resolve(here, grid(here, node("home", holds=[hold("uid-data")]), thief))
        assert found.workloads is not None
        assert [workload.node for workload in found.workloads] == ["home"]
        assert found.releases == ()
    pinned = mount(on="home")  # not held anywhere yet
    found = resolve(pinned, grid(pinned, node("home"), thief))
    assert found.workloads is not None
    assert [workload.node for workload in found.workloads] == ["home"]


def test_a_disk_that_its_node_has_is_taken_up_there() -> None:
    lost = mount()
    found = resolve(lost, grid(lost, node("a"), node("home", left("uid-data")), node("z")))
    assert found.workloads is not None
    assert [(workload.node, workload.spec.holds_data) for workload in found.workloads] == [("home", True)]  # type: ignore[union-attr]
    assert found.recorded


def test_a_name_that_another_node_has_left_over_does_not_block_what_is_pinned() -> None:
    pinned = mount(on="home")
    world = grid(pinned, node("home"), node("thief", left("uid-old")))
    assert resolve(pinned, world).verdict.reason is Reason.PROGRESSING
    free = mount()
    verdict = resolve(free, grid(free, node("home"), node("other", left("uid-old")))).verdict
    assert (verdict.reason, "uid-old" in verdict.message) == (Reason.QUARANTINED, True)


def test_only_an_administrators_word_gives_by_uid() -> None:
    fresh = mount()
    to = {"kind": "ZMount", "namespace": "default", "name": "data"}
    given = node("home", left("uid-old", name="former"), spec={"quarantine": [{"uid": "uid-old", "giveTo": to}]})
    found = resolve(fresh, grid(fresh, node("a"), given))
    assert found.workloads is not None
    (workload,) = found.workloads
    assert (workload.node, workload.spec.adopt, workload.spec.holds_data) == ("home", "uid-old", True)  # type: ignore[union-attr]
    other = mount("other")
    found = resolve(other, grid(other, given))
    assert found.workloads is not None
    assert found.workloads[0].spec.adopt is None  # type: ignore[union-attr]


def test_what_is_in_quarantine_counts_as_held() -> None:
    crowded = node("home", left("uid-old") | {"storage": "99Gi", "cpu": 7, "memory": "7Gi", "running": True})
    assert (crowded.unheld.storage, crowded.unheld.cpu, crowded.unheld.memory) == (GIB, 1, GIB)
    both = node("home", left("uid-data"), holds=[hold("uid-data")])
    assert both.unheld.storage == 99 * GIB, "not twice"


def machine(**spec: Any) -> ZMachine:
    meta = {"name": "web", "namespace": "default", "uid": "uid-web", "generation": 2}
    text = {"image": "oci://r/i:t", "network": {"name": "net"}} | spec
    return ZMachine.model_validate({"metadata": meta, "spec": text, "status": {"nodeName": "home"}})


def running(of: ZMachine) -> NodeWorkload:
    part = MachineOnNode(hostname="web", image="oci://r/i:t", cpu=1, memory=GIB, root_size=GIB)
    owner = Owner(kind="ZMachine", namespace="default", name="web", uid=of.uid)
    told = Condition(type="Running", status="True", reason="Succeeded")
    meta = Meta(name="zmachine-web", namespace="zos-node-home", uid="uid-w", generation=1)
    return NodeWorkload(metadata=meta, spec=NodeWorkloadSpec.of(owner, part), status=NodeWorkloadStatus(conditions=(told,)))


def test_a_machine_that_waits_can_be_stopped_and_says_that_it_runs() -> None:
    waits = machine()
    found = resolve(waits, grid(waits, running(waits), node("home")))
    assert "network net does not exist" in found.verdict.message
    assert found.workloads is None
    assert [(told.type, told.status) for told in found.conditions] == [("Running", "True")]
    halted = machine(runPolicy="Halted")
    world = grid(halted, running(halted), node("home"))
    found = resolve(halted, world)
    assert found.workloads is not None
    (workload,) = found.workloads
    before = running(halted).spec.machine
    assert before is not None
    assert workload.spec == before.model_copy(update={"run_policy": "Halted"})
    assert carried_out(world, halted, found).status.node_name == "home"


def test_a_node_that_has_not_said_what_it_has_lacks_nothing() -> None:
    for silent in (node("home", capacity={}), node("home", capacity={"cpu": 0, "memory": "0", "storage": "0"})):
        pinned = mount(on="home")
        verdict = resolve(pinned, grid(pinned, silent)).verdict
        assert verdict.reason is Reason.DEPENDENCY_NOT_READY
        assert "has not said yet what it has" in verdict.message


def guest(uid: str, name: str, ip: str, **more: Any) -> dict[str, Any]:
    """A machine that runs on with a private address in network ``net``."""
    nic = {"mac": "02:00:00:00:00:01", "networkUid": "uid-net", "ipv4": ip}
    return left(uid, "ZMachine", name) | {"running": True, "cpu": 1, "memory": "1Gi", "nics": [nic]} | more


def network(*addresses: dict[str, Any], **meta: Any) -> Network:
    nodes = [
        {"name": name, "subnet": f"10.20.{number}.0/24", "publicKey": "k", "listenPort": 52000}
        for number, name in enumerate(("home", "other"), 2)
    ]
    text = {"metadata": {"name": "net", "namespace": "default", "uid": "uid-net", "generation": 1} | meta}
    return Network.model_validate(
        text | {"spec": {"ipRange": "10.20.0.0/16"}, "status": {"nodes": nodes, "addresses": [*addresses]}}
    )


def given(machine: ZMachine, world: World) -> str:
    """The address that it comes to, or what it says."""
    found = resolve(machine, world)
    hold = next((hold.entry for hold in found.holds if hold.pool.kind == "Network"), None)
    return hold.ip if hold is not None else found.verdict.message


def test_nobody_gets_the_private_address_of_a_guest_in_quarantine() -> None:
    home = node("home", guest("uid-old", "old", "10.20.2.2"))
    assert given(machine(), grid(machine(), network(), home)) == "10.20.2.3"
    asks = machine(network={"name": "net", "ip": "10.20.2.2"})
    assert "spec.quarantine of GridNode home" in given(asks, grid(asks, network(), home))
    has = {"ip": "10.20.2.2", "machine": "web", "uid": "uid-web", "node": "home"}  # what somebody has stays his
    for one in (machine(), asks):
        assert given(one, grid(one, network(has), home)) == "10.20.2.2"
    assert given(asks, grid(asks, network(), node("home", guest("uid-web", "web", "10.20.2.2")))) == "10.20.2.2", "its own"
    silent = left("uid-old", "ZMachine", "old") | {"running": True}  # by an agent that does not tell addresses
    elsewhere = [{"mac": "02:00:00:00:00:01", "networkUid": "uid-else", "ipv4": "10.20.2.2"}]
    for harmless in (silent, guest("uid-old", "old", "10.20.2.2", nics=elsewhere)):
        assert given(machine(), grid(machine(), network(), node("home", harmless))) == "10.20.2.2"
    liar = node("other", guest("uid-old", "old", "10.20.2.2"))  # of another node's sub-range it says nothing
    assert given(machine(), grid(machine(), network(), node("home"), liar)) == "10.20.2.2"
    many = (guest(f"uid-{n}", f"m{n}", f"10.20.2.{n}", cpu=0, memory="0", storage="0") for n in range(2, 255))
    assert "(network net, node home) are used, 253 of them" in given(machine(), grid(machine(), network(), node("home", *many)))


def test_a_node_tells_the_addresses_of_guests_that_run() -> None:
    nics = (GuestNic(tap="t0", mac="02:00:00:00:00:01"), GuestNic(tap="t1", mac="02:00:00:00:00:02"))
    disk = GuestDisk(disk="root-uid-web", serial="root")
    domain = Domain(
        owner="w", name="zos-w", uuid="uid-web", cpu=1, memory=GIB, image="sha256:0", root=disk, disks=(), nics=nics,
        config="", config_digest="", running=True,
    )  # fmt: skip
    known = QuarantinedNic(mac=nics[0].mac, network_uid="uid-net", ipv4="10.20.2.2")
    guard = QuarantinedNic(mac="02:00:00:00:00:03", ipv4="203.0.113.18")  # asked for, but it was not restarted yet
    origin = Origin(kind="ZMachine", namespace="default", name="web", uid="uid-web", nics=(known, guard))
    seen = Observed(domain.key, domain, "w")
    (entry,) = quarantine({"w": (seen,)}, {"w": origin})
    assert entry.nics == (known, QuarantinedNic(mac=nics[1].mac), guard)
    (entry,) = quarantine({"w": (seen,)}, {})  # what was remembered is lost
    assert entry.nics == tuple(QuarantinedNic(mac=nic.mac) for nic in nics)
    (entry,) = quarantine({"w": (replace(seen, item=replace(domain, running=False)),)}, {"w": origin})
    assert entry.nics == ()


def test_a_share_of_what_went_without_a_word_is_kept_until_its_node_has_nothing_of_it() -> None:
    entry = {"ip": "10.20.2.2", "machine": "old", "uid": "uid-old", "node": "home"}
    runs = guest("uid-old", "old", "10.20.2.2")

    def held(*nodes: GridNode, alive: bool = True) -> bool:
        world = grid(network(entry), *nodes)
        if not alive:
            world.put(Heartbeat(metadata=Meta(name="home", uid="home"), alive=False))
        status: Any = resolve(network(entry), world).status
        return bool(status.addresses)

    assert held(node("home", runs))
    assert held(node("home"), alive=False), "it can't say that it is gone"
    assert not held(node("home"))
    assert not held(node("home"), node("other", runs)), "another node has no say in it"
    going = network(entry, deletionTimestamp="2026-01-01T00:00:00Z")
    assert resolve(going, grid(going, node("home", runs))).waits_for == (), "its user does not want it under that guest either"
