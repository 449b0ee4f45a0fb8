"""Waiting for processes to end, and for a signal to end oneself."""

from __future__ import annotations

import os
import select
import signal
from types import FrameType


class Waiting:
    """``told`` is whether this process is to end: SIGTERM or SIGINT came."""

    def __init__(self) -> None:
        self.told = False
        self._wakes, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.told = True

    def until_one_ends(self, *processes: int) -> frozenset[int]:
        """Until one of them has ended, or a signal came; gives those that have ended. They need be nobody's children."""
        open_ones: dict[int, int] = {}
        try:
            for process in processes:
                try:
                    open_ones[os.pidfd_open(process)] = process
                except ProcessLookupError:
                    return frozenset({process})
            ready, _, _ = select.select([*open_ones, self._wakes], [], [])
            if self._wakes in ready:
                os.read(self._wakes, 64)
            return frozenset(open_ones[fd] for fd in ready if fd in open_ones)
        finally:
            for fd in open_ones:
                os.close(fd)
