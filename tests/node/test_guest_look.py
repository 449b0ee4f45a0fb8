"""What an agent concludes of its guests while others of its threads start and end them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from oneguest import ITEM, started
from zos.drivers.domainrun import Machine, Run
from zos.drivers.guestlook import GuestLook
from zos.drivers.guestrecords import Records
from zos.drivers.startline import StartLine

START = started()


@dataclass
class Starting:
    """A libvirt that is asked who runs in the moment before a guest does."""

    meanwhile: Callable[[], object]

    def connection(self) -> Starting:
        return self

    def listAllDomains(self, flags: int) -> list[object]:
        self.meanwhile()
        return []


async def test_a_guest_that_begins_while_it_is_looked_who_runs_has_not_ended(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "machines" / ITEM.uuid)
    machine.directory.mkdir(parents=True)
    machine.write_card(ITEM)
    libvirt: Any = Starting(lambda: machine.write_run(Run().begun(START)))
    guests = GuestLook(libvirt, tmp_path, Records(tmp_path / "machines", tmp_path, START.boot))
    line = StartLine(1)
    line.begun(ITEM.name, START.started_at, tells=True)
    fact = guests.look({}).facts[ITEM.name]
    assert (fact.ended, fact.started_at) == ("", None), "a look from before its start"
    line.seen({ITEM.name: fact})
    assert line.full, "it boots: nobody takes its place"
    line.close()
    assert not machine.run().over
    libvirt.meanwhile = lambda: None
    assert guests.look({}).facts[ITEM.name].ended == "crash", "now it has"


def test_one_that_is_erased_while_it_is_taken_for_running_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = Records(tmp_path / "machines", tmp_path, START.boot)
    machine = records.machine(ITEM.uuid)
    erasing = threading.Thread(target=records.forget, args=(machine,))
    write_run = Machine.write_run

    def meanwhile(self: Machine, run: Run) -> None:
        if not erasing.is_alive():
            erasing.start()
            erasing.join(0.2)
        write_run(self, run)

    monkeypatch.setattr(Machine, "write_run", meanwhile)
    records.running(machine, ITEM, START)
    erasing.join()
    assert not machine.directory.exists()
