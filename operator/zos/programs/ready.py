"""``ready.py socket|port|mount AT PROGRAM NOTIFY``: tries until a service can be used, and says so to s6.

The Unix socket or TCP port ``AT`` accepts; or the file system that is mounted on ``AT`` answers. ``PROGRAM`` is the pidfd of
what is tried, whose end is the end of this; ``NOTIFY`` the descriptor that s6 hears on. It needs nothing but the standard
library.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
from pathlib import Path

#: Seconds between two tries, at first and at last.
_FIRST, _LAST = 0.02, 2.0


def main(by: str, at: str, program: int, notify: int) -> None:
    nothing = os.open("/dev/null", os.O_RDWR)
    for number in (0, 1, 2):  # the log ends with the program
        os.dup2(nothing, number)
    mounts = os.open("/proc/self/mountinfo", os.O_RDONLY)
    poll = select.poll()
    poll.register(program, select.POLLIN)
    if by == "mount":
        poll.register(mounts, select.POLLPRI)  # there is another mount, or one less
    wait = _FIRST
    while True:
        with contextlib.suppress(OSError):
            if _answers(by, at):
                os.write(notify, b"\n")
                return
        if any(number == program for number, _ in poll.poll(wait * 1000)):
            return
        wait = min(_LAST, wait * 1.5)


def _answers(by: str, at: str) -> bool:
    if by == "mount":
        if not _mounted(at):
            return False
        os.statvfs(at)  # until who serves it answers
        return True
    if by == "socket":
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(1.0)
            client.connect(at)
        return True
    host, _, port = at.rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), 1.0):
        return True


def _mounted(place: str) -> bool:
    escaped = place.replace("\\", "\\134").replace(" ", "\\040").replace("\t", "\\011").replace("\n", "\\012")
    return any(line.split(" ")[4] == escaped for line in Path("/proc/self/mountinfo").read_text().splitlines())


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
