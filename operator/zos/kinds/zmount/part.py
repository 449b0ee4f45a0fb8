"""What a ZMount asks of a node, and what the node says of it."""

from __future__ import annotations

from typing import ClassVar

from zos.api.gridnode import ENVELOPES
from zos.api.meta import Quantity
from zos.api.nodeworkload import Part, State
from zos.api.text import Line, Uid


class MountOnNode(Part):
    """A ZMount: a disk of the node."""

    SINCE: ClassVar[tuple[int, int]] = (0, 1)

    size: Quantity
    """Bytes to reserve."""

    holds_data: bool = False
    """A machine has had it: it must be there already, and an empty one is not made in its place."""

    source: Uid | None = None
    """Uid of the ZMount whose disk, on this node, it begins as a copy of. Absent: it begins empty."""

    image: Line | None = None
    """The image whose disk it begins as. Absent: it begins as no image."""

    boots_as_it_is: bool = False
    """What is there is a virtual machine's system, by the user's word."""

    adopt: Uid | None = None
    """Uid of a disk of the node's quarantine that an administrator gives to this one."""

    leaving: bool = False
    """It is to be on another node if it was never used, and waits for what this node says of that from now on."""

    @property
    def since(self) -> tuple[int, int]:
        """An older agent would make an empty disk."""
        return self.SINCE if self.source is None and self.image is None else ENVELOPES


class MountState(State):
    """What the agent sees of the disk."""

    size: Quantity
    """Bytes that are reserved."""

    used_bytes: Quantity | None = None
    """What its file system says it uses, about. Absent: it does not say."""

    used: bool | None = None
    """Whether a guest ever had the disk, as the node itself knows. Absent: the node does not say; the disk counts as used."""
