"""What runs under s6 (skarnet.org/software/s6): service directories in a scan directory. Their programs outlive the agent, and
are started again when they end."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import re
import shlex
import shutil
import struct
import tempfile
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Generic, TypeVar

from zos import files
from zos.drivers import DriverError
from zos.drivers.inotify import Inotify
from zos.drivers.looks import Looks
from zos.drivers.process import run
from zos.plan.facts import ServiceEnd

log = logging.getLogger("zos.services")

T = TypeVar("T")

MARK = "zos.json"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
#: Seconds between the polite and the impolite end of a process, by itself; and beyond that until all of it is over.
GRACE = 5
_STOP_TIMEOUT = 7.0
_START_TIMEOUT = 5.0
#: How s6-svdt(8) tells of an end, once s6-tai64nlocal(8), which knows the leap seconds, has read the time.
_DEATH = re.compile(r"(?P<at>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6})\d{3} (?P<what>exitcode|signal) (?P<how>\w+)")
_FLOCK = struct.Struct("hhqqi4x")  # struct flock, fcntl(2)


async def _nothing_more(directory: Path) -> None:
    pass


class ScanDirectory(Generic[T]):
    """The services in an s6 scan directory whose names begin with ``prefix``. Each logs into a bounded directory of its own
    under ``logs``, which goes with it.

    ``look`` tells of a service directory what is of interest; what it said is kept until something changes there, or in the
    directories below it that ``within`` names. ``last`` is what is done when a service has ended, before it is deleted."""

    def __init__(
        self,
        scan: Path,
        logs: Path,
        prefix: str,
        look: Callable[[Path], Awaitable[T]],
        within: Iterable[str] = (),
        last: Callable[[Path], Awaitable[None]] = _nothing_more,
    ) -> None:
        self._scan = scan
        self._logs = logs
        self._prefix = prefix
        self._within = ("supervise", *within)
        self._last = last
        self._inotify: Inotify | None = None
        self._dirty: Callable[[], None] = lambda: None
        self._burials: dict[Path, asyncio.Task[None]] = {}
        self._looks: Looks[T] = Looks(lambda name: look(scan / name))
        for half in (*scan.glob(f".new-{prefix}*"),):
            shutil.rmtree(half, ignore_errors=True)

    def path(self, name: str) -> Path:
        """Raises DriverError."""
        if not _NAME.fullmatch(name):
            raise DriverError(f"{name!r} can't be the name of a service")
        return self._scan / f"{self._prefix}{name}"

    def log(self, name: str) -> Path:
        return self._logs / f"{self._prefix}{name}"

    async def see(self) -> dict[str, T]:
        """What there is, by name. Raises what ``look`` raises: then it can't be told."""
        directories = sorted(path for path in self._scan.glob(f"{self._prefix}*") if path.is_dir())
        if self._inotify is not None:
            parts = [path / part for path in directories for part in self._within]
            self._inotify.watch([self._scan, *directories, *parts])
        found = await self._looks.see([path.name for path in directories])
        return {name.removeprefix(self._prefix): seen for name, seen in found.items()}

    def ending(self) -> dict[str, Path]:
        """Service directories that were taken out, and whose processes are not all gone, by name."""
        return {
            _name_of(gone).removeprefix(self._prefix): gone / "service"
            for gone in self._scan.glob(f".gone-{self._prefix}*")
            if self._burial(gone) is not None
        }

    async def put(self, name: str, fill: Callable[[Path], None]) -> None:
        """Makes a service that is not there yet: ``fill`` writes into its directory, in a thread. Raises DriverError."""
        path = self.path(name)

        def make() -> None:
            self._logs.mkdir(parents=True, exist_ok=True)
            new = Path(tempfile.mkdtemp(prefix=f".new-{path.name}-", dir=self._scan))
            try:
                fill(new)
                (new / "log").mkdir(exist_ok=True)
                # Three old files of 256 kB and the current one; each line with its time.
                command = f"s6-log -b -- n3 s262144 T {shlex.quote(str(self.log(name)))}"
                write(new / "log" / "run", f"#!/bin/sh\nexec {command}\n", 0o700)
                new.rename(path)
            finally:
                shutil.rmtree(new, ignore_errors=True)

        await asyncio.to_thread(make)
        await self._control("-a")
        await self._taken_up(path)

    async def take_up(self, name: str) -> None:
        """Until the supervisor keeps it running, whatever it was told before. Raises DriverError."""
        path = self.path(name)
        await self._control("-a")
        await run("s6-svc", "-u", str(path), check=False)
        await self._taken_up(path)

    async def _taken_up(self, path: Path) -> None:
        try:
            # The supervisor does what it is told a moment later; who looks before that sees a service that is down. (Nobody is
            # asked, by a program of its own, before there is somebody to ask.)
            async with asyncio.timeout(_START_TIMEOUT):
                while supervisor_of(path) is None or not (await status(path)).wanted_up:  # noqa: ASYNC110 - another process
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise DriverError(f"its supervisor does not start {path.name}") from None
        finally:
            self._looks.stir(path.name)

    async def take_out(self, name: str) -> None:
        """Stops a service and leaves nothing of it. Gone already: fine. Raises DriverError, TimeoutError."""
        path = self.path(name)
        if path.exists():
            # Out of the supervisor's sight first: from here on a crash of ours can't bring it up again.
            gone = Path(tempfile.mkdtemp(prefix=f".gone-{path.name}-", dir=self._scan))
            path.rename(gone / "service")  # with no look in between, which would take the new directory for an empty one
            self._looks.stir(path.name)
        await self.end_of(name)

    async def end_of(self, name: str) -> None:
        """Until nothing is left of what was taken out under this name. Raises DriverError, TimeoutError."""
        path = self.path(name)
        for gone in self._scan.glob(f".gone-{path.name}-*"):
            if _name_of(gone) == path.name and (burial := self._burial(gone)) is not None:
                await asyncio.shield(burial)

    def stir(self, name: str) -> None:
        """There is something to be seen of it that no notification tells of."""
        self._looks.stir(f"{self._prefix}{name}")

    def watch(self, dirty: Callable[[], None]) -> None:
        self._dirty = dirty
        self._inotify = Inotify(dirty, self._counts)
        self._looks.keep()

    def distrust(self) -> None:
        self._looks.doubt()

    def close(self) -> None:
        self._dirty = lambda: None
        for burial in self._burials.values():
            burial.cancel()
        if self._inotify is not None:
            self._inotify.close()

    def _counts(self, directory: Path | None, name: str) -> bool:
        """Others have services in the same directory."""
        if directory == self._scan and name:
            self._looks.stir(name)
            return name.startswith(self._prefix)
        if directory is None or directory == self._scan:
            self._looks.stir(None)
        else:
            self._looks.stir(directory.relative_to(self._scan).parts[0])
        return True

    def _burial(self, gone: Path) -> asyncio.Task[None] | None:
        """Goes on beside everything else, as a process may take its time to end; None: it is over already."""
        burial = self._burials.get(gone)
        if burial is None and gone.exists():
            burial = self._burials[gone] = asyncio.create_task(self._bury(gone), name=f"bury {gone.name}")
            burial.add_done_callback(lambda done: self._over(gone, done))
        return burial

    def _over(self, gone: Path, burial: asyncio.Task[None]) -> None:
        del self._burials[gone]
        if not burial.cancelled() and (error := burial.exception()) is None:
            self._dirty()
        elif not burial.cancelled():
            log.warning("%s does not end, which is tried again: %s", gone.name, error or type(error).__name__)

    async def _bury(self, gone: Path) -> None:
        """Ends the processes of a service that was taken out of the scan directory, then deletes it."""
        service = gone / "service"
        await self._control("-an")
        # The supervisor ends its service, then its logger at the end of the pipe, each supervised by a process of its own.
        # Where the first of all processes was killed, its successor can't tell them: each is told by itself.
        for directory in (service, service / "log"):
            await run("s6-svc", "-xd", str(directory), check=False)
            async with asyncio.timeout(_STOP_TIMEOUT + _grace_of(service)):
                await _unsupervised(directory)
        await self._last(service)
        name = _name_of(gone)
        if not (self._scan / name).exists():
            await asyncio.to_thread(shutil.rmtree, self._logs / name, ignore_errors=True)
        await asyncio.to_thread(shutil.rmtree, gone, ignore_errors=True)

    async def _control(self, command: str) -> None:
        result = await run("s6-svscanctl", command, str(self._scan), check=False)
        if result.code != 0:
            raise DriverError(f"no supervisor on {self._scan}: {result.stderr.strip()}")


@dataclass(frozen=True)
class Status:
    """What the supervisor of a service says of it; one that has none is not up. ``ready`` where it has told so."""

    wanted_up: bool = False
    up: bool = False
    ready: bool = False
    pid: int = 0


async def status(directory: Path) -> Status:
    """Raises ProcessError for want of means."""
    said = await run("s6-svstat", "-o", "wantedup,up,ready,pid", str(directory), check=False)
    if said.code != 0:
        return Status()  # nobody supervises it
    wanted_up, up, ready, pid = said.stdout.split()
    return Status(wanted_up == "true", up == "true", up == "true" and ready == "true", max(0, int(pid)))


async def deaths(directory: Path) -> list[ServiceEnd]:
    """The last ends of whatever ``run`` became, as the supervisor counts them itself: it does not know which ones were asked
    for. Raises ProcessError for want of means."""
    said = await run("s6-svdt", str(directory), check=False)
    if not said.stdout:
        return []
    read = await run("s6-tai64nlocal", "-g", input=said.stdout)
    matches = (_DEATH.fullmatch(line) for line in read.stdout.splitlines())
    return [
        ServiceEnd(
            at=datetime.fromisoformat(f"{match['at']}+00:00").timestamp(),
            code=int(match["how"]) if match["what"] == "exitcode" else None,
            signal=match["how"] if match["what"] == "signal" else "",
        )
        for match in matches
        if match is not None
    ]


def _name_of(gone: Path) -> str:
    """Of the service directory that was moved there."""
    return gone.name.removeprefix(".gone-").rsplit("-", 1)[0]


def _grace_of(directory: Path) -> float:
    try:
        return int((directory / "timeout-kill").read_text()) / 1000
    except (OSError, ValueError):
        return GRACE


async def _unsupervised(directory: Path) -> None:
    """Until the process that supervises a service directory has ended."""
    while (process := await asyncio.to_thread(supervisor_of, directory)) is not None:
        try:
            fd = os.pidfd_open(process)
        except ProcessLookupError:
            continue
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        try:
            if supervisor_of(directory) == process:  # still: so the number was not given to another one in between
                loop.add_reader(fd, ended.set)
                await ended.wait()
        finally:
            loop.remove_reader(fd)
            os.close(fd)


def supervisor_of(directory: Path) -> int | None:
    """The process that holds the lock of s6-supervise(8)."""
    try:
        lock = os.open(directory / "supervise" / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        kind, _, _, _, process = _FLOCK.unpack(fcntl.fcntl(lock, fcntl.F_GETLK, _FLOCK.pack(fcntl.F_WRLCK, 0, 0, 0, 0)))
    finally:
        os.close(lock)
    return int(process) if kind != fcntl.F_UNLCK else None


def write(path: Path, text: str, mode: int) -> None:
    """Into a service directory, which a boot forgets. One that was taken out does not come back by it."""
    files.write(path, text, files.Durability.VOLATILE, mode, parents=False)
