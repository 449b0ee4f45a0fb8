"""Out of a pod's control groups, which end with it, into one beside those of all pods.

In every hierarchy there is (version 1 has one a controller) that is ``zos`` beside ``kubepods``, as far up as the kubelet was
told to make that. What is in it is bounded by nobody but the machine: the runtime pod's requests speak for it.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path, PurePosixPath

from zos.programs.node import kernel

NAME = "zos"
_CGROUPS = Path("/proc/1/root/sys/fs/cgroup")


def leave_pod() -> None:
    """This process, for good; children follow. In no pod's group: stays where it is. Raises OSError."""
    for group in beside_pods():
        group.mkdir(exist_ok=True)
        _inherit(group)
        (group / "cgroup.procs").write_text(str(os.getpid()))


def beside_pods() -> list[Path]:
    """Where they are, one in each hierarchy in which this process is in a pod's. It does not see its namespace as before."""
    kernel.leave_for("/proc/1/ns/cgroup", kernel.NEWCGROUP)  # or it would take its own group for the top
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    return [_CGROUPS / directory / place / NAME for line in lines for directory, place in _pods(line)]


def _pods(line: str) -> list[tuple[str, str]]:
    """Of a line of /proc/PID/cgroup (cgroups(7)): below which directory its hierarchy is mounted, and where in it the kubelet
    has its groups; nothing where the line is not about a pod's."""
    _, controllers, path = line.split(":", 2)
    parts = PurePosixPath(path).parts
    top = next((index for index, part in enumerate(parts) if "kubepods" in part), None)  # or kubelet-kubepods.slice
    if top is None:
        return []
    place = str(PurePosixPath(*parts[1:top]))
    if not controllers:
        return [("unified" if (_CGROUPS / "unified").is_dir() else ".", place)]
    named = controllers.removeprefix("name=")
    # A hierarchy of several controllers is mounted under all their names, or under each.
    return [(directory, place) for directory in dict.fromkeys((named, *named.split(","))) if (_CGROUPS / directory).is_dir()][
        :1
    ]


def _inherit(group: Path) -> None:
    """A cpuset of version 1 begins with nothing, and takes nobody."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        with contextlib.suppress(FileNotFoundError):
            if not (group / name).read_text().strip():
                (group / name).write_text((group.parent / name).read_text())
