"""What is kept of a guest on the node's disk: its definition while it does not run, and how its runs went."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from zos.drivers.domainxml import Start, item_of, item_text, known
from zos.files import Durability, write
from zos.plan.items import Domain

#: Ends that nobody asked for, of which the times are remembered.
_CRASHES = 10
SECTOR = 512
_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


@dataclass(frozen=True, kw_only=True)
class Run:
    """The last run of a guest. ``stopping`` is set before it is asked to stop; times in seconds since the epoch. ``crashes``
    are those of the same recipe: what was mended starts with a clean record. ``because``: how it came that it was started, if
    it had run before. ``faults``: disks that could not be read or written in it. ``waited`` and ``launched`` are the seconds
    that it stood in line for its start, and that libvirt took for it; at ``booted_at`` its entrypoint ran, or a virtual
    machine's cloud-init began, which was done at ``ready_at``."""

    started_at: float | None = None
    boot: str = ""
    accelerator: Literal["kvm", "tcg"] | None = None
    stopping: bool = False
    ended_at: float | None = None
    ended: Literal["", "exit", "crash", "stopped"] = ""
    exit_code: int | None = None
    problem: str = ""
    restarts: int = 0
    crashes: tuple[float, ...] = ()
    recipe: str = ""
    incarnation: str = ""
    because: str = ""
    faults: tuple[str, ...] = ()
    waited: float | None = None
    launched: float | None = None
    booted_at: float | None = None
    ready_at: float | None = None

    @property
    def took(self) -> tuple[tuple[str, float], ...]:
        """Seconds of each phase of its start, as far as they are known. The first boot of a virtual machine counts."""
        found = {"queue": self.waited, "start": self.launched}
        if None not in (self.started_at, self.launched, self.booted_at):
            found["boot"] = self.booted_at - self.started_at - self.launched  # type: ignore[operator]
        if None not in (self.booted_at, self.ready_at):
            found["ready"] = self.ready_at - self.booted_at  # type: ignore[operator]
        return tuple((phase, max(0.0, seconds)) for phase, seconds in found.items() if seconds is not None)

    @property
    def over(self) -> bool:
        return self.started_at is None or self.ended != ""

    def begun(self, start: Start) -> Run:
        return Run(
            started_at=start.started_at,
            boot=start.boot,
            accelerator=start.accelerator,
            restarts=self.restarts + (1 if self.ended in ("exit", "crash") else 0),
            crashes=self.crashes if start.item.recipe == self.recipe else (),
            recipe=start.item.recipe,
            incarnation=start.item.incarnation,
            because=self._why_again(start),
        )

    def _why_again(self, start: Start) -> str:
        """Why what ended like this is started, for people. Empty: it never ran, or nobody saw how it ended."""
        if self.started_at is None or not self.ended:
            return ""
        match self.ended:
            case "exit" if self.problem or self.exit_code is not None:
                why = self.problem or f"the entrypoint ended with exit code {self.exit_code}"
            case "exit" | "crash":
                why = "the guest died"
            case _ if start.item.incarnation != self.incarnation:
                why = "it was asked to restart"
            case _ if self.boot != start.boot:
                why = "the node was restarted"
            case _:
                why = "it was stopped" if self.stopping else "the guest was shut down from inside"
        return why if start.item.recipe == self.recipe else f"{why}; it runs with what was changed since"

    def finished(self, status: str, now: float, boot: str) -> Run:
        """How the run ended, by what the guest's init wrote last (operator/zos/guest/init.c)."""
        end = dataclasses.replace(self, ended_at=now)
        unasked = (*self.crashes, now)[-_CRASHES:]
        word, _, rest = status.partition(" ")
        code = int(rest) if re.fullmatch(r"\d{1,3}", rest) else None
        match word:
            case "failed":
                return dataclasses.replace(end, ended="exit", exit_code=127, problem=rest, crashes=unasked)
            case "stopped" | "rebooted":
                return dataclasses.replace(end, ended="stopped", exit_code=code)
            case "exited":
                if self.stopping:
                    return dataclasses.replace(end, ended="stopped", exit_code=code)
                return dataclasses.replace(end, ended="exit", exit_code=code, crashes=unasked)
        if self.stopping or self.boot != boot:  # cut off when asked, or together with the node
            return dataclasses.replace(end, ended="stopped")
        return dataclasses.replace(end, ended="crash", crashes=unasked)


@dataclass(frozen=True)
class Machine:
    """The directory of one guest. Its config may lie there as well: that is another driver's."""

    directory: Path

    @property
    def console(self) -> Path:
        return self.directory / "console.log"

    def card(self) -> Domain | None:
        """The definition, as far as there is a readable one; ``running`` says nothing. Raises OSError where that can't be
        told."""
        try:
            return item_of(json.loads((self.directory / "domain.json").read_text()))
        except (*_ABSENT, ValueError, KeyError, TypeError, AttributeError):
            return None

    def write_card(self, item: Domain) -> None:
        text = json.dumps(item_text(dataclasses.replace(item, running=False)))
        write(self.directory / "domain.json", text, Durability.DURABLE)

    def run(self) -> Run:
        try:
            text = json.loads((self.directory / "run.json").read_text())
            return known(Run, {**text, "crashes": tuple(text["crashes"]), "faults": tuple(text.get("faults", ()))})
        except (*_ABSENT, ValueError, KeyError, TypeError, AttributeError):
            return Run()

    def write_run(self, run: Run) -> None:
        write(self.directory / "run.json", json.dumps(dataclasses.asdict(run)), Durability.DURABLE, parents=False)

    @property
    def status_file(self) -> Path:
        return self.directory / "status"

    def booted(self) -> bool:
        """Whether the entrypoint was started. A guest never starts without the file: where it is lost, so is the answer, and
        the guest goes on."""
        return not self.status_file.exists() or self.status() in ("running", "stopping")

    def status(self) -> str:
        """The last word of the guest's init."""
        with contextlib.suppress(*_ABSENT), open(self.status_file, "rb") as file:
            return file.read(SECTOR).split(b"\0")[0].decode(errors="replace").strip()
        return ""

    def said_at(self) -> float | None:
        """When that was (seconds since the epoch)."""
        with contextlib.suppress(*_ABSENT):
            return self.status_file.stat().st_mtime
        return None

    def said_all(self) -> bool:
        """Whether the guest's init has said how it ended: all that comes then is that the machine is switched off."""
        return self.status().partition(" ")[0] in ("exited", "stopped", "rebooted", "failed")

    def clear_status(self) -> None:
        write(self.status_file, "\0" * SECTOR, Durability.DURABLE, parents=False)

    def remove(self) -> None:
        for pattern in (
            "status",
            "run.json",
            "console.log*",
            "seed.iso",
            "nvram.fd",
            ".*.new",
            "domain.json",
        ):  # the card last: it is found by that
            for path in self.directory.glob(pattern):
                path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.directory.rmdir()


def boot_of(run_directory: Path) -> str:
    """A name for this boot of the node: kept where a reboot forgets it."""
    run_directory.mkdir(parents=True, exist_ok=True)
    path = run_directory / "boot"
    with contextlib.suppress(FileNotFoundError):
        return path.read_text()
    write(path, uuid.uuid4().hex, Durability.VOLATILE)
    return path.read_text()
