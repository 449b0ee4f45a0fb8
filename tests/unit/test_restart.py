"""What a machine runs with is what is held and shown, until it is restarted; then all of it changes together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

import fixpoint
from cases import world_of
from fixpoint import resolve
from zos.api.gridnode import GridNode
from zos.api.meta import RESTARTED_AT, Meta, Object
from zos.api.network import Network
from zos.api.zmachine import ZMachine
from zos.api.zmount import ZMount
from zos.kinds.zmachine.part import MachineOnNode, MachineState
from zos.plan.items import ContainerBoot, DiskBoot, Domain, GuestDisk, GuestNic, GuestShare
from zos.plan.restart import outdated
from zos.world.heartbeat import Heartbeat
from zos.world.store import World

ORDER = ("Network", "ZMount", "ZMachine", "NodeWorkload", "GridNode")


def made(model: type[Object], name: str, spec: dict[str, Any], status: dict[str, Any] | None = None) -> Any:
    meta = {"name": name, "uid": f"uid-{name}", "generation": 1, "namespace": "default" if model.NAMESPACED else ""}
    return model.model_validate({"metadata": meta, "spec": spec, "status": status or {}})


@pytest.fixture
def grid() -> World:
    there = {"capacity": {"cpu": 8, "memory": "16Gi", "storage": "100Gi"}, "prekeys": [f"{k}{'A' * 42}=" for k in "ABCD"]}
    world = world_of(
        [
            made(GridNode, "n1", {"endpoint": {"ipv4": "192.0.2.1"}}, there),
            Heartbeat(metadata=Meta(name="n1", uid="beat"), alive=True),
            made(Network, "net", {"ipRange": "10.20.0.0/16"}),
            made(Network, "other", {"ipRange": "10.30.0.0/16"}),
            made(ZMount, "data", {"size": "1Gi"}),
            made(ZMachine, "web", machine(network={"name": "net", "ip": "10.20.2.7"}, disks=[disk("data")])),
        ]
    )
    fixpoint.settle(world, ORDER, 20)
    assert web(world).status.condition("Ready").status == "True", web(world).status.condition("Ready").message
    return world


def machine(**more: Any) -> dict[str, Any]:
    return {"image": "oci://r/i:1", "cpu": 4, "memory": "4Gi", "network": {"name": "net"}} | more


def disk(name: str) -> dict[str, Any]:
    return {"name": name, "mountPath": f"/{name}"}


def one(world: World, model: type[Object], name: str) -> Any:
    return world.peek(model.key_of("default" if model.NAMESPACED else "", name))


def web(world: World) -> Any:
    return one(world, ZMachine, "web")


def change(world: World, **spec: Any) -> None:
    world.put(made(ZMachine, "web", machine(**spec), web(world).status.wire()))
    fixpoint.settle(world, ORDER, 20)


def restart(world: World) -> None:
    meta = web(world).metadata.model_copy(update={"annotations": {RESTARTED_AT: "now"}})
    world.put(web(world).model_copy(update={"metadata": meta}))
    fixpoint.settle(world, ORDER, 20)


def held(world: World, network: str = "net") -> list[tuple[str, str | None]]:
    return [(entry.ip, entry.next) for entry in one(world, Network, network).status.addresses]


def asked(world: World) -> Any:
    (found,) = [workload for workload in world.all("NodeWorkload") if workload.part(MachineOnNode) is not None]
    return found.part(MachineOnNode)


def test_another_address_is_held_beside_the_one_that_it_runs_with(grid: World) -> None:
    change(grid, network={"name": "net", "ip": "10.20.2.9"}, disks=[disk("data")])
    assert web(grid).status.ip == "10.20.2.7"
    assert held(grid) == [("10.20.2.7", "10.20.2.9")]
    assert asked(grid).nics[0].ip == "10.20.2.9"
    for address in ("10.20.2.7", "10.20.2.9"):
        grid.put(made(ZMachine, "thief", machine(network={"name": "net", "ip": address})))
        for _ in range(2):  # placed, then asking
            fixpoint.carried_out(grid, one(grid, ZMachine, "thief"), resolve(one(grid, ZMachine, "thief"), grid))
        assert "is taken by ZMachine web" in one(grid, ZMachine, "thief").status.condition("Ready").message
        grid.remove(ZMachine.key_of("default", "thief"))
    restart(grid)
    assert web(grid).status.ip == "10.20.2.9"
    assert held(grid) == [("10.20.2.9", None)]


def test_it_is_in_its_network_until_it_is_restarted(grid: World) -> None:
    change(grid, network={"name": "other"}, disks=[disk("data")])
    assert (web(grid).status.network, web(grid).status.ip) == ("net", "10.20.2.7")
    assert (held(grid), held(grid, "other")) == ([("10.20.2.7", None)], [("10.30.2.2", None)])
    assert [node.name for node in one(grid, Network, "net").status.nodes] == ["n1"]
    leaving = one(grid, Network, "net")
    gone = leaving.model_copy(update={"metadata": leaving.metadata.model_copy(update={"deletion_timestamp": "now"})})
    grid.put(gone)
    assert resolve(gone, grid).waits_for == ("ZMachine web",)
    grid.put(leaving)
    restart(grid)
    assert (web(grid).status.network, web(grid).status.ip) == ("other", "10.30.2.2")
    assert (held(grid), held(grid, "other")) == ([], [("10.30.2.2", None)])
    assert one(grid, Network, "net").status.nodes == ()


def test_a_disk_is_free_when_the_guest_has_let_go_of_it(grid: World) -> None:
    change(grid, network={"name": "net", "ip": "10.20.2.7"}, disks=[])
    data = one(grid, ZMount, "data")
    assert data.status.used_by == "web"
    gone = data.model_copy(update={"metadata": data.metadata.model_copy(update={"deletion_timestamp": "now"})})
    grid.put(gone)
    assert resolve(gone, grid).waits_for == ("ZMachine web",)
    assert "until it is restarted" in resolve(gone, grid).verdict.message
    grid.put(data)
    grid.put(made(ZMachine, "next", machine(disks=[disk("data")])))
    fixpoint.settle(grid, ORDER, 20)
    assert "is used by ZMachine web" in one(grid, ZMachine, "next").status.condition("Ready").message
    restart(grid)
    assert one(grid, ZMount, "data").status.used_by == "next"


def test_what_it_runs_with_counts_against_its_node(grid: World) -> None:
    def holds() -> tuple[int, int]:
        found = one(grid, GridNode, "n1").status.by_holder["uid-web"]
        return found.cpu, found.memory

    full = holds()
    change(grid, cpu=1, memory="1Gi", network={"name": "net", "ip": "10.20.2.7"}, disks=[disk("data")])
    assert holds() == full
    assert (web(grid).status.cpu, web(grid).status.memory) == (4, 4 * 2**30)
    restart(grid)
    assert holds() == (1, full[1] - 3 * 2**30)
    assert (web(grid).status.cpu, web(grid).status.memory) == (1, 2**30)


def test_nothing_is_let_go_before_the_node_has_said_so(grid: World) -> None:
    """The agent has not come to the change: whatever it said before may be true no more."""
    (workload,) = [found for found in grid.all("NodeWorkload") if found.part(MachineOnNode) is not None]
    change(grid, cpu=1, memory="1Gi", network={"name": "other"}, disks=[])
    late = next(found for found in grid.all("NodeWorkload") if found.key == workload.key)
    assert late.state(MachineState) is not None
    ended = late.state(MachineState).model_copy(update={"state": "Stopped", "runs": None})
    meta = late.metadata.model_copy(update={"generation": 2})
    unsaid = late.model_copy(
        update={"metadata": meta, "status": late.status.model_copy(update={"states": late.saying(ended).states})}
    )
    grid.put(unsaid)
    for _ in range(3):
        for kind in ("ZMount", "ZMachine", "Network"):
            for obj in grid.all(kind):
                fixpoint.carried_out(grid, obj, resolve(obj, grid), nodes=False)
    assert (web(grid).status.network, web(grid).status.ip) == ("net", "10.20.2.7")
    assert held(grid) == [("10.20.2.7", None)]
    assert one(grid, ZMount, "data").status.used_by == "web"
    assert one(grid, GridNode, "n1").status.by_holder["uid-web"].cpu == 4
    said = tuple(found.model_copy(update={"observed_generation": 2}) for found in unsaid.status.conditions)
    grid.put(unsaid.model_copy(update={"status": unsaid.status.model_copy(update={"conditions": said})}))
    for _ in range(3):
        for kind in ("ZMount", "ZMachine", "Network"):
            for obj in grid.all(kind):
                fixpoint.carried_out(grid, obj, resolve(obj, grid), nodes=False)
    assert web(grid).status.network == "other"
    assert held(grid) == []
    assert one(grid, ZMount, "data").status.used_by is None
    assert one(grid, GridNode, "n1").status.by_holder["uid-web"].cpu == 1


def test_a_node_that_does_not_tell_runs_what_it_is_asked_for(grid: World) -> None:
    """An earlier agent, whose guests follow what is asked at once."""
    change(grid, network={"name": "net", "ip": "10.20.2.9"}, disks=[])
    (workload,) = [found for found in grid.all("NodeWorkload") if found.part(MachineOnNode) is not None]
    silent = workload.state(MachineState).model_copy(update={"runs": None})
    grid.put(
        workload.model_copy(update={"status": workload.status.model_copy(update={"states": workload.saying(silent).states})})
    )
    for kind in ("ZMachine", "ZMount", "Network"):
        for obj in grid.all(kind):
            fixpoint.carried_out(grid, obj, resolve(obj, grid), nodes=False)
    assert web(grid).status.ip == "10.20.2.9"
    assert one(grid, ZMount, "data").status.used_by is None


NIC = GuestNic(tap="t-0", mac="m", network="net", mtu=1420, ipv4="10.20.2.7")
AWAY = GuestNic(tap="t-1", mac="p", interface="eth1", mtu=1500, ipv4="203.0.113.7")
FIELDS = (("network", "1"), ("env", "1"), ("entrypoint", "1"))
BOOT = ContainerBoot(image="i", root=GuestDisk(disk="r", serial="r"), config="c", config_digest="d", fields=FIELDS)
WAS = Domain(
    name="zos-x", uuid="x", cpu=1, memory=2**28, boot=BOOT, disks=(), nics=(NIC,), running=True,
)  # fmt: skip


SHARE = GuestShare(tag="t", path="volumes/v", ground="volume/v")


def configured(digest: str, *fields: tuple[str, str]) -> Domain:
    return replace(WAS, boot=replace(BOOT, config_digest=digest, fields=fields))


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (WAS, ()),
        (replace(WAS, incarnation="x", running=False), ()),
        (replace(WAS, cpu=2, memory=2**29), ("cpu", "memory")),
        (replace(configured("e", ("network", "2")), nics=(replace(NIC, ipv4="10.20.2.8"),)),
         ("network.ip", "env", "entrypoint")),
        (replace(WAS, boot=replace(BOOT, image="j")), ("image",)),
        (replace(WAS, boot=replace(BOOT, root=GuestDisk(disk="s", serial="r"))), ("disks",)),
        (replace(WAS, boot=DiskBoot(root=BOOT.root, config="c", config_digest="d", fields=FIELDS)), ("image",)),
        (replace(WAS, nics=(replace(NIC, network="other", ipv4="10.30.1.8"),)), ("network.name",)),
        (replace(WAS, nics=(replace(NIC, mtu=1400),)), ("network",)),
        (replace(WAS, nics=(NIC, AWAY)), ("publicIP",)),
        (configured("e", ("network", "1"), ("env", "2"), ("entrypoint", "1")), ("env",)),
        (configured("e"), ("network", "env", "entrypoint")),
        (replace(WAS, disks=(GuestDisk(disk="a", serial="a"),)), ("disks",)),
        (replace(WAS, shares=(SHARE,)), ("filesystems",)),
        (replace(configured("e", *FIELDS, ("filesystems", "1")), shares=(SHARE,)), ("filesystems",)),
    ],
)  # fmt: skip
def test_what_changed_is_named_as_in_the_spec(now: Domain, words: tuple[str, ...]) -> None:
    assert outdated(WAS, now) == words


def test_a_guest_of_an_earlier_agent_is_not_restarted_for_what_it_does_not_tell() -> None:
    was = replace(WAS, nics=(GuestNic(tap="t-0", mac="m"),), boot=replace(BOOT, fields=()))
    assert outdated(was, WAS) == ()
    assert outdated(was, configured("e", *FIELDS)) == ("configuration",)
    assert outdated(was, replace(WAS, nics=(NIC, AWAY))) == ("network",)
