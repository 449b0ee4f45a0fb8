"""Who has a UDP port of the node's, by what the kernel shows (proc(5): /proc/net/udp, /proc/<process>/fd)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

_PROC = Path("/proc")


def holder(port: int, proc: Path = _PROC) -> str | None:
    """In words, None where nobody has it. In the network namespace of who asks, by whichever address: each keeps a WireGuard,
    which takes all of them, out."""
    sockets = {f"socket:[{inode}]" for inode in _inodes(port, proc)}
    if not port or not sockets:
        return None
    for process in sorted((path for path in proc.iterdir() if path.name.isdigit()), key=lambda path: int(path.name)):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if any(_link(file) in sockets for file in (process / "fd").iterdir()):
                return f"{(process / 'comm').read_text().strip()} (process {process.name})"
    return "what is no process here, as another WireGuard of the kernel's"


def _inodes(port: int, proc: Path) -> Iterator[str]:
    for table in ("udp", "udp6"):
        with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
            for line in (proc / "self" / "net" / table).read_text().splitlines()[1:]:
                fields = line.split()
                if int(fields[1].rpartition(":")[2], 16) == port:
                    yield fields[9]


def _link(file: Path) -> str:
    with contextlib.suppress(OSError):
        return os.readlink(file)
    return ""
