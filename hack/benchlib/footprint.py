"""What a guest costs its node beside its own memory: QEMU's and virtiofsd's share of the machine's memory (Pss)."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from benchlib.table import Row

#: As the kernel calls them (15 letters).
_QEMU, _DAEMON = "qemu-system-x86", "virtiofsd"
_MAPPING = re.compile(r"[0-9a-f]+-[0-9a-f]+ ")
#: The guest's memory: QEMU and the daemon, which reads in it, have both mapped it.
_GUESTS = "/memfd:"


def beside(smaps: str) -> int:
    """KiB of proportional set size in the text of a /proc/PID/smaps (proc(5)) that are not the guest's memory. By mappings, and
    not as the whole less the memory's nominal size: what a guest has not touched yet would make the rest look smaller."""
    total, guests = 0, False
    for line in smaps.splitlines():
        if _MAPPING.match(line):
            guests = _GUESTS in line
        elif line.startswith("Pss:") and not guests:
            total += int(line.split()[1])
    return total


def measure(resident: int, machines: int) -> Row:
    """Of all guests of the node whose process ``resident`` is, on average: which daemon is whose is not told by the kernel.
    Pages of programs and libraries count once for all of them."""
    sizes: dict[str, list[float]] = {_QEMU: [], _DAEMON: []}
    for process in _beside(resident):
        with contextlib.suppress(OSError):
            program = (process / "comm").read_text().strip()
            if program in sizes:
                sizes[program].append(beside((process / "smaps").read_text()) / 1024)
    if len(sizes[_QEMU]) != machines:
        raise RuntimeError(f"{machines} machines should run, {len(sizes[_QEMU])} do")
    value = sum(map(sum, sizes.values())) / machines
    return Row("memory per guest beside its RAM, Pss of QEMU and virtiofsd", value, "<=", 60, "MiB", {"MiB of each": sizes})


def _beside(resident: int) -> Iterator[Path]:
    """Processes of the same host."""
    space = Path(f"/proc/{resident}/ns/pid").readlink()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "ns/pid").readlink() == space:
                yield process
