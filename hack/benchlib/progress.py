"""Where a measurement stands, on standard error: the table alone goes to standard output."""

from __future__ import annotations

import sys
import time

_BEGAN = time.monotonic()


class Progress:
    def __init__(self, part: str) -> None:
        self.part = part

    def __call__(self, text: str) -> None:
        print(f"{time.monotonic() - _BEGAN:6.0f} s  {self.part}: {text}", file=sys.stderr, flush=True)
