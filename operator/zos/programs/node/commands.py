"""The programs of others that a node's pods run."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

#: How much of a command, and of what it said, is told: one on a full disk complains of each of thousands of files.
_SHOWN = 1000


class CommandFailed(Exception):
    """The text has the command, and the last of what it said."""


def run(*argv: str) -> str:
    """What it wrote. Raises CommandFailed."""
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip() or f"ended with {done.returncode}"
        raise CommandFailed(f"{' '.join(argv)[:_SHOWN]}: {said[-_SHOWN:]}")
    return done.stdout


def show(logs: Sequence[Path]) -> subprocess.Popen[bytes]:
    """Writes what comes into these files to this process' own output, as they come and go. It ends with this process."""
    argv = ["tail", "-q", "-n0", f"--pid={os.getpid()}", "-F", *map(str, logs)]
    return subprocess.Popen(argv, stderr=subprocess.DEVNULL)
