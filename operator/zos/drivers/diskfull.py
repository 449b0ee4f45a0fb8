"""Guests that QEMU has paused because a disk of theirs found no room on the node: which they are, and that they go on.

Disks are reserved, so this is about a file system that breaks its promise (a thin pool below it, a file that somebody has made
sparse). The write that failed is kept by QEMU and done again when the guest goes on: nothing that was acknowledged is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import libvirt

from zos.drivers.thread import in_own_thread

#: Seconds until the first look whether there is room; each look that helped nothing doubles them, up to the second. Nothing
#: tells of room that has come free.
_FIRST, _LAST = 1.0, 30.0
#: So many bytes must be free: a guest that goes on for less is paused again at once.
_ROOM = 1 << 20
#: Seconds for which a guest that went on has to do so, to be looked after as one that was never paused.
_SETTLED = 60.0


def full(domain: Any) -> tuple[Path, ...]:
    """Files of a libvirt domain's disks for which it is paused. Raises libvirtError."""
    state, why = domain.state()
    if state != libvirt.VIR_DOMAIN_PAUSED or why != libvirt.VIR_DOMAIN_PAUSED_IOERROR:
        return ()
    failing = domain.diskErrors()
    root = ElementTree.fromstring(domain.XMLDesc())
    targets = ((disk.find("target"), disk.find("source")) for disk in root.iterfind("devices/disk"))
    return tuple(
        Path(source.get("file", ""))
        for target, source in targets
        if target is not None and source is not None and target.get("dev") in failing
    )


@dataclass(frozen=True)
class Full:
    """A guest that is paused, and the files that had no room."""

    name: str
    uuid: str
    files: tuple[Path, ...]

    def has_room(self) -> bool:
        """Whether each has some. What can't be looked at is for QEMU to find out. It blocks, as long as a disk may hang."""
        free = []
        for file in self.files:
            with contextlib.suppress(OSError):
                room = os.statvfs(file)
                free.append(room.f_bavail * room.f_frsize)
        return all(there >= _ROOM for there in free)


@dataclass
class _Wait:
    guest: Full
    delay: float
    looks: asyncio.Task[None] | None = None
    went_on: float = 0.0


class Resumer:
    """Calls ``resume(name, uuid)`` for a guest whose disks have room again: soon at first, then less and less often."""

    def __init__(self, resume: Callable[[str, str], None], first: float = _FIRST) -> None:
        self._resume = resume
        self._first = first
        self._waits: dict[tuple[str, str], _Wait] = {}

    def watch(self, guests: Iterable[Full]) -> None:
        """Those that are paused, all of them."""
        paused: Mapping[tuple[str, str], Full] = {(guest.name, guest.uuid): guest for guest in guests}
        now = asyncio.get_running_loop().time()
        for key, wait in list(self._waits.items()):
            if key in paused:
                continue
            if wait.looks is not None:  # it goes on, whoever had it do so
                wait.looks.cancel()
                wait.looks, wait.went_on = None, now
            if now - wait.went_on > _SETTLED:
                del self._waits[key]
        for key, guest in paused.items():
            known = self._waits.get(key)
            if known is None or (known.looks is None and now - known.went_on > _SETTLED):
                known = self._waits[key] = _Wait(guest, self._first)
            known.guest = guest
            if known.looks is None:
                known.looks = asyncio.create_task(self._look(known), name=f"room for {guest.name}")

    def close(self) -> None:
        for wait in self._waits.values():
            if wait.looks is not None:
                wait.looks.cancel()
        self._waits.clear()

    async def _look(self, wait: _Wait) -> None:
        while True:
            await asyncio.sleep(wait.delay)
            wait.delay = min(2 * wait.delay, _LAST)
            if await in_own_thread(wait.guest.has_room, f"room for {wait.guest.name}"):
                self._resume(wait.guest.name, wait.guest.uuid)
