"""What is told of a disk's way."""

from __future__ import annotations

from zos.api.zmount import ZMount, ZMountStatus
from zos.world.happenings import placed
from zos.world.reader import Reader
from zos.world.resolution import Notice, Resolution


def notices(mount: ZMount, found: Resolution, world: Reader) -> tuple[Notice, ...]:
    """What has happened since the status was written last."""
    assert isinstance(found.status, ZMountStatus)
    return placed(mount.status.node_name, found.status.node_name)
