"""What nodes say that they have left over is believed only as far as it can't harm: no node attracts or erases by it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cases
from cases import GRID, world_of
from fixpoint import carried_out, resolve, settle
from known import facts as known_facts
from zos.api.gridnode import GridNode
from zos.api.meta import Condition, Meta, Reason
from zos.api.network import Network
from zos.api.nodeworkload import NodeWorkload, Owner
from zos.api.quarantine import QuarantinedNic
from zos.api.resources import GUEST_OVERHEAD, Resources
from zos.api.zmachine import ZMachine
from zos.api.zmount import ZMount
from zos.kinds.kind import Here
from zos.kinds.registry import KINDS
from zos.kinds.zmachine.part import MachineOnNode
from zos.kinds.zmount.part import MountOnNode, MountState
from zos.plan.diff import Observed
from zos.plan.items import ContainerBoot, Domain, GuestDisk, GuestNic
from zos.plan.ownership import Origin, quarantine
from zos.world.heartbeat import Heartbeat
from zos.world.store import World

GIB = 2**30
CASES = Path(__file__).parent.parent / "golden"
ORDER = ("Farm", "GridNode", "Network", "Contract", "PublicIP", "NameContract", "ZMount", "ZMachine")


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
    assert [(workload.node, workload.part.holds_data) for workload in found.workloads] == [("home", True)]  # type: ignore[union-attr]
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
    assert (workload.node, workload.part.adopt, workload.part.holds_data) == ("home", "uid-old", True)  # type: ignore[union-attr]
    other = mount("other")
    found = resolve(other, grid(other, given))
    assert found.workloads is not None
    assert found.workloads[0].part.adopt is None  # type: ignore[union-attr]


def test_what_can_not_become_an_objects_is_not_given_to_it_and_nothing_empty_comes_in_its_place() -> None:
    fresh = mount()
    order = {"uid": "uid-old", "giveTo": {"kind": "ZMount", "namespace": "default", "name": "data"}}
    for kind in ("ZMount", ""):  # of the second the node knows the uid only
        home = node("home", left("uid-old", kind, "former"), spec={"quarantine": [order]})
        (asked,) = resolve(fresh, grid(fresh, home)).workloads or ()
        assert asked.part.adopt == "uid-old"  # type: ignore[union-attr]
    for kind in ("ZMachine", "Tomorrow"):  # of the second this controller knows nothing
        home = node("home", left("uid-old", kind, "former"), spec={"quarantine": [order]})
        found = resolve(fresh, grid(fresh, home))
        assert (found.workloads, found.verdict.reason) == (None, Reason.QUARANTINED)
        assert found.verdict.message == (
            f"what node home has of {kind} default/former (uid uid-old) can't become a ZMount: take giveTo back in "
            "spec.quarantine of GridNode home"
        )


def test_what_is_in_quarantine_counts_as_held() -> None:
    crowded = node("home", left("uid-old") | {"storage": "99Gi", "cpu": 7, "memory": "7Gi", "running": True})
    assert (crowded.unheld.storage, crowded.unheld.cpu, crowded.unheld.memory) == (GIB, 1, GIB)
    older = node("home", *crowded.wire()["status"]["quarantine"], agentVersion="0.2.1")
    assert older.unheld.memory == GIB - GUEST_OVERHEAD, "its agent tells the guest's own memory alone"
    both = node("home", left("uid-data"), holds=[hold("uid-data")])
    assert both.unheld.storage == 99 * GIB, "not twice"


def test_what_an_object_takes_up_again_is_given_to_nobody() -> None:
    """Its NodeWorkload was deleted by hand, and an order for it was left over."""
    to = {"kind": "ZMount", "namespace": "default", "name": "other"}
    home = node("home", left("uid-data"), spec={"quarantine": [{"uid": "uid-data", "giveTo": to}]})
    other = mount("other")
    (workload,) = resolve(other, grid(other, mount(), home)).workloads or ()
    assert (workload.part.adopt, workload.part.holds_data) == (None, False)  # type: ignore[union-attr]
    for gone in ((), (mount(nodeName="elsewhere", used=True),)):
        (workload,) = resolve(other, grid(other, *gone, home)).workloads or ()
        assert workload.part.adopt == "uid-data"  # type: ignore[union-attr]


def test_a_disk_that_fills_its_node_can_be_given_back() -> None:
    to = {"kind": "ZMount", "namespace": "default", "name": "data"}
    fresh = mount()
    fresh = fresh.model_copy(update={"spec": fresh.spec.model_copy(update={"size": 60 * GIB})})
    home = node("home", left("uid-old") | {"storage": "60Gi"}, spec={"quarantine": [{"uid": "uid-old", "giveTo": to}]})
    found = resolve(fresh, grid(fresh, home))
    assert [workload.node for workload in found.workloads or ()] == ["home"], found.verdict.message
    other = node("home", left("uid-old", name="other") | {"storage": "60Gi"})
    assert resolve(fresh, grid(fresh, other)).verdict.reason is Reason.INSUFFICIENT_CAPACITY


def test_what_comes_back_to_its_node_finds_its_own_place() -> None:
    """Its GridNode was given up and applied again: the node shows in quarantine what it has of objects that live."""
    objects, _ = cases.load(CASES / "vanished.yaml")
    world = world_of(objects)
    settle(world, ORDER)
    web: Any = world.peek(ZMachine.key_of("default", "web"))
    data: Any = world.peek(ZMount.key_of("default", "data"))
    n1: Any = world.peek(GridNode.key_of("", "n1"))
    for workload in world.all("NodeWorkload"):
        if workload.namespace == "zos-node-n1":
            world.remove(workload.key)
    root, memory = n1.status.by_holder[web.uid].storage, web.spec.memory
    guest = left(web.uid, "ZMachine", "web") | {"running": True, "cpu": 1, "memory": memory + GUEST_OVERHEAD, "storage": root}
    again = {
        "capacity": Resources(cpu=1, memory=memory + 2 * GUEST_OVERHEAD, storage=root + data.spec.size + GIB),
        "quarantine": GridNode.model_validate(
            {"metadata": {"name": "n1"}, "status": {"quarantine": [guest, left(data.uid) | {"storage": data.spec.size}]}}
        ).status.quarantine,
        "holds": (),
    }
    world.put(n1.model_copy(update={"status": n1.status.model_copy(update=again)}))
    settle(world, ORDER)
    for obj in (world.peek(data.key), world.peek(web.key)):
        condition = obj.status.condition("Ready")  # type: ignore[union-attr]
        assert condition.status == "True", condition.message


def machine(**spec: Any) -> ZMachine:
    meta = {"name": "web", "namespace": "default", "uid": "uid-web", "generation": 2}
    text = {"image": "oci://r/i:t", "network": {"name": "net"}} | spec
    return ZMachine.model_validate({"metadata": meta, "spec": text, "status": {"nodeName": "home"}})


def running(of: ZMachine) -> NodeWorkload:
    part = MachineOnNode(hostname="web", image="oci://r/i:t", cpu=1, memory=GIB, root_size=GIB)
    owner = Owner(kind="ZMachine", namespace="default", name="web", uid=of.uid)
    told = Condition(type="Running", status="True", reason="Succeeded")
    meta = Meta(name="zmachine-web", namespace="zos-node-home", uid="uid-w", generation=1)
    return KINDS.workload(metadata=meta, spec=KINDS.workload.asking(owner, part), status={"conditions": (told,)})


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
    before = running(halted).part(MachineOnNode)
    assert before is not None
    assert workload.part == before.model_copy(update={"run_policy": "Halted"})
    assert carried_out(world, halted, found).status.node_name == "home"


def test_a_node_that_has_not_said_what_it_has_lacks_nothing() -> None:
    for silent in (node("home", capacity={}), node("home", capacity={"cpu": 0, "memory": "0", "storage": "0"})):
        pinned = mount(on="home")
        verdict = resolve(pinned, grid(pinned, silent)).verdict
        assert verdict.reason is Reason.DEPENDENCY_NOT_READY
        assert "has not said yet what it has" in verdict.message


def told(of: ZMount, *, leaving: bool, used: bool | None, generation: int = 2, observed: int = 2) -> NodeWorkload:
    """The disk's NodeWorkload on home, and what that node says."""
    owner = Owner(kind="ZMount", namespace="default", name="data", uid=of.uid)
    ready = Condition(type="Ready", status="True", reason="Succeeded", observed_generation=observed)
    asked = KINDS.workload(
        metadata=Meta(name="zmount-data", namespace="zos-node-home", uid="uid-w", generation=generation),
        spec=KINDS.workload.asking(owner, MountOnNode(size=GIB, leaving=leaving)),
    )
    return asked.model_copy(update={"status": asked.saying(MountState(size=GIB, used=used), conditions=(ready,))})


def away() -> ZMachine:
    """A machine on another node that wants the disk."""
    elsewhere = machine(disks=[{"name": "data", "mountPath": "/data"}])
    return elsewhere.model_copy(update={"status": elsewhere.status.model_copy(update={"node_name": "away"})})


def test_a_disk_leaves_its_node_only_when_that_says_that_it_was_never_used() -> None:
    here = mount(nodeName="home")
    nodes = (node("home", holds=[hold("uid-data")]), node("away"))
    for silent in (
        (),  # nothing is there to be asked yet
        (told(here, leaving=False, used=False),),  # as an older state of the cluster has it
        (told(here, leaving=True, used=False, observed=1),),  # not asked for it yet
    ):
        found = resolve(here, grid(here, away(), *nodes, *silent))
        assert found.workloads is not None
        assert [(one.node, one.part.leaving) for one in found.workloads] == [("home", True)]  # type: ignore[union-attr]
        assert (found.verdict.reason, found.releases) == (Reason.PROGRESSING, ())
    for used in (True, None):  # an older agent does not say
        found = resolve(here, grid(here, away(), *nodes, told(here, leaving=True, used=used)))
        assert found.workloads is not None
        assert [(one.node, one.part.holds_data) for one in found.workloads] == [("home", True)]  # type: ignore[union-attr]
        assert found.status.used  # type: ignore[union-attr]
    found = resolve(here, grid(here, away(), *nodes, told(here, leaving=True, used=False)))
    assert found.workloads is not None
    assert [(one.node, one.part.leaving) for one in found.workloads] == [("away", False)]  # type: ignore[union-attr]
    assert found.recorded


def test_what_its_node_says_of_its_use_is_remembered() -> None:
    here = mount(nodeName="home")
    found = resolve(here, grid(here, node("home", holds=[hold("uid-data")]), told(here, leaving=False, used=True)))
    assert found.status.used  # type: ignore[union-attr]


def test_a_disk_whose_node_is_gone_comes_up_nowhere_else() -> None:
    here = mount(nodeName="home")
    found = resolve(here, grid(here, away(), node("away")))
    assert (found.verdict.reason, found.workloads) == (Reason.NODE_REMOVED, None)
    assert found.status.node_name == "home"  # type: ignore[union-attr]


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


def owner(name: str) -> dict[str, str]:
    return {"kind": "ZMachine", "name": name, "uid": f"uid-{name}"}


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
    has = {"ip": "10.20.2.2", "owner": owner("web"), "node": "home"}  # what somebody has stays his
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
        owner="w", name="zos-w", uuid="uid-web", cpu=1, memory=GIB, disks=(), nics=nics, running=True,
        boot=ContainerBoot(image="sha256:0", root=disk, config="", config_digest=""),
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


def test_a_program_in_quarantine_keeps_what_its_object_held() -> None:
    """Of whatever kind it is: its memory and its storage count, and nobody else gets its address."""
    objects, _ = cases.load(CASES / "ping" / "placed.yaml")
    ping, home = objects[0], next(obj for obj in objects if isinstance(obj, GridNode))
    found = resolve(ping, world_of(objects))
    held, address = (hold.entry for hold in found.holds)
    (asked,) = found.workloads or ()
    assert asked.part is not None
    owner = Owner(kind="Ping", namespace="default", name="answers", uid=ping.uid)
    spec = GRID.workload(metadata=Meta(name="w", namespace="zos-node-n1"), spec=GRID.workload.asking(owner, asked.part))
    here = Here.of(spec, asked.part, known_facts(secrets={("w", "word"): "hush"}))
    served = GRID.on_node(spec)
    assert served is not None
    things = tuple(Observed(item.key, item, "w") for item in served.lower(here).items)
    (entry,) = quarantine({"w": things}, {"w": Origin.of(spec.spec)})
    assert (entry.running, entry.kind) == (True, "Ping")
    assert entry.held == Resources(cpu=held.cpu, memory=held.memory, storage=held.storage)
    assert [(nic.network_uid, nic.ipv4) for nic in entry.nics] == [("uid-net", address.ip)]
    full = home.model_copy(update={"status": home.status.model_copy(update={"quarantine": (entry,)})})
    other = type(ping).model_validate(ping.wire() | {"metadata": {"name": "other", "namespace": "default", "uid": "uid-other"}})
    world = world_of([other, full, *(obj for obj in objects if obj not in (ping, home))])
    assert next(hold.entry for hold in resolve(other, world).holds if hold.pool.kind == "Network").ip not in (address.ip, None)


def test_a_share_of_what_went_without_a_word_is_kept_until_its_node_has_nothing_of_it() -> None:
    entry = {"ip": "10.20.2.2", "owner": owner("old"), "node": "home"}
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
