"""How much a program may make of a stranger's bytes: no more than an image may have, and never what must stay free on the disk.
It is asked before anything is written, since who looks afterwards looks too late."""

from __future__ import annotations

import os

#: Bytes that are written between two looks at the disk, and what an entry takes of it beside its content.
_LOOK, _ENTRY = 4 << 20, 4096


class Exceeded(Exception):
    """In the words that a program ends with: ``too big: BYTES ENTRIES``, or ``no room: BYTES FREE``."""


class Budget:
    """Bytes (``size``) and entries of an image, and bytes that stay free (``kept``) on the file system that ``fd`` is on."""

    def __init__(self, size: int, entries: int, kept: int, fd: int) -> None:
        self.size = size
        self._entries = entries
        self._kept = kept
        self._fd = fd
        self._held = self._count = 0
        self._unseen = _LOOK

    def add(self, size: int = 0, entries: int = 0) -> None:
        """For what there is going to be of it. Raises Exceeded."""
        self._held += size
        self._count += entries
        if self._held > self.size or self._count > self._entries:
            raise Exceeded(f"too big: {self._held} {self._count}")
        if entries:
            self.write(entries * _ENTRY)

    def take_back(self, size: int) -> None:
        """It is there no more."""
        self._held -= size

    def write(self, size: int) -> None:
        """For what is going to be written, a few MiB at most. Raises Exceeded."""
        self._unseen += size
        if self._unseen >= _LOOK:
            self._unseen = 0
            disk = os.fstatvfs(self._fd)
            free = disk.f_bavail * disk.f_frsize
            if free - _LOOK - size < self._kept:
                raise Exceeded(f"no room: {self._held} {free}")
