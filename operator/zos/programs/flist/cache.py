"""Blocks that were had once, in a directory that all flists of a node share.

Stored bytes in files called as their ids. Nobody who shares it is trusted: what is read is checked by who reads it. It takes no
more than its size, whoever writes; those that were not used for longest go first.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from zos.programs.flist.sealing import STORED

#: How much is left after room was made, so that it is not made for each block.
_LEFT = 0.9
_UNIT = 4096


class Cache:
    def __init__(self, directory: Path, size: int) -> None:
        """``size`` in bytes on the disk. Raises OSError where the directory can't be written to."""
        self._directory, self._size = directory, size
        directory.mkdir(parents=True, exist_ok=True)
        with self._alone() as lock:
            self._note(lock, self._shrink(0))

    def get(self, block: bytes) -> bytes | None:
        """What is there under its id, unchecked."""
        place = self._place(block)
        try:
            descriptor = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return None
        with open(descriptor, "rb", buffering=0) as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return None
            with contextlib.suppress(OSError):
                os.utime(descriptor)  # by which is known what was not used for longest
            return file.read(STORED + 1)

    def put(self, block: bytes, stored: bytes) -> None:
        """Whole or not at all. That there is no room for it is no error: the next one who wants it fetches it again."""
        place = self._place(block)
        with contextlib.suppress(OSError), self._alone() as lock:
            if place.exists():
                return
            need = _taken(len(stored))
            held = self._noted(lock)
            if held is None or held + need > self._size:
                held = self._shrink(need)
            if held + need > self._size:
                return
            self._note(lock, held + need)  # first: a crash in between leaves too much noted, which the next counting mends
            new = place.with_name(".new")  # one at a time writes
            new.unlink(missing_ok=True)
            new.write_bytes(stored)
            new.chmod(0o664)
            new.rename(place)

    def drop(self, block: bytes) -> None:
        """It is not what it should be."""
        with contextlib.suppress(OSError):
            self._place(block).unlink()

    def _place(self, block: bytes) -> Path:
        return self._directory / block.hex()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[int]:
        descriptor = os.open(self._directory / ".held", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield descriptor
        finally:
            os.close(descriptor)

    def _noted(self, lock: int) -> int | None:
        text = os.pread(lock, 32, 0)
        return int(text) if text.isdigit() else None

    def _note(self, lock: int, held: int) -> None:
        os.pwrite(lock, b"%032d" % held, 0)

    def _shrink(self, need: int) -> int:
        """Makes room for so many bytes, if there is none; gives how many are there then."""
        found = []
        with os.scandir(self._directory) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    if not entry.name.startswith("."):
                        info = entry.stat(follow_symlinks=False)
                        found.append((info.st_mtime_ns, _taken(info.st_size), entry.path))
        held = sum(size for _, size, _ in found)
        if held + need <= self._size:
            return held
        for _, size, path in sorted(found):
            if held + need <= self._size * _LEFT:
                break
            with contextlib.suppress(OSError):
                os.unlink(path)
                held -= size
        return held


def _taken(size: int) -> int:
    return -(-size // _UNIT) * _UNIT
