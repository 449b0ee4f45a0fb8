"""When an API server that was given CRDs serves them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from gridlib.layout import patience


def serves(crds: Path, kubectl: Callable[..., str], seconds: float = 60.0) -> bool:
    """Waits until every kind can be asked for as users do, by name. Established says only that it will be, soon.

    ``kubectl`` runs it and gives what it wrote, nothing if it failed.
    """
    kinds = ",".join(sorted(path.stem for path in crds.glob("*.yaml")))  # the files are called as the CRDs are
    deadline = time.monotonic() + patience(seconds)
    while "List" not in kubectl("get", kinds, "-A", "-o", "json"):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
