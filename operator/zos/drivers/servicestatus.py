"""What the programs of services say of themselves, in a file for everybody to read: no secrets, and strangers' words."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from pathlib import Path

_LARGEST, _LONGEST = 4096, 300


def trouble(file: Path) -> str:
    """Empty: nothing, or it can't be understood, or is not there."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        fd = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if stat.S_ISREG(os.fstat(fd).st_mode):
                said = str(json.loads(os.read(fd, _LARGEST))["problem"])
                return "".join(letter if letter.isprintable() else "\ufffd" for letter in said)[:_LONGEST]
        finally:
            os.close(fd)
    return ""
