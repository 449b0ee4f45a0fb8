"""The records of guests: what the node's disk keeps of how their runs went, and what is concluded of one that does not run."""

from __future__ import annotations

import dataclasses
import threading
import time
from pathlib import Path
from typing import Literal

from zos.drivers.domainlog import powered_off
from zos.drivers.domainrun import Machine, Run
from zos.drivers.domainxml import Start
from zos.plan.items import Domain


class Records:
    """All of them, of one node. Everything here blocks, may be called from any thread, and raises OSError."""

    def __init__(self, machines: Path, logs: Path, boot: str) -> None:
        """``machines`` has a directory for each, ``logs`` is libvirt's directory of them, ``boot`` the name of this boot of the
        node."""
        self._machines, self._logs, self._boot = machines, logs, boot
        self._machines.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = threading.Lock()

    def machine(self, uuid: str) -> Machine:
        """What is kept of a guest on the node's disk, if there is anything."""
        return Machine(self._machines / uuid)

    def known(self) -> list[Machine]:
        """Guests there is anything of. That somebody deleted the directory of them all is no reason to see nothing any more."""
        return [Machine(directory) for directory in self._machines.glob("*")]

    def settled(self, machine: Machine, before: Run | None = None) -> Run:
        """The record of a guest that does not run; notes its end the first time it is missed. ``before``: the record from
        before it was looked who runs. What was begun since is missed by nobody, and nothing is known of it yet: ``before`` is
        what was."""
        with self._lock:
            run = machine.run()
            if before is not None and run.started_at != before.started_at:
                return before
            return self._settle(machine, run)

    def running(self, machine: Machine, item: Domain, start: Start | None) -> Run:
        """The record of a guest that runs, with what was heard of it. Where the agent that started it did not come to write
        one it is made up for, by ``start``: what the guest tells of itself."""
        with self._lock:
            run = machine.run()
            if start is not None and (run.started_at != start.started_at or run.ended):
                run = run.begun(start)
                machine.write_card(start.item)
                machine.write_run(run)
            return _heard(machine, run, item)

    def begin(self, machine: Machine, start: Start, waited: float) -> Run:
        """The record of a guest that is about to be started, to be written by `begun`. What it said before is forgotten."""
        with self._lock:
            run = dataclasses.replace(self._settle(machine, machine.run()).begun(start), waited=waited)
            machine.clear_status()
            return run

    def begun(self, machine: Machine, run: Run, launched: float) -> None:
        """It runs. ``launched``: seconds that libvirt took for it."""
        with self._lock:
            machine.write_run(dataclasses.replace(run, launched=launched))

    def stopping(self, machine: Machine) -> None:
        """Its end is nobody's crash from now on."""
        with self._lock:
            run = machine.run()
            if not run.over:
                machine.write_run(dataclasses.replace(run, stopping=True))

    def faulty(self, machine: Machine, disk: str) -> None:
        """A disk could not be read or written. That is remembered until the guest is started anew."""
        with self._lock:
            run = machine.run()
            if disk not in run.faults:
                machine.write_run(dataclasses.replace(run, faults=(*run.faults, disk)))

    def forget(self, machine: Machine) -> None:
        """All that is kept of one. Nobody else writes meanwhile, who had seen it run: of what has no card nobody would know."""
        with self._lock:
            machine.remove()

    def _settle(self, machine: Machine, run: Run) -> Run:
        if not run.over:
            run = run.finished(self._last_word(machine, run), time.time(), self._boot)
            machine.write_run(run)
        return run

    def _last_word(self, machine: Machine, run: Run) -> str:
        """Of the guest's init. A virtual machine has none of ours, and to an image's own ours makes way: one that switched
        itself off has ended well."""
        card = machine.card()
        if card is None or machine.said_all() or not card.boot.silent:
            return machine.status()
        off = powered_off(self._logs / f"{card.name}.log", run.started_at or 0.0)
        return "exited 0" if off else ""


def _heard(machine: Machine, run: Run, item: Domain) -> Run:
    """Takes down when its system was up, and when that was done: by when it said so, whenever somebody looks."""
    status = machine.status()
    up, done = ("running", "") if item.boot.TELLS else ("booting", "ready")
    now = run
    if run.booted_at is None and status == up:
        now = dataclasses.replace(now, booted_at=machine.said_at())
    if run.ready_at is None and done and status == done:
        now = dataclasses.replace(now, ready_at=machine.said_at())
    if now != run:
        machine.write_run(now)
    return now


def told(status: str) -> Literal["", "booting", "ready", "unready"]:
    """What a virtual machine's cloud-init says: no other word of its."""
    match status:
        case "booting" | "ready" | "unready":
            return status
    return ""
