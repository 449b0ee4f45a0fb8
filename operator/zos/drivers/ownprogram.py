"""How programs of ours run as services: by the agent's interpreter, with its packages, which a user who is not root may not
find his way to. Those are shown to each, read-only (`Shown`); the interpreter has to lie where everybody may go."""

from __future__ import annotations

import os
import stat
import sys
import sysconfig
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import zos
from zos.drivers import DriverError
from zos.plan.items.service import Shown

#: The interpreter itself, not a virtual environment's name for it.
PYTHON = os.path.realpath(sys.executable)


@dataclass(frozen=True)
class OwnProgram:
    """What goes before its arguments and beside its variables, and what is shown to it."""

    argv: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    shown: tuple[Shown, ...]


def of(module: str) -> OwnProgram:
    shown = tuple(Shown(name=f"packages-{number}", path=path) for number, path in enumerate(_packages()))
    paths = ":".join(f"{{run}}/{one.name}" for one in shown)
    # -P, -s: nothing from its room or its home counts as a module. -B: nothing of them can be written down.
    return OwnProgram((PYTHON, "-B", "-P", "-s", "-m", module), (("PYTHONPATH", paths),), shown)


@cache
def _packages() -> tuple[str, ...]:
    """Where ours and others' are."""
    ours = str(Path(zos.__path__[0]).resolve().parent)
    return tuple(dict.fromkeys((ours, *(os.path.realpath(sysconfig.get_path(kind)) for kind in ("purelib", "platlib")))))


def check() -> None:
    """Raises DriverError where nobody but root could run them."""
    for place in (Path(PYTHON), Path(os.path.realpath(os.__file__))):
        for path in (place, *place.parents):
            needed = stat.S_IXOTH if path.is_dir() or path == Path(PYTHON) else stat.S_IROTH
            if not path.stat().st_mode & needed:
                raise DriverError(
                    f"programs of the node run as users of their own, and {path} is closed to them, where the agent's Python "
                    f"is ({place}): make the agent's environment with one that everybody may run, as /usr/bin/python3"
                )
