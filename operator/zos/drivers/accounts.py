"""The node's accounts: a user number for each name that asks for one, the same for ever.

A number is never given to a second name, and never taken back: whatever was left lying somewhere would be the next one's. That
nothing was left nobody can know: no volume and no service tells of a file that a program has put into /var/tmp or /dev/shm, or
of its queues and its shared memory. So a line is left of each name that is gone, and to look a number up, or to give one out,
costs the same for that. The range is far more than a node will ever have names (16 million).
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from zos.drivers import DriverError
from zos.files import sync

#: Outside of what distributions, systemd (its UIDS-GIDS document), container engines and their subordinate ranges give out.
FIRST = 0x7A00_0000
LAST = 0x7AFF_FFFF
_LINE = re.compile(r"(\d+) ([A-Za-z0-9_][A-Za-z0-9_.-]{0,199})\n")


class _Numbers:
    """Who was told first is right: no name has two numbers, no number two names."""

    def __init__(self) -> None:
        self.of: dict[str, int] = {}
        self.taken: set[int] = set()

    def take(self, name: str, number: int) -> bool:
        """Whether it is that name's from now on, and was not before. Nobody has what could not be written down."""
        if name in self.of or number in self.taken:
            return False
        if not FIRST <= number <= LAST or _LINE.fullmatch(f"{number} {name}\n") is None:
            return False
        self.of[name] = number
        self.taken.add(number)
        return True


class Accounts:
    """``state`` holds the file. Where that is lost, a name gets the number it had: it is made of the name itself, but where
    two names would have met; those are told apart by ``found``, pairs of name and number that other things on the node's disk
    tell of, and which no other name may get."""

    def __init__(self, state: Path, found: Callable[[], Iterable[tuple[str, int]]] = tuple) -> None:
        self._file = state / "accounts"
        self._found = found
        self._lock = threading.Lock()
        self._known: _Numbers | None = None

    def uid(self, name: str) -> int:
        """User and group number of a name; safely on disk before anybody hears of it. Raises DriverError, OSError."""
        with self._lock:
            known = self._read()
            if (told := known.of.get(name)) is not None:
                return told
            if not _LINE.fullmatch(f"0 {name}\n"):
                raise DriverError(f"{name!r} can't be the name of an account")
            number = self._free(name, known)
            self._append([f"{number} {name}\n"])
            known.take(name, number)
            return number

    def _read(self) -> _Numbers:
        """Whatever is known already is right for as long as this process lives: numbers only ever come."""
        if self._known is not None and self._file.exists():
            return self._known
        try:
            text = self._file.read_text(errors="replace")
        except FileNotFoundError:
            text = ""
        known = _Numbers()
        for line in text.splitlines(keepends=True):
            if (match := _LINE.fullmatch(line)) is not None:
                known.take(match[2], int(match[1]))
        before = self._known.of.items() if self._known is not None else ()
        lost = [pair for pair in (*before, *self._found()) if known.take(*pair)]  # with the file, or a part of it
        if lost:
            self._append([f"{number} {name}\n" for name, number in lost])
        self._known = known
        return known

    def _free(self, name: str, known: _Numbers) -> int:
        size = LAST - FIRST + 1
        begin = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
        for step in range(size):
            if (number := FIRST + (begin + step) % size) not in known.taken:
                return number
        raise DriverError("all accounts of this node were given away")

    def _append(self, lines: Sequence[str]) -> None:
        new = not self._file.exists()
        fd = os.open(self._file, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            size = os.fstat(fd).st_size
            if size and os.pread(fd, 1, size - 1) != b"\n":
                # Half a line, of a power cut: nobody was told of it, and ended by another it would be somebody else's.
                os.ftruncate(fd, self._file.read_bytes().rfind(b"\n") + 1)
            with open(fd, "ab", closefd=False) as file:
                file.write("".join(lines).encode())
            os.fsync(fd)
        finally:
            os.close(fd)
        if new:  # appended to, and so not written by `zos.files`
            sync(self._file.parent)
