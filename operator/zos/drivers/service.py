"""Long-running processes under s6 (skarnet.org/software/s6): they outlive the agent and are restarted when they die."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import re
import shlex
import shutil
import struct
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from zos.drivers import DriverError
from zos.drivers.inotify import Inotify
from zos.drivers.looks import Looks
from zos.drivers.process import run
from zos.plan.diff import Observed, Op
from zos.plan.items import Item, Service

log = logging.getLogger("zos.services")

_MARK = "zos.json"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
#: Milliseconds between the polite and the impolite end of a process; seconds in which all of it is over.
_GRACE_MS = 5000
_STOP_TIMEOUT = 12.0
_START_TIMEOUT = 5.0
_FLOCK = struct.Struct("hhqqi4x")  # struct flock, fcntl(2)


@dataclass(frozen=True)
class Supervised:
    """A service as it stands in the scan directory. ``up`` is whether the supervisor runs it and keeps it running."""

    name: str
    argv: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()
    owner: str = ""
    up: bool = True


class Supervisor:
    """The services in an s6 scan directory whose names begin with ``prefix``. Each logs into a bounded directory of its own
    under ``logs``, which goes with it."""

    def __init__(self, scan: Path, logs: Path, prefix: str) -> None:
        self._scan = scan
        self._logs = logs
        self._prefix = prefix
        self._inotify: Inotify | None = None
        self._dirty: Callable[[], None] = lambda: None
        self._burials: dict[Path, asyncio.Task[None]] = {}
        self._looks = Looks(self._look)
        for half in (*scan.glob(f".new-{prefix}*"),):
            shutil.rmtree(half, ignore_errors=True)

    async def services(self) -> dict[str, Supervised | None]:
        """By name; None for one whose directory is too broken to say what it is. One that is being ended is not up. Raises
        DriverError or OSError where it can't be told what there is."""
        directories = sorted(path for path in self._scan.glob(f"{self._prefix}*") if path.is_dir())
        if self._inotify is not None:
            self._inotify.watch([self._scan, *directories, *(path / "supervise" for path in directories)])
        found = await self._looks.see([path.name for path in directories])
        for gone in self._scan.glob(f".gone-{self._prefix}*"):
            if self._burial(gone) is not None and (name := _name_of(gone)) not in found:
                dying = await asyncio.to_thread(_read, gone / "service")
                found[name] = replace(dying, up=False) if dying is not None else None
        return {name.removeprefix(self._prefix): seen for name, seen in found.items()}

    async def ensure(self, service: Supervised) -> None:
        """Makes the service, or makes it what is asked; restarts it only when its command changes. Raises DriverError."""
        if not _NAME.fullmatch(service.name):
            raise DriverError(f"{service.name!r} can't be the name of a service")
        path = self._path(service.name)
        await self._end_of(path)
        if not path.exists():
            await asyncio.to_thread(self._make, path, service)
            await self._control("-a")
            await self._taken_up(path)
            self._looks.stir(path.name)
            return
        seen = await self._look(path.name)
        if seen is None or (seen.argv, seen.environment) != (service.argv, service.environment):
            await self.remove(service.name)
            await self.ensure(service)
        else:
            if seen.owner != service.owner:
                _write(path / _MARK, _mark(service), 0o600)
            await self._control("-a")
            await run("s6-svc", "-u", str(path), check=False)
            await self._taken_up(path)
            self._looks.stir(path.name)

    async def remove(self, name: str) -> None:
        """Stops the service and leaves nothing of it. Gone already: fine."""
        path = self._path(name)
        if path.exists():
            # Out of the supervisor's sight first: from here on a crash of ours can't bring it up again.
            gone = Path(tempfile.mkdtemp(prefix=f".gone-{path.name}-", dir=self._scan))
            path.rename(gone / "service")  # with no look in between, which would take the new directory for an empty one
            self._looks.stir(path.name)
        await self._end_of(path)

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
        place = directory.parent if directory is not None and directory.name == "supervise" else directory
        self._looks.stir(place.name if place is not None and place != self._scan else None)
        return True

    def _path(self, name: str) -> Path:
        return self._scan / f"{self._prefix}{name}"

    async def _look(self, name: str) -> Supervised | None:
        seen = await asyncio.to_thread(_read, self._scan / name)
        if seen is None:
            return None
        # Fails where nobody supervises it.
        state = await run("s6-svstat", "-o", "wantedup", str(self._scan / name), check=False)
        return replace(seen, up=state.code == 0 and state.stdout.strip() == "true")

    async def _taken_up(self, path: Path) -> None:
        """The supervisor does what it is told a moment later; who looks before that sees a service that is down. (Nobody is
        asked, by a program of its own, before there is somebody to ask.)"""
        try:
            async with asyncio.timeout(_START_TIMEOUT):
                while (  # noqa: ASYNC110 - another process
                    _supervisor_of(path) is None or (seen := await self._look(path.name)) is None or not seen.up
                ):
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise DriverError(f"its supervisor does not start {path.name}") from None

    def _make(self, path: Path, service: Supervised) -> None:
        self._logs.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix=f".new-{path.name}-", dir=self._scan))
        log = self._logs / path.name
        exports = "".join(f"export {key}={shlex.quote(value)}\n" for key, value in service.environment)
        _write(new / "run", f"#!/bin/sh\nexec 2>&1\n{exports}exec {shlex.join(service.argv)}\n", 0o700)
        _write(new / "timeout-kill", f"{_GRACE_MS}\n", 0o600)
        _write(new / _MARK, _mark(service), 0o600)
        (new / "log").mkdir()
        # Three old files of 256 kB and the current one; each line with its time.
        _write(new / "log" / "run", f"#!/bin/sh\nexec s6-log -b -- n3 s262144 T {shlex.quote(str(log))}\n", 0o700)
        new.chmod(0o700)
        new.rename(path)

    async def _end_of(self, path: Path) -> None:
        """Until nothing is left of what was taken out of the scan directory under this name. Raises DriverError or
        TimeoutError."""
        for gone in self._scan.glob(f".gone-{path.name}-*"):
            if _name_of(gone) == path.name and (burial := self._burial(gone)) is not None:
                await asyncio.shield(burial)

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
        for directory in (service, service / "log"):
            async with asyncio.timeout(_STOP_TIMEOUT):
                await _unsupervised(directory)
        name = _name_of(gone)
        if not (self._scan / name).exists():
            await asyncio.to_thread(shutil.rmtree, self._logs / name, ignore_errors=True)
        await asyncio.to_thread(shutil.rmtree, gone, ignore_errors=True)

    async def _control(self, command: str) -> None:
        result = await run("s6-svscanctl", command, str(self._scan), check=False)
        if result.code != 0:
            raise DriverError(f"no supervisor on {self._scan}: {result.stderr.strip()}")


class ServiceDriver:
    """Service items."""

    ITEMS: ClassVar[tuple[type[Item], ...]] = (Service,)
    SLOW: ClassVar[bool] = False

    def __init__(self, scan: Path, logs: Path) -> None:
        self._supervisor = Supervisor(scan, logs, "zos-svc-")

    async def observe(self, wanted: Sequence[Item]) -> Mapping[str, Observed]:
        observed: dict[str, Observed] = {}
        for name, seen in (await self._supervisor.services()).items():
            item = None
            if seen is not None and seen.up:
                item = Service(name=seen.name, argv=seen.argv, environment=seen.environment, owner=seen.owner)
            observed[f"service/{name}"] = Observed(f"service/{name}", item, seen.owner if seen is not None else "")
        return observed

    async def apply(self, op: Op) -> None:
        try:
            if op.item is None:
                await self._supervisor.remove(op.key.removeprefix("service/"))
            else:
                assert isinstance(op.item, Service)
                item = op.item
                await self._supervisor.ensure(Supervised(item.name, item.argv, item.environment, item.owner))
        except TimeoutError:
            raise DriverError(f"{op.key}: its processes don't end") from None
        except OSError as error:
            raise DriverError(f"{op.key}: {error}") from error

    def watch(self, dirty: Callable[[], None]) -> None:
        self._supervisor.watch(dirty)

    def distrust(self) -> None:
        self._supervisor.distrust()

    async def close(self) -> None:
        self._supervisor.close()


def _name_of(gone: Path) -> str:
    """Of the service directory that was moved there."""
    return gone.name.removeprefix(".gone-").rsplit("-", 1)[0]


def _read(directory: Path) -> Supervised | None:
    """As it was made, None where that is not written there. Raises OSError where that can't be read: then it is not known."""
    try:
        mark = json.loads((directory / _MARK).read_text())
        environment = tuple((name, value) for name, value in mark["environment"])
        return Supervised(mark["name"], tuple(mark["argv"]), environment, mark["owner"])
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError, KeyError, TypeError):
        return None


async def _unsupervised(directory: Path) -> None:
    """Until the process that supervises a service directory has ended."""
    while (process := await asyncio.to_thread(_supervisor_of, directory)) is not None:
        try:
            fd = os.pidfd_open(process)
        except ProcessLookupError:
            continue
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        try:
            if _supervisor_of(directory) == process:  # still: so the number was not given to another one in between
                loop.add_reader(fd, ended.set)
                await ended.wait()
        finally:
            loop.remove_reader(fd)
            os.close(fd)


def _supervisor_of(directory: Path) -> int | None:
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


def _mark(service: Supervised) -> str:
    return json.dumps({"name": service.name, "argv": service.argv, "environment": service.environment, "owner": service.owner})


def _write(path: Path, text: str, mode: int) -> None:
    new = path.with_name(f".{path.name}.new")
    with contextlib.suppress(FileNotFoundError):
        new.unlink()
    new.touch(mode=mode)
    new.chmod(mode)
    new.write_text(text)
    new.rename(path)
