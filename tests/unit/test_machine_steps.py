"""The steps of a machine on its way to its node, each alone: what it finds, and what stays as it was where it finds nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cases import world_of
from zos.api.gridnode import GridNode
from zos.api.meta import RESTARTED_AT, Meta, Object, Reason
from zos.api.network import Network
from zos.api.nodeworkload import Run
from zos.api.resources import GUEST_OVERHEAD, Resources
from zos.api.zmachine import RunPolicy, ZMachine
from zos.api.zmount import ZMount
from zos.kinds.zmachine import disks, steps
from zos.kinds.zmachine.found import Found, FoundDisk, Step, given
from zos.kinds.zmachine.status import status
from zos.world import residents
from zos.world.heartbeat import Heartbeat
from zos.world.quarantine import Inheritance
from zos.world.resolution import Verdict
from zos.world.running import Running
from zos.world.store import World

GIB = 2**30
NOWHERE = Found(node=None, ip=None, ipv4=None, ipv6=None)
SUBNET = {"name": "n1", "subnet": "10.20.2.0/24", "publicKey": "k", "listenPort": 52000}


def made(model: type[Object], name: str, spec: Any = None, status: Any = None) -> Any:
    about = {"name": name, "uid": f"uid-{name}", "generation": 1, "namespace": "default" if model.NAMESPACED else ""}
    return model.model_validate({"metadata": about, "spec": spec or {}, "status": status or {}})


def machine(spec: dict[str, Any] | None = None, **status: Any) -> ZMachine:
    asked = {"image": "oci://r/i:1", "cpu": 1, "memory": "1Gi", "network": {"name": "net"}} | (spec or {})
    found: ZMachine = made(ZMachine, "web", asked, status)
    return found


def mount(name: str = "data", spec: dict[str, Any] | None = None, **status: Any) -> ZMount:
    found: ZMount = made(ZMount, name, {"size": "1Gi"} | (spec or {}), status)
    return found


def grid(*objects: Object, net: dict[str, Any] | None = None, node: dict[str, Any] | None = None, **orders: Any) -> World:
    offers = {"capacity": {"cpu": 8, "memory": "16Gi", "storage": "100Gi"}} | (node or {})
    return world_of(
        [
            made(GridNode, "n1", orders, offers),
            made(GridNode, "n2", {}, offers | {"quarantine": []}),
            *(Heartbeat(metadata=Meta(name=name, uid=name), alive=True) for name in ("n1", "n2")),
            made(Network, "net", {"ipRange": "10.20.0.0/16"}, {"nodes": [SUBNET]} | (net or {})),
            *objects,
        ]
    )


def taken(step: Step, found: Found, subject: ZMachine, world: World) -> Found:
    after, problem = step(found, subject, world.reader(subject.key))
    assert problem is None
    return after


def refused(step: Step, found: Found, subject: ZMachine, world: World) -> str:
    """What it says. What was found before is what is known still."""
    after, problem = step(found, subject, world.reader(subject.key))
    assert after == found
    assert problem is not None
    return f"{problem.reason}: {problem.message}"


def networked(world: World, found: Found = NOWHERE) -> Found:
    net = residents.network(world.reader(machine().key), "default", "net", "uid-web")
    assert not isinstance(net, Verdict)
    return replace(found, net=net)


DATA = FoundDisk("data", "/data", "uid-data", "n1", pinned=True, there=True, size=GIB)


@pytest.mark.parametrize(
    ("there", "says"),
    [
        ((), "DependencyNotReady: disk data does not exist: apply a ZMount of that name"),
        ((mount(usedBy="other"),), "Conflict: disk data is used by ZMachine other: a disk has one machine at a time"),
    ],
)
def test_a_disk_that_it_can_not_have(there: tuple[ZMount, ...], says: str) -> None:
    asks = machine({"disks": [{"name": "data", "mountPath": "/data"}]})
    assert refused(disks.find_disks, NOWHERE, asks, grid(*there)).startswith(says)


def test_a_disk_that_it_can_have_as_the_disk_itself_tells() -> None:
    asks = machine({"disks": [{"name": "data", "mountPath": "/data"}]})
    fresh = FoundDisk("data", "/data", "uid-data", None, pinned=False, there=False, size=GIB, why="nobody has looked at it yet")
    for there, wanted in (
        (mount(), fresh),
        (mount(spec={"nodeName": "n2"}), replace(fresh, node="n2", pinned=True)),
        (mount(usedBy="web", nodeName="n1", size="1Gi"), replace(fresh, node="n1", there=True)),
        (mount(usedBy="web", nodeName="n1", size="1Gi", used=True), replace(fresh, node="n1", there=True, pinned=True)),
        (mount(nodeName="n1", size="1Gi"), replace(fresh, node="n1")),  # nobody's yet
    ):
        assert taken(disks.find_disks, NOWHERE, asks, grid(there)).disks == (wanted,)


def test_it_waits_for_a_disk_that_is_not_on_its_node_or_not_made() -> None:
    here = replace(NOWHERE, node="n1", disks=(DATA,))
    assert taken(disks.disks_ready, here, machine(), grid()) == here
    for disk in (replace(DATA, node="n2", why="Progressing"), replace(DATA, there=False, why="Progressing")):
        waits = replace(here, disks=(disk,))
        said = refused(disks.disks_ready, waits, machine(), grid())
        assert said == "DependencyNotReady: disk data is not ready on node n1 yet (Progressing)"


@pytest.mark.parametrize(
    ("found", "asked", "place"),
    [
        (NOWHERE, None, "n1"),  # its network is there
        (NOWHERE, "n2", "n2"),
        (replace(NOWHERE, node="n1"), "n2", "n1"),
        (replace(NOWHERE, inherits=Inheritance("n2")), None, "n2"),
        (replace(NOWHERE, disks=(replace(DATA, node="n2"),)), None, "n2"),
        (replace(NOWHERE, disks=(replace(DATA, node="n2", pinned=False),)), None, "n1"),  # the disk comes along
    ],
)
def test_where_it_goes(found: Found, asked: str | None, place: str) -> None:
    world = grid()
    known = networked(world, found)
    after = taken(steps.choose_node, known, machine({"nodeName": asked} if asked else None), world)
    assert after == replace(known, place=place)


def test_disks_that_it_can_not_have_together() -> None:
    world = grid()
    apart = networked(world, replace(NOWHERE, disks=(DATA, replace(DATA, name="logs", node="n2"))))
    assert "its disks are on different nodes (data on n1, logs on n2)" in refused(steps.choose_node, apart, machine(), world)
    away = networked(world, replace(NOWHERE, node="n2", disks=(DATA,)))
    assert "disk data is on node n1, the machine on n2" in refused(steps.choose_node, away, machine(), world)


def test_it_is_on_its_node_when_it_holds_something_there() -> None:
    before = replace(NOWHERE, place="n1")
    after = taken(steps.hold_capacity, before, machine(), grid())
    assert (before.holds, after.node) == ((), "n1")
    (hold,) = after.holds
    assert (hold.pool.name, hold.entry.cpu, hold.entry.memory) == ("n1", 1, GIB + GUEST_OVERHEAD)
    said = refused(steps.hold_capacity, before, machine({"memory": "64Gi"}), grid())
    assert said.startswith("InsufficientCapacity: node n1 lacks memory: ")


def test_its_address_is_held_in_the_network_that_it_found() -> None:
    world = grid()
    here = networked(world, replace(NOWHERE, node="n1"))
    after = taken(steps.hold_address, here, machine(), world)
    assert (after.ip, given(after.address).ip) == ("10.20.2.2", "10.20.2.2")
    assert [hold.pool for hold in after.holds] == [Network.key_of("default", "net")]
    assert "outside 10.20.2.0/24" in refused(
        steps.hold_address, here, machine({"network": {"name": "net", "ip": "10.20.9.9"}}), world
    )
    away = replace(here, node="n2", ip="10.20.2.9")
    assert "network net is not on node n2 yet" in refused(steps.hold_address, away, machine(), world)


def test_what_it_has_stays_where_the_first_step_finds_nothing() -> None:
    runs = machine(nodeName="n1", ip="10.20.2.7", network="net")
    world = grid(runs)
    found = Found.from_status(runs, world.reader(runs.key))
    assert (found.node, found.ip) == ("n1", "10.20.2.7")
    world.remove(Network.key_of("default", "net"))
    assert "network net does not exist" in refused(steps.find_network, found, runs, world)
    assert (status(found, runs, world.reader(runs.key)).node_name, status(found, runs, world.reader(runs.key)).ip) == (
        "n1",
        "10.20.2.7",
    )
    world.remove(GridNode.key_of("", "n1"))
    assert refused(steps.find_remains, found, runs, world).startswith(f"{Reason.NODE_REMOVED}: node n1")


def test_a_node_that_holds_something_of_it_is_its_node() -> None:
    hold = {"uid": "uid-web", "owner": "ZMachine default/web", "cpu": 1}
    world = grid(node={"holds": [hold]})
    assert Found.from_status(machine(), world.reader(machine().key)).node == "n1"
    assert Found.from_status(machine(nodeName="n2"), world.reader(machine().key)).node == "n2"


def left(uid: str) -> dict[str, Any]:
    """What an earlier machine of the name left on n1, or this one."""
    return {"quarantine": [{"uid": uid, "kind": "ZMachine", "namespace": "default", "name": "web", "storage": "1Gi"}]}


def test_what_its_node_has_of_it_from_before_its_workload_was_lost_is_its_own() -> None:
    world = grid(node=left("uid-web"))
    assert taken(steps.find_remains, NOWHERE, machine(), world).inherits == Inheritance("n1")
    assert taken(steps.find_remains, NOWHERE, machine({"nodeName": "n1"}), world).inherits == Inheritance("n1")
    for found, asks in ((NOWHERE, machine({"nodeName": "n2"})), (replace(NOWHERE, node="n2"), machine())):
        assert taken(steps.find_remains, found, asks, world).inherits is None, "it is elsewhere, or is to be"
    assert taken(steps.find_remains, NOWHERE, machine(), grid()).inherits is None


def test_what_an_earlier_one_of_its_name_left_is_its_only_by_an_administrators_word() -> None:
    assert refused(steps.find_remains, NOWHERE, machine(), grid(node=left("uid-old"))).startswith("Quarantined: node n1 has")
    elsewhere = machine({"nodeName": "n2"})
    assert taken(steps.find_remains, NOWHERE, elsewhere, grid(node=left("uid-old"))).inherits is None
    there = replace(NOWHERE, node="n1")
    assert taken(steps.find_remains, there, machine(), grid(node=left("uid-old"))).inherits is None, "it has its own by now"
    to = {"kind": "ZMachine", "namespace": "default", "name": "web"}
    given_to_it = grid(node=left("uid-old"), quarantine=[{"uid": "uid-old", "giveTo": to}])
    for found in (NOWHERE, there):
        inherits = given(taken(steps.find_remains, found, machine(), given_to_it).inherits)
        assert (inherits.node, inherits.adopt) == ("n1", "uid-old")
    assert taken(steps.find_remains, replace(NOWHERE, node="n2"), machine(), given_to_it).inherits is None


def test_its_node_is_asked_for_all_that_its_spec_says() -> None:
    world = grid()
    asks = machine(
        {
            "rootSize": "5Gi", "entrypoint": ["/run", "it"], "sshAuthorizedKeys": ["ssh-ed25519 AAAA me"],
            "env": [{"name": "A", "value": "b"}], "runPolicy": "Halted", "disks": [{"name": "data", "mountPath": "/data"}],
        }
    )  # fmt: skip
    asks = asks.model_copy(update={"metadata": asks.metadata.model_copy(update={"annotations": {RESTARTED_AT: "now"}})})
    found = networked(world, replace(NOWHERE, place="n1", disks=(DATA,), inherits=Inheritance("n1", adopt="uid-old")))
    for step in (steps.hold_capacity, steps.hold_address):
        found = taken(step, found, asks, world)
    part = steps.part(found, asks, maintenance=False)
    assert (part.hostname, part.image, part.cpu, part.memory) == ("web", "oci://r/i:1", 1, GIB)
    assert (part.root_size, part.adopt, part.restarted_at) == (5 * GIB, "uid-old", "now")
    assert [(nic.ip, nic.gateway, nic.network_uid) for nic in part.nics] == [("10.20.2.2", "10.20.2.1", "uid-net")]
    assert [(disk.name, disk.mount_uid, disk.mount_path) for disk in part.disks] == [("data", "uid-data", "/data")]
    assert (part.entrypoint, part.ssh_authorized_keys) == (("/run", "it"), ("ssh-ed25519 AAAA me",))
    assert (part.env, part.run_policy, part.public_nic) == ({"A": "b"}, RunPolicy.HALTED, None)


def test_what_it_needs_is_the_most_of_what_it_runs_with_and_is_to_run_with() -> None:
    small, large = Run(cpu=1, memory=GIB), Run(cpu=4, memory=8 * GIB)
    asks = machine({"cpu": 2, "memory": "2Gi", "rootSize": "5Gi"})
    assert steps.needs(asks) == Resources(cpu=2, memory=2 * GIB + GUEST_OVERHEAD, storage=5 * GIB)
    assert steps.needs(asks, None, Running(small, large, settled=True)).cpu == 4
    assert steps.needs(asks, None, Running(small, None, settled=True)).memory == 2 * GIB + GUEST_OVERHEAD
    shrunk = machine({"rootSize": "1Gi"}, rootSize="3Gi")
    assert steps.needs(shrunk).storage == 3 * GIB
