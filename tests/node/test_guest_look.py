"""What an agent concludes of its guests while others of its threads start and end them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zos.drivers.domainrun import Machine, Run
from zos.drivers.domainxml import Start
from zos.drivers.guests import Guests
from zos.plan.items import ContainerBoot, Domain, GuestDisk

ITEM = Domain(
    owner="w-1",
    name="zos-abc",
    uuid="1a11e7ed-08db-4a23-a8a7-110b1cfb398a",
    cpu=1,
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
START = Start(item=ITEM, started_at=100.5, boot="boot-1", accelerator="tcg")


@dataclass
class Starting:
    """A libvirt that is asked who runs in the moment before a guest does."""

    meanwhile: Callable[[], object]

    def connection(self) -> Starting:
        return self

    def listAllDomains(self, flags: int) -> list[object]:
        self.meanwhile()
        return []


def test_a_guest_that_begins_while_it_is_looked_who_runs_has_not_ended(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "machines" / ITEM.uuid)
    machine.directory.mkdir(parents=True)
    machine.write_card(ITEM)
    libvirt: Any = Starting(lambda: machine.write_run(Run().begun(START)))
    guests = Guests(libvirt, tmp_path, tmp_path, tmp_path / "virtiofsd", tmp_path, START.boot)
    assert guests.look({}).facts[ITEM.name].ended == ""
    assert not machine.run().over
    libvirt.meanwhile = lambda: None
    assert guests.look({}).facts[ITEM.name].ended == "crash", "now it has"
