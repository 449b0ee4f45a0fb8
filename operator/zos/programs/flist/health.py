"""Whether blocks can be had, for who looks after the program: a small file that changes when that changes.

``{"well": true, "since": 1730000000, "problem": "", "failed": 0, "fetched": 12, "bytes": 4711}``: what went wrong last, as
long as it is so; reads that failed, blocks and bytes that were fetched since the program started.
"""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path

_LONGEST = 300
#: Seconds between two writes where only numbers have changed.
_OFTEN = 10.0


class Health:
    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._since, self._written = int(time.time()), 0.0
        self.problem = ""
        self.failed = self.fetched = self.bytes = 0
        self._write()

    def had(self, size: int) -> None:
        """A block came from where it is stored."""
        self.fetched += 1
        self.bytes += size
        self._turn("")

    def mended(self) -> None:
        """What could not be had is here."""
        self._turn("")

    def missed(self, problem: str) -> None:
        """Somebody wanted a block, and it could not be had."""
        self.failed += 1
        self._turn("".join(letter if letter.isprintable() else "?" for letter in problem)[:_LONGEST])

    def _turn(self, problem: str) -> None:
        turned = bool(problem) != bool(self.problem)
        self.problem = problem
        if turned:
            self._since = int(time.time())
            print(f"a block can't be had: {problem}" if problem else "blocks can be had again", flush=True)
        if turned or time.monotonic() - self._written > _OFTEN:
            self._write()

    def _write(self) -> None:
        self._written = time.monotonic()
        if self._file is None:
            return
        numbers = {"failed": self.failed, "fetched": self.fetched, "bytes": self.bytes}
        new = self._file.with_name(f".{self._file.name}.new")
        with contextlib.suppress(OSError):
            new.write_text(json.dumps({"well": not self.problem, "since": self._since, "problem": self.problem, **numbers}))
            new.chmod(0o644)
            new.rename(self._file)
