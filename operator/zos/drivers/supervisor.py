"""Plain services of the node's own under s6, such as what makes an interface: run by root, as they are."""

from __future__ import annotations

import asyncio
import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from zos.drivers import ownroot
from zos.drivers.s6 import GRACE, MARK, ScanDirectory, status, write


@dataclass(frozen=True)
class Supervised:
    """``up`` is whether the supervisor runs it and keeps it running."""

    name: str
    argv: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()
    owner: str = ""
    up: bool = True


class Supervisor:
    """Those in an s6 scan directory whose names begin with ``prefix``, with their logs under ``logs``."""

    def __init__(self, scan: Path, logs: Path, prefix: str) -> None:
        self._directory: ScanDirectory[Supervised | None] = ScanDirectory(scan, logs, prefix, _look)

    async def services(self) -> dict[str, Supervised | None]:
        """By name; None for one whose directory is too broken to say what it is. One that is being ended is not up. Raises
        DriverError or OSError where it can't be told what there is."""
        found = await self._directory.see()
        for name, directory in self._directory.ending().items():
            if name not in found:
                dying = await asyncio.to_thread(_read, directory)
                found[name] = replace(dying, up=False) if dying is not None else None
        return found

    async def ensure(self, service: Supervised) -> None:
        """Makes the service, or makes it what is asked; restarts it only when its command changes. Raises DriverError."""
        path = self._directory.path(service.name)
        await self._directory.end_of(service.name)
        seen = await asyncio.to_thread(_read, path)
        if path.exists() and (seen is None or (seen.argv, seen.environment) != (service.argv, service.environment)):
            await self.remove(service.name)
        if not path.exists():
            await self._directory.put(service.name, lambda new: _fill(new, service))
            return
        if seen is not None and seen.owner != service.owner:
            write(path / MARK, _mark(service), 0o600)
        if await asyncio.to_thread((path / "run").read_text) != _script(service):
            write(path / "run", _script(service), 0o700)  # of an agent whose programs were elsewhere; read at the next start
        await self._directory.take_up(service.name)

    async def remove(self, name: str) -> None:
        """Stops the service and leaves nothing of it. Gone already: fine."""
        await self._directory.take_out(name)

    def watch(self, dirty: Callable[[], None]) -> None:
        self._directory.watch(dirty)

    def distrust(self) -> None:
        self._directory.distrust()

    def close(self) -> None:
        self._directory.close()


async def _look(path: Path) -> Supervised | None:
    seen = await asyncio.to_thread(_read, path)
    return replace(seen, up=(await status(path)).wanted_up) if seen is not None else None


def _fill(new: Path, service: Supervised) -> None:
    write(new / "run", _script(service), 0o700)
    write(new / "timeout-kill", f"{GRACE * 1000}\n", 0o600)
    write(new / MARK, _mark(service), 0o600)


def _script(service: Supervised) -> str:
    exports = "".join(f"export {key}={shlex.quote(value)}\n" for key, value in service.environment)
    return f"#!/bin/sh\nexec 2>&1\n{exports}exec {ownroot.script(service.argv)}\n"


def _read(directory: Path) -> Supervised | None:
    """As it was made, None where that is not written there. Raises OSError where that can't be read: then it is not known."""
    try:
        mark = json.loads((directory / MARK).read_text())
        environment = tuple((name, value) for name, value in mark["environment"])
        return Supervised(mark["name"], tuple(mark["argv"]), environment, mark["owner"])
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError, KeyError, TypeError):
        return None


def _mark(service: Supervised) -> str:
    return json.dumps({"name": service.name, "argv": service.argv, "environment": service.environment, "owner": service.owner})
