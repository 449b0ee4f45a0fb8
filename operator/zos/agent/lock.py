"""One agent for one state directory: two would undo each other's work, and each other's disks."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def alone(state: Path, node: str) -> Iterator[None]:
    """Holds the directory as long as this process lives. Raises OSError that says who has it."""
    with open(state / "lock", "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read(200).strip() or "another process"
            raise OSError(f"{state} is in use by {holder}: one agent for one state directory; stop that one first") from None
        file.truncate(0)
        file.write(f"the agent of node {node}, process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield
