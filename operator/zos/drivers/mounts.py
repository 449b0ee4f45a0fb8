"""What is mounted where on the node, and word of its changes (proc_pid_mountinfo(5)). Asks nobody who is behind a mount."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import select
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_TABLE = Path("/proc/self/mountinfo")


@dataclass(frozen=True)
class Mount:
    """``id`` and ``device`` tell it from the one that was there before, as long as somebody holds on to that."""

    id: str
    device: str
    options: frozenset[str]


def mounts_at(paths: Iterable[Path]) -> dict[Path, Mount]:
    """By path: what is mounted just there. Where several are, the one on top."""
    wanted: dict[bytes, list[Path]] = {}
    for path in paths:
        wanted.setdefault(os.fsencode(os.path.realpath(path.parent) + "/" + path.name), []).append(path)
    return {path: mount for place, mount in _table() for path in wanted.get(place, ())} if wanted else {}


def given(place: Path) -> list[int]:
    """The virtiofsds that share what is mounted there."""
    if (mount := mounts_at([place]).get(place)) is None:
        return []
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            if (process / "comm").read_text().strip() == "virtiofsd":
                found += [int(process.name)] if mount.device in devices_of(int(process.name)) else []
    return found


def devices_of(process: int) -> frozenset[str]:
    """Of all that a process sees mounted, wherever. Raises OSError."""
    return frozenset(mount.device for _, mount in _table(Path(f"/proc/{process}/mountinfo")))


def _table(place: Path = _TABLE) -> Iterator[tuple[bytes, Mount]]:
    with place.open("rb") as table:
        for line in table:
            number, _, device, _, at, options, _ = line.split(b" ", 6)
            yield _plain(at), Mount(number.decode(), device.decode(), frozenset(options.decode().split(",")))


def _plain(field: bytes) -> bytes:
    return re.sub(rb"\\([0-7]{3})", lambda octal: bytes([int(octal[1], 8)]), field)


class MountNews:
    """Calls ``changed`` in the event loop when anything was mounted or unmounted."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._table = _TABLE.open("rb")
        self._news = select.epoll()  # the table itself can always be read: only its priority events say something
        self._news.register(self._table, select.EPOLLPRI)
        asyncio.get_running_loop().add_reader(self._news.fileno(), self._told)

    def _told(self) -> None:
        self._news.poll(0)
        self._changed()

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._news.fileno())
        self._news.close()
        self._table.close()


class Remounts:
    """Calls ``tell(name, uuid)`` for a guest when something else is mounted where it is given what is mounted there.

    What a guest has seen last is known only as long as it is watched: one that is new here is told as well, and makes nothing
    of it if it knows already."""

    def __init__(self, tell: Callable[[str, str], None]) -> None:
        self._tell = tell
        self._given: Mapping[tuple[str, str], frozenset[Path]] = {}
        self._seen: dict[tuple[str, str], dict[Path, Mount]] = {}
        self._news: MountNews | None = None

    def watch(self, given: Mapping[tuple[str, str], frozenset[Path]]) -> None:
        """From now on these guests (name and uuid), with the places of the mounts that each is given."""
        self._given = given
        self._seen = {guest: mounts for guest, mounts in self._seen.items() if guest in given}
        if given and self._news is None:
            self._news = MountNews(self._look)  # before the look, so that nothing is missed
        elif not given:
            self.close()
        self._look()

    def forget(self, name: str, uuid: str) -> None:
        """It could not be told: it will be with the next look."""
        self._seen.pop((name, uuid), None)

    def close(self) -> None:
        if self._news is not None:
            self._news.close()
            self._news = None

    def _look(self) -> None:
        there = mounts_at(path for paths in self._given.values() for path in paths)
        for guest, paths in self._given.items():
            before, now = self._seen.get(guest, {}), {path: there[path] for path in paths if path in there}
            self._seen[guest] = now
            if any(before.get(path) != mount for path, mount in now.items()):  # one that is gone is no news, but the next is
                self._tell(*guest)
