"""The node's accounts: a user number for each name that asks for one, the same for ever.

A number is never given to a second name, and never taken back: whatever was left lying somewhere would be the next one's. The
range is far more than a node will ever have names (16 million); of names that are gone a line of the file is left.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from zos.drivers import DriverError

#: Outside of what distributions, systemd (its UIDS-GIDS document), container engines and their subordinate ranges give out.
FIRST = 0x7A00_0000
LAST = 0x7AFF_FFFF
_LINE = re.compile(r"(\d+) ([A-Za-z0-9_][A-Za-z0-9_.-]{0,199})\n")


class Accounts:
    """``state`` holds the file. Where that is lost, a name gets the number it had: it is made of the name itself, but where
    two names would have met; those are told apart by ``found``, pairs of name and number that other things on the node's disk
    tell of, and which no other name may get."""

    def __init__(self, state: Path, found: Callable[[], Iterable[tuple[str, int]]] = tuple) -> None:
        self._file = state / "accounts"
        self._found = found
        self._lock = threading.Lock()
        self._known: dict[str, int] | None = None

    def uid(self, name: str) -> int:
        """User and group number of a name; safely on disk before anybody hears of it. Raises DriverError, OSError."""
        with self._lock:
            known = self._read()
            if name in known:
                return known[name]
            if not _LINE.fullmatch(f"0 {name}\n"):
                raise DriverError(f"{name!r} can't be the name of an account")
            number = self._free(name, known)
            self._append(f"{number} {name}\n")
            known[name] = number
            return number

    def _read(self) -> dict[str, int]:
        """Whatever is known already is right for as long as this process lives: numbers only ever come."""
        if self._known is not None and self._file.exists():
            return self._known
        try:
            text = self._file.read_text(errors="replace")
        except FileNotFoundError:
            text = ""
        told: dict[str, int] = {}
        for line in text.splitlines(keepends=True):
            if (match := _LINE.fullmatch(line)) is not None:
                _take(told, match[2], int(match[1]))
        known = dict(told)
        for name, number in (*(self._known or {}).items(), *self._found()):  # the file was lost, or a part of it
            _take(known, name, number)
        for name in known.keys() - told.keys():
            self._append(f"{known[name]} {name}\n")
        self._known = known
        return known

    def _free(self, name: str, known: dict[str, int]) -> int:
        taken = set(known.values())
        size = LAST - FIRST + 1
        begin = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
        for step in range(size):
            if (number := FIRST + (begin + step) % size) not in taken:
                return number
        raise DriverError("all accounts of this node were given away")

    def _append(self, line: str) -> None:
        new = not self._file.exists()
        fd = os.open(self._file, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            size = os.fstat(fd).st_size
            torn = size and os.pread(fd, 1, size - 1) != b"\n"  # of a power cut: nobody was told of it
            os.write(fd, (f"\n{line}" if torn else line).encode())
            os.fsync(fd)
        finally:
            os.close(fd)
        if new:
            directory = os.open(self._file.parent, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)


def _take(known: dict[str, int], name: str, number: int) -> None:
    """Who was told first is right: no name has two numbers, no number two names."""
    if name not in known and FIRST <= number <= LAST and number not in known.values():
        known[name] = number
