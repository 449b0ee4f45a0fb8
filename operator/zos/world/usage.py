"""What machines use of their nodes, as agents tell it with their heartbeats (never an object of the API)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

from pydantic import Field

from zos.api.meta import Object
from zos.api.usage import MachineUsage
from zos.world.heartbeat import alive
from zos.world.reader import Reader


class NodeUsage(Object):
    """Named after its node; by the uids of machines."""

    KIND: ClassVar[str] = "NodeUsage"
    PLURAL: ClassVar[str] = "nodeusages"
    NAMESPACED: ClassVar[bool] = False

    machines: Mapping[str, MachineUsage] = Field(default_factory=dict)


def of_machine(world: Reader, node: str, uid: str) -> MachineUsage | None:
    """None: its node does not say, or nothing any more."""
    if alive(world, node) is False:
        return None
    return world.view(NodeUsage, "", node, _of(uid))


def _of(uid: str) -> Callable[[NodeUsage], MachineUsage | None]:
    return lambda usage: usage.machines.get(uid)
