"""A pytest plugin that writes down which lines of the operator each test runs, and how long it takes: one JSON object a line in
the file that ZOS_MUTATE_TOUCHED names. What runs while a module is imported belongs to no test."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

_ROOT = str(Path("operator/zos").resolve()) + os.sep
_Tracer = Callable[[FrameType, str, Any], Any]


class _Record:
    """Of one test: lines by file. Each file has one function that the interpreter calls for each of its lines."""

    def __init__(self) -> None:
        self.lines: dict[str, set[int]] = {}
        self._tracers: dict[str, _Tracer | None] = {}

    def enter(self, frame: FrameType, _event: str, _arg: Any) -> _Tracer | None:
        file = frame.f_code.co_filename
        if file not in self._tracers:
            self._tracers[file] = self._tracer(file) if file.startswith(_ROOT) else None
        return self._tracers[file]

    def _tracer(self, file: str) -> _Tracer:
        add = self.lines.setdefault(file.removeprefix(_ROOT), set()).add

        def line(frame: FrameType, _event: str, _arg: Any) -> _Tracer:
            add(frame.f_lineno)
            return line

        return line


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    record = _Record()
    began = time.monotonic()
    threading.settrace(record.enter)
    sys.settrace(record.enter)
    try:
        return (yield)
    finally:
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]
        said = {
            "test": item.nodeid,
            "seconds": round(time.monotonic() - began, 3),
            "lines": {file: sorted(lines) for file, lines in record.lines.items() if lines},
        }
        with open(os.environ["ZOS_MUTATE_TOUCHED"], "a") as out:
            out.write(json.dumps(said) + "\n")
