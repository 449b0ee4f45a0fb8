"""Virtual machines through a whole grid: what their image makes of them, what they hold, and what outlives them."""

from __future__ import annotations

import pytest

from wholegrid import Grid, standing
from zos.api.gridnode import GridNode
from zos.api.meta import Meta
from zos.api.usage import MachineUsage
from zos.api.zmachine import ZMachine
from zos.api.zmount import ZMount
from zos.plan.facts import DiskImage
from zos.world.usage import NodeUsage

VM, OTHER = "oci://r/vm:1", "oci://r/vm:2"
GIB = 2**30


@pytest.fixture
async def grid() -> Grid:
    """With a disk for a system, and images of virtual machines that every node knows."""
    made = await standing()
    for agent in made.agents.values():
        agent.node.machines |= {VM: DiskImage(size=2 * GIB), OTHER: DiskImage(size=2 * GIB)}
    disk(made, "system", "3Gi")
    await made.settle()
    return made


def disk(grid: Grid, name: str, size: str) -> None:
    grid.put(ZMount, {"metadata": {"name": name}, "spec": {"size": size}}, "default")


async def machine(grid: Grid, name: str, **spec: object) -> None:
    whole = {"image": VM, "network": {"name": "net"}} | spec
    grid.put(ZMachine, {"metadata": {"name": name}, "spec": whole}, "default")
    await grid.settle()


def shown(grid: Grid, name: str) -> str:
    return grid.ready(ZMachine, "default", name)


def storage(grid: Grid, machine: ZMachine) -> int:
    """What the machine holds of its node beside its disks."""
    node = grid.get(GridNode, "", str(machine.status.node_name))
    return next(held.storage for held in node.status.holds if held.uid == machine.uid)


async def test_it_holds_no_root_and_boots_from_what_was_written(grid: Grid) -> None:
    await machine(grid, "vm", disks=[{"name": "system"}])
    assert shown(grid, "vm").startswith("True")
    made = grid.get(ZMachine, "default", "vm")
    assert (made.status.mode, made.status.root_size, storage(grid, made)) == ("vm", None, 0)
    assert grid.get(ZMount, "default", "system").status.used


async def test_another_image_is_said_and_changes_nothing(grid: Grid) -> None:
    await machine(grid, "vm", disks=[{"name": "system"}])
    grid.edit(ZMachine, "default", "vm", image=OTHER)
    await grid.settle()
    assert shown(grid, "vm").startswith("True")
    condition = grid.get(ZMachine, "default", "vm").status.condition("ImageChanged")
    assert condition is not None
    assert VM in condition.message
    grid.edit(ZMachine, "default", "vm", image=VM)
    await grid.settle()
    assert grid.get(ZMachine, "default", "vm").status.condition("ImageChanged") is None


async def test_its_system_outlives_it_and_its_image(grid: Grid) -> None:
    await machine(grid, "vm", disks=[{"name": "system"}])
    node = str(grid.get(ZMachine, "default", "vm").status.node_name)
    before = dict(grid.agents[node].node.written)
    grid.delete(ZMachine, "default", "vm")
    await grid.settle()
    grid.agents[node].node.faults[f"image/{VM}"] = "the registry is gone"
    grid.agents[node].node.things.pop(f"image/{VM}", None)
    await machine(grid, "again", disks=[{"name": "system"}])
    assert shown(grid, "again").startswith("True")
    assert grid.agents[node].node.written == before


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (
            {},
            "InvalidSpec: the image is a virtual machine's, which boots from a disk of its own: apply a ZMount of 2Gi or more",
        ),
        ({"disks": [{"name": "small"}]}, "InvalidSpec: boot disk small has 1Gi, and the image needs 2Gi"),
        ({"disks": [{"name": "had"}]}, "Conflict: boot disk had holds data, which is not overwritten"),
    ],
)
async def test_what_it_can_not_boot_from_is_said(grid: Grid, spec: dict[str, object], said: str) -> None:
    disk(grid, "small", "1Gi")
    disk(grid, "had", "3Gi")
    await machine(grid, "before", image="oci://r/i:1", disks=[{"name": "had", "mountPath": "/had"}])
    assert shown(grid, "before").startswith("True")
    grid.delete(ZMachine, "default", "before")
    await grid.settle()
    await machine(grid, "vm", **spec)
    assert shown(grid, "vm").startswith(f"False {said}")
    assert grid.get(ZMachine, "default", "vm").status.mode == "vm"


async def test_fields_of_the_other_mode_are_named(grid: Grid) -> None:
    await machine(
        grid, "vm", disks=[{"name": "system", "mountPath": "/s"}], entrypoint=["/bin/x"], env=[{"name": "A", "value": "b"}]
    )
    told = grid.get(ZMachine, "default", "vm").status.condition("NotApplicable")
    assert told is not None
    assert told.message.startswith("entrypoint, env, mountPath of disk system: it is a virtual machine")
    await machine(grid, "container", image="oci://r/i:1", userData="#cloud-config", firmware="UEFI")
    told = grid.get(ZMachine, "default", "container").status.condition("NotApplicable")
    assert told is not None
    assert told.message.startswith("firmware, userData: it is a container")
    assert shown(grid, "container").startswith("True")


async def test_what_it_uses_is_shown_as_its_node_tells_it(grid: Grid) -> None:
    await machine(grid, "vm", disks=[{"name": "system"}])
    made = grid.get(ZMachine, "default", "vm")
    uses = MachineUsage(cpu_millicores=250, memory=GIB)
    node = str(made.status.node_name)

    async def told(**machines: MachineUsage) -> int:
        """How many requests came of it."""
        before = len(grid.server.requests)
        grid.changed(grid.world.put(NodeUsage(metadata=Meta(name=node, uid=node), machines=machines)))
        await grid.settle()
        return len(grid.server.requests) - before

    assert await told(**{made.uid: uses, "another": uses}) == 1, "its status"
    assert grid.get(ZMachine, "default", "vm").status.usage == uses
    assert await told(**{made.uid: uses, "another": MachineUsage(cpu_millicores=9)}) == 0
    grid.edit(ZMachine, "default", "vm", runPolicy="Halted")
    await grid.settle()
    assert grid.get(ZMachine, "default", "vm").status.usage is None, "nothing runs"
