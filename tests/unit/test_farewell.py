"""What is said of, and asked from, nodes that something leaves: where they can't be read as well."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cases import load, world_of
from fixpoint import resolve, settle
from zos.api import names
from zos.api.gridnode import GridNode
from zos.api.meta import ABANDON, Condition, Meta, Reason
from zos.api.nodeworkload import NodeWorkload
from zos.api.zmachine import ZMachine
from zos.api.zmount import ZMount
from zos.controller.farewell import Farewell
from zos.controller.writing import Exchange
from zos.kinds.registry import KINDS
from zos.kinds.zmount.part import MountOnNode
from zos.world import placement
from zos.world.heartbeat import Heartbeat
from zos.world.store import World

_CASES = Path(__file__).parent.parent / "golden" / "vanished.yaml"
_ORDER = ("Farm", "GridNode", "Network", "Contract", "PublicIP", "NameContract", "ZMount", "ZMachine")


@pytest.fixture
def world() -> World:
    made = world_of(load(_CASES)[0])
    settle(made, _ORDER)
    return made


@pytest.fixture
def disk(world: World) -> NodeWorkload:
    """A disk on node n1."""
    (found,) = [w for w in workloads(world, "n1") if w.part(MountOnNode) is not None]
    return found


def workloads(world: World, node: str) -> list[Any]:
    return [workload for workload in world.all("NodeWorkload") if workload.namespace == f"zos-node-{node}"]


def node(world: World, name: str = "n1") -> Any:
    return world.peek(GridNode.key_of("", name))


def unread(world: World, obj: Any) -> None:
    world.put_unreadable(obj.key, obj.metadata, "spec.tomorrow: not known")


def leaving(obj: Any, **annotations: str) -> Any:
    more = {"deletion_timestamp": "2026-01-02T00:00:00Z", "annotations": annotations}
    return obj.model_copy(update={"metadata": obj.metadata.model_copy(update=more)})


def farewell(world: World) -> Farewell:
    nobody: Any = None
    return Farewell(Exchange(nobody, world, lambda *_: None, lambda _: None, lambda *_: None), KINDS)


def test_an_agent_that_would_erase_is_not_told_to_let_go(world: World, disk: NodeWorkload) -> None:
    assert farewell(world).held_back(disk) is None
    old = node(world)
    old = old.model_copy(update={"status": old.status.model_copy(update={"agent_version": "0.1.0"})})
    world.put(old)
    assert "upgrade it" in (farewell(world).held_back(disk) or "")
    unread(world, old)  # whether it would is not known
    assert "can't be read" in (farewell(world).held_back(disk) or "")
    world.put(leaving(old, **{ABANDON: old.uid}))  # its administrator has given up what is there
    assert farewell(world).held_back(disk) is None


def test_a_node_that_can_not_be_read_is_not_said_to_have_left(world: World, disk: NodeWorkload) -> None:
    mount: Any = world.peek(ZMount.key_of("default", "data"))
    unread(world, node(world))
    said = farewell(world).waiting(mount, [disk]).message
    assert "its GridNode can't be read" in said
    assert ABANDON not in said
    world.remove(node_key := GridNode.key_of("", "n1"))
    assert world.peek(node_key) is None
    assert "not in the grid any more" in farewell(world).waiting(mount, [disk]).message


def test_what_waits_for_a_node_that_is_silent_says_so_and_how_to_give_it_up(world: World, disk: NodeWorkload) -> None:
    mount: Any = world.peek(ZMount.key_of("default", "data"))
    assert ABANDON not in farewell(world).waiting(mount, [disk]).message
    world.put(Heartbeat(metadata=Meta(name="n1", uid="n1"), alive=False))
    said = farewell(world).waiting(mount, [disk]).message
    assert "zos-node-n1 (its agent does not answer)" in said
    assert f"kubectl annotate zmount data -n default --overwrite {ABANDON}={mount.uid} gives up waiting" in said


def test_the_agent_of_a_node_that_can_not_be_read_lets_go_itself(world: World, disk: NodeWorkload) -> None:
    unread(world, node(world))
    assert not resolve(leaving(disk), world).let_go
    world.remove(GridNode.key_of("", "n1"))
    assert resolve(leaving(disk), world).let_go


def test_a_node_does_not_leave_before_a_workload_that_can_not_be_read(world: World) -> None:
    for workload in workloads(world, "n2"):
        unread(world, workload)
    found = node(world, "n2")
    assert not any(hold.storage for hold in found.status.holds)
    assert "can't be read" in " ".join(resolve(leaving(found), world).waits_for)
    assert not resolve(leaving(found, **{ABANDON: found.uid}), world).waits_for


def test_a_node_that_can_not_be_read_was_not_given_up_whatever_it_is_called(world: World) -> None:
    named = node(world).model_copy(update={"metadata": node(world).metadata.model_copy(update={"name": "b.with.dots"})})
    namespace = names.node_namespace(named.name)
    assert namespace != f"zos-node-{named.name}"
    reader = world.reader(ZMount.key_of("default", "data"))
    unread(world, named)
    assert not placement.given_up(reader, namespace)
    world.remove(named.key)
    assert placement.given_up(reader, namespace)


def test_what_nodes_are_busy_with_is_no_block_and_what_hinders_them_is(world: World, disk: NodeWorkload) -> None:
    mount: Any = world.peek(ZMount.key_of("default", "data"))
    assert farewell(world).waiting(mount, [disk]).reason is Reason.DELETING
    condition = Condition(type="Ready", status="False", reason="DeletionBlocked", message="busy device", observed_generation=1)
    status = disk.status.model_copy(update={"conditions": (condition,)})
    meta = disk.metadata.model_copy(update={"deletion_timestamp": "2026-01-02T00:00:00Z"})
    hindered = disk.model_copy(update={"status": status, "metadata": meta})
    said = farewell(world).waiting(mount, [disk, hindered])
    assert hindered.hindrance
    assert said.reason is Reason.DELETION_BLOCKED
    assert "busy device" in said.message


def test_what_may_use_it_and_can_not_be_read_holds_up_a_deletion_and_nothing_else(world: World) -> None:
    mount: Any = world.peek(ZMount.key_of("default", "data"))
    world.remove(ZMachine.key_of("default", "web"))
    key = ZMachine.key_of("default", "other")
    world.put_unreadable(key, Meta(name="other", namespace="default", uid="other"), "spec.tomorrow: not known")
    assert resolve(mount, world).verdict.reason is not Reason.DELETION_BLOCKED
    assert resolve(leaving(mount), world).verdict.reason is Reason.DELETION_BLOCKED
    assert "ZMachine default/other" in " ".join(resolve(leaving(mount), world).waits_for)
