"""Long-running processes under s6 (skarnet.org/software/s6): they outlive the agent and are restarted when they die."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shlex
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from zos.drivers import DriverError
from zos.drivers.inotify import Inotify
from zos.drivers.process import run
from zos.plan.diff import Observed, Op
from zos.plan.items import Item, Service

_MARK = "zos.json"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
#: Milliseconds between the polite and the impolite end of a process; seconds in which all of it is over.
_GRACE_MS = 5000
_STOP_TIMEOUT = 12.0
_START_TIMEOUT = 5.0


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
        for half in (*scan.glob(f".new-{prefix}*"),):
            shutil.rmtree(half, ignore_errors=True)

    async def services(self) -> dict[str, Supervised | None]:
        """By name; None for one whose directory is too broken to say what it is."""
        directories = sorted(path for path in self._scan.glob(f"{self._prefix}*") if path.is_dir())
        if self._inotify is not None:
            self._inotify.watch([self._scan, *directories, *(path / "supervise" for path in directories)])
        for half_removed in self._scan.glob(f".gone-{self._prefix}*"):
            with contextlib.suppress(DriverError, TimeoutError):  # tried again by the next look
                await self._bury(half_removed)
        found = await asyncio.gather(*(self._look(path) for path in directories))
        return {path.name.removeprefix(self._prefix): seen for path, seen in zip(directories, found, strict=True)}

    async def ensure(self, service: Supervised) -> None:
        """Makes the service, or makes it what is asked; restarts it only when its command changes. Raises DriverError."""
        if not _NAME.fullmatch(service.name):
            raise DriverError(f"{service.name!r} can't be the name of a service")
        path = self._path(service.name)
        if not path.exists():
            await asyncio.to_thread(self._make, path, service)
            await self._control("-a")
            await self._taken_up(path)
            return
        seen = await self._look(path)
        if seen is None or (seen.argv, seen.environment) != (service.argv, service.environment):
            await self.remove(service.name)
            await self.ensure(service)
        else:
            if seen.owner != service.owner:
                _write(path / _MARK, _mark(service), 0o600)
            await self._control("-a")
            await run("s6-svc", "-u", str(path), check=False)
            await self._taken_up(path)

    async def remove(self, name: str) -> None:
        """Stops the service and leaves nothing of it. Gone already: fine."""
        path = self._path(name)
        if path.exists():
            # Out of the supervisor's sight first: from here on a crash of ours can't bring it up again.
            gone = Path(tempfile.mkdtemp(prefix=f".gone-{path.name}-", dir=self._scan))
            await asyncio.to_thread(path.rename, gone / "service")
            await self._bury(gone)

    def watch(self, dirty: Callable[[], None]) -> None:
        self._inotify = Inotify(dirty)

    def close(self) -> None:
        if self._inotify is not None:
            self._inotify.close()

    def _path(self, name: str) -> Path:
        return self._scan / f"{self._prefix}{name}"

    async def _look(self, path: Path) -> Supervised | None:
        try:
            mark = json.loads((path / _MARK).read_text())
            name, argv, environment = mark["name"], tuple(mark["argv"]), tuple((k, v) for k, v in mark["environment"])
            owner = mark["owner"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        state = await run("s6-svstat", "-o", "wantedup", str(path), check=False)  # fails where nobody supervises it
        return Supervised(name, argv, environment, owner, state.code == 0 and state.stdout.strip() == "true")

    async def _taken_up(self, path: Path) -> None:
        """The supervisor does what it is told a moment later; who looks before that sees a service that is down."""
        try:
            async with asyncio.timeout(_START_TIMEOUT):
                while (seen := await self._look(path)) is None or not seen.up:  # noqa: ASYNC110 - another process
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

    async def _bury(self, gone: Path) -> None:
        """Ends the processes of a service that was taken out of the scan directory, then deletes it."""
        service = gone / "service"
        await self._control("-an")
        # The supervisor ends its service, then its logger at the end of the pipe, each supervised by a process of its own.
        for directory in (service, service / "log"):
            async with asyncio.timeout(_STOP_TIMEOUT):
                while (await run("s6-svok", str(directory), check=False)).code == 0:  # noqa: ASYNC110 - another process
                    await asyncio.sleep(0.02)
        name = gone.name.removeprefix(".gone-").rsplit("-", 1)[0]
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

    async def close(self) -> None:
        self._supervisor.close()


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
