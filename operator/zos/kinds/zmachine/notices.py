"""What is told of a machine's way: where it came, its addresses, its image, its starts."""

from __future__ import annotations

from collections.abc import Iterator

from zos.api.meta import Reason, short_quantity
from zos.api.zmachine import ZMachine, ZMachineStatus
from zos.kinds.zmachine.part import MachineState
from zos.world import running
from zos.world.happenings import assigned, placed, together
from zos.world.reader import Reader
from zos.world.resolution import Notice, Resolution


def notices(machine: ZMachine, found: Resolution, world: Reader) -> tuple[Notice, ...]:
    """What has happened since the status was written last."""
    before, after = machine.status, found.status
    assert isinstance(after, ZMachineStatus)
    return (
        *together(
            placed(before.node_name, after.node_name),
            *assigned(before.ip, after.ip, "private address", f"in network {machine.spec.network.name}"),
            *assigned(before.public_ipv4, after.public_ipv4, "public address"),
            *assigned(before.public_ipv6, after.public_ipv6, "public address"),
        ),
        *_image(machine, found, world),
        *_start(machine, after, world),
    )


def _image(machine: ZMachine, found: Resolution, world: Reader) -> Iterator[Notice]:
    """Its image was fetched for it: the condition names the digest. What was there before is no news, nor is what it runs with
    already, though its node may have been silent in the meantime."""
    before = machine.status.condition("ImageReady")
    after = next((condition for condition in found.conditions if condition.type == "ImageReady"), None)
    if after is None or after.status != "True" or after.message == machine.status.image_digest:
        return
    if before is not None and before.status == "True" and before.message == after.message:
        return
    state = _on_node(machine, found.status.node_name if isinstance(found.status, ZMachineStatus) else None, world)
    if state.image_digest is None or (pull := state.image_pull) is None:  # no digest: it boots from what is on its disk
        return
    size = f" ({short_quantity(pull.size)})" if pull.size else ""
    yield Notice(Reason.IMAGE_PULLED, f"image {machine.spec.image}{size} fetched in {pull.seconds} s", once=after.message)


def _start(machine: ZMachine, after: ZMachineStatus, world: Reader) -> Iterator[Notice]:
    before = machine.status.started_at
    if after.started_at is None or after.started_at == before:
        return
    why = _on_node(machine, after.node_name, world).started_because
    if before is None and not why:
        yield Notice(Reason.STARTED, f"on node {after.node_name}", once=after.started_at)
    else:
        yield Notice(Reason.RESTARTED, why or f"on node {after.node_name}", once=after.started_at)


def _on_node(machine: ZMachine, node: str | None, world: Reader) -> MachineState:
    workload = running.on_node(machine.uid, node, world)
    return (workload.state(MachineState) if workload is not None else None) or MachineState()
