"""What has been measured so far: on disk after each row, so that nothing that ends a run takes earlier rows along."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from benchlib.progress import Progress
from benchlib.table import Row, told

Measure = Callable[[Progress], Generator[Row, None, None]]


class Results:
    """``failed``: parts that did not come to their end, and why."""

    def __init__(self, path: Path, machine: Mapping[str, object]) -> None:
        self.path = path
        self.rows: list[Row] = []
        self.failed: dict[str, str] = {}
        self._machine = machine
        self._began = time.time()
        self._write()  # what an earlier run left is not taken for this one's

    @property
    def good(self) -> bool:
        return not self.failed and all(row.kept for row in self.rows)

    def table(self) -> str:
        return "\n".join([told(self.rows), *(f"FAILED {part}: {why}" for part, why in self.failed.items())])

    def measure(self, parts: Mapping[str, Measure]) -> None:
        """One part after the other, whatever becomes of those before."""
        for name, measure in parts.items():
            progress = Progress(name)
            try:
                with closing(measure(progress)) as rows:
                    for row in rows:
                        self.rows.append(row)
                        self._write()
                        progress(row.line())
            except Exception as error:
                traceback.print_exc()
                self.failed[name] = f"{type(error).__name__}: {error}"
                self._write()

    def _write(self) -> None:
        data: dict[str, Any] = {"machine": self._machine, "seconds": time.time() - self._began}
        data |= {"rows": [row.data() for row in self.rows], "failed": self.failed}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = self.path.with_name(self.path.name + ".new")
        new.write_text(json.dumps(data, indent=2) + "\n")
        new.replace(self.path)
