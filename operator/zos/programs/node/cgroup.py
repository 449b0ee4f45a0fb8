"""Out of a pod's control groups, which end with it, into one beside those of all pods.

In every hierarchy there is (version 1 has one a controller) that is ``zos`` beside ``kubepods``, as far up as the kubelet was
told to make that. What is in it is bounded by nobody but the machine: the runtime pod's requests speak for it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from zos.programs.node import kernel

NAME = "zos"
_CGROUPS = Path("/proc/1/root/sys/fs/cgroup")


#: What has a group's weight among those beside it, and what it is by itself: of version 1, and of version 2.
_WEIGHTS = {"cpu.shares": 1024, "cpu.weight": 100}


def leave_pod() -> None:
    """This process, for good; children follow. In no pod's group: stays where it is. Raises OSError."""
    for group in beside_pods():
        group.mkdir(exist_ok=True)
        _inherit(group)
        (group / "cgroup.procs").write_text(str(os.getpid()))


def hand_on_weight() -> None:
    """What this pod asks for of processors it asks for guests: their group has its weight. This process does not see its own
    namespace as before. Raises OSError."""
    for pod, group in _groups():
        for name, least in _WEIGHTS.items():
            if (pod / name).exists() and (group / name).exists():
                (group / name).write_text(str(max(least, int((pod / name).read_text()))))


def beside_pods() -> list[Path]:
    """Where they are, one in each hierarchy in which this process is in a pod's. It does not see its namespace as before."""
    return [group for _, group in _groups()]


def _groups() -> list[tuple[Path, Path]]:
    """This process' own, and that beside all pods'."""
    kernel.leave_for("/proc/1/ns/cgroup", kernel.NEWCGROUP)  # or it would take its own group for the top
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    found = [place for line in lines if (place := pod_of(line, (_CGROUPS / "unified").is_dir(), _mounted)) is not None]
    return [(_CGROUPS / directory / own, _CGROUPS / directory / top / NAME) for directory, own, top in found]


def _mounted(directory: str) -> bool:
    return (_CGROUPS / directory).is_dir()


def pod_of(line: str, hybrid: bool, mounted: Callable[[str], bool]) -> tuple[str, str, str] | None:
    """Of a line of /proc/PID/cgroup (cgroups(7)): below which directory its hierarchy is mounted, the group in it, and the one
    in which the kubelet has its own; None where the line is not about a pod's. ``hybrid``: version 2 is mounted beside 1."""
    _, controllers, path = line.split(":", 2)
    parts = PurePosixPath(path).parts
    top = next((index for index, part in enumerate(parts) if "kubepods" in part), None)  # or kubelet-kubepods.slice
    if top is None:
        return None
    own, above = "/".join(parts[1:]), "/".join(parts[1:top])
    if not controllers:
        return ("unified" if hybrid else ".", own, above)
    named = controllers.removeprefix("name=")
    # A hierarchy of several controllers is mounted under all their names, or under each.
    directory = next((found for found in (named, *named.split(",")) if mounted(found)), None)
    return (directory, own, above) if directory is not None else None


def _inherit(group: Path) -> None:
    """A cpuset of version 1 begins with nothing, and takes nobody."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        with contextlib.suppress(FileNotFoundError):
            if not (group / name).read_text().strip():
                (group / name).write_text((group.parent / name).read_text())
