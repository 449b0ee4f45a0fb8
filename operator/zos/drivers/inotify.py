"""File system notifications (inotify(7)) in the event loop; the standard library has none."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

MODIFY = 0x2
CLOSE_WRITE = 0x8
MOVED_FROM = 0x40
MOVED_TO = 0x80
CREATE = 0x100
DELETE = 0x200
DELETE_SELF = 0x400
ONLYDIR = 0x01000000
#: Anything that adds, replaces or removes what a directory lists.
ENTRIES = MOVED_FROM | MOVED_TO | CREATE | DELETE | DELETE_SELF | CLOSE_WRITE | ONLYDIR

_OVERFLOW, _IGNORED = 0x4000, 0x8000

_libc = ctypes.CDLL(None, use_errno=True)


class Inotify:
    """Calls ``changed`` when something happens in one of the watched directories. Bursts come as one call.

    ``counts`` is asked of each event, with the directory and the name in it (empty: the directory itself; for both: so much
    happened that some was lost), and says whether it counts. Without it all do.
    """

    def __init__(self, changed: Callable[[], None], counts: Callable[[Path | None, str], bool] | None = None) -> None:
        self._changed = changed
        self._counts = counts
        self._watches: dict[Path, int] = {}
        self._fd = _check(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        asyncio.get_running_loop().add_reader(self._fd, self._read)

    def watch(self, directories: Iterable[Path], mask: int = ENTRIES) -> None:
        """Watches exactly these directories from now on; those that don't exist are passed over."""
        wanted = set(directories)
        for gone in self._watches.keys() - wanted:
            _libc.inotify_rm_watch(self._fd, self._watches.pop(gone))
        for path in wanted:
            watch = _libc.inotify_add_watch(self._fd, os.fsencode(path), mask)  # again for one that was replaced
            if watch >= 0:
                self._watches[path] = watch
            elif ctypes.get_errno() in (errno.ENOENT, errno.ENOTDIR):
                self._watches.pop(path, None)
            else:
                _check(watch)

    def close(self) -> None:
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _read(self) -> None:
        try:
            data = os.read(self._fd, 65536)
        except BlockingIOError:
            return
        if self._counts is None or True in [self._counts(*event) for event in self._events(data)]:
            self._changed()

    def _events(self, data: bytes) -> Iterator[tuple[Path | None, str]]:
        paths = {watch: path for path, watch in self._watches.items()}
        offset = 0
        while offset < len(data):
            watch, mask, _, length = struct.unpack_from("iIII", data, offset)
            name = data[offset + 16 : offset + 16 + length].split(b"\0")[0]
            offset += 16 + length
            if mask & _OVERFLOW:
                yield None, ""
            elif watch in paths and not mask & _IGNORED:
                yield paths[watch], os.fsdecode(name)


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
