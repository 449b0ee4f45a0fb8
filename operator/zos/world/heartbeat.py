"""Heartbeat: whether a node's agent is alive, as the controller itself judged it (never an object of the API)."""

from __future__ import annotations

from typing import ClassVar

from zos.api.meta import Object
from zos.world.reader import Reader


class Heartbeat(Object):
    """Named after its node. ``alive`` is decided on the controller's clock from the Lease renewals that it saw arrive."""

    KIND: ClassVar[str] = "Heartbeat"
    PLURAL: ClassVar[str] = "heartbeats"
    NAMESPACED: ClassVar[bool] = False

    alive: bool


def alive(world: Reader, node: str) -> bool | None:
    """Whether a node's agent is alive. None: nothing was ever heard of it."""
    return world.view(Heartbeat, "", node, _alive)


def _alive(heartbeat: Heartbeat) -> bool:
    return heartbeat.alive
