"""A guest of a container's image as a node has it written down, for tests of what is told of it and concluded from it."""

from __future__ import annotations

from pathlib import Path

from zos.drivers.domainxml import Places, Start
from zos.plan.items import ContainerBoot, Domain, GuestDisk

ITEM = Domain(
    owner="w-1",
    name="zos-abc",
    uuid="1a11e7ed-08db-4a23-a8a7-110b1cfb398a",
    cpu=2,
    memory=512 << 20,
    boot=ContainerBoot(
        image="sha256:" + "0" * 64,
        root=GuestDisk(disk="root-1", serial="zos-root"),
        config="machines/1/config",
        config_digest="d",
    ),
    disks=(),
    nics=(),
    running=True,
)
PLACES = Places(
    state=Path("/s"), machine=Path("/s/machines/1"), kernel=Path("/g/k"), initramfs=Path("/g/i"), virtiofsd=Path("/s/v")
)


def started(item: Domain = ITEM) -> Start:
    return Start(item=item, started_at=100.5, boot="boot-1", accelerator="tcg")
