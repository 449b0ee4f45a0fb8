"""Control groups of a minigrid's host that pods run on: the kubelet's are below them. Of version 1 (each hierarchy by itself)
and of version 2."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from gridlib.layout import GridError, patience

_ROOT = Path("/sys/fs/cgroup")
_NEEDED = ("cpu", "cpuset", "memory", "pids")


def make(name: str) -> list[Path]:
    """Empty ones; gives the files by which a process joins them. What an earlier host of that name has left is removed: a
    kubelet takes seconds for each. Raises GridError if they can't be had."""
    remove(name)
    if _unified():
        return [_make_unified(_ROOT / name)]
    joined = []
    for group in _groups(name):
        group.mkdir()
        if (group / "cpuset.cpus").exists():  # begins with none, and so do those below unless they are told otherwise
            for file in ("cpuset.cpus", "cpuset.mems"):
                (group / file).write_text((group.parent / file).read_text())
            (group / "cgroup.clone_children").write_text("1")
        joined.append(group / "cgroup.procs")
    if not joined:
        raise GridError(f"no control groups below {_ROOT}: pods need them")
    return joined


def _make_unified(group: Path) -> Path:
    for name in _NEEDED:
        with contextlib.suppress(OSError):
            (_ROOT / "cgroup.subtree_control").write_text(f"+{name}")
    group.mkdir()
    if lacking := set(_NEEDED) - set((group / "cgroup.controllers").read_text().split()):
        group.rmdir()
        raise GridError(
            f"control groups can't be had of {', '.join(sorted(lacking))}: where this is a container itself, the processes in "
            f"{_ROOT}/cgroup.procs have to be in a group below"
        )
    inner = group / "host"  # a group that has others below has no processes
    inner.mkdir()
    return inner / "cgroup.procs"


def remove(name: str) -> None:
    """Those of a host that is down, with all below. Raises GridError if something still runs in them."""
    deadline = time.monotonic() + patience(20)
    for group in _groups(name):
        while not _removed(group):
            if time.monotonic() > deadline:
                raise GridError(f"{group} is in use: {' '.join((group / 'cgroup.procs').read_text().split()) or 'below it'}")
            time.sleep(0.05)


def _removed(group: Path) -> bool:
    for directory, _, _ in os.walk(group, topdown=False):
        with contextlib.suppress(OSError):  # processes that have been killed are on their way
            os.rmdir(directory)
    return not group.exists()


def _unified() -> bool:
    return (_ROOT / "cgroup.controllers").exists()


def _groups(name: str) -> list[Path]:
    if _unified():
        return [_ROOT / name]
    hierarchies = (path for path in sorted(_ROOT.iterdir()) if not path.is_symlink() and (path / "cgroup.procs").exists())
    return [path / name for path in hierarchies]
