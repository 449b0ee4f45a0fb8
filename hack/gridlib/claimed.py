"""What a minigrid's nodes claim to have. A kubelet counts this machine's processors and memory as its node's, and there is no
setting for that; guests of a minigrid share them, emulated and mostly idle, and are to be many. So each kubelet, and nobody
else, sees other files where it counts.
"""

from __future__ import annotations

import os
from pathlib import Path

#: Processors and GiB of each node.
CPU = 72
MEMORY = 32
#: What of it the grid is offered.
OFFER: dict[str, object] = {"cpu": 64, "memory": "16Gi", "storage": "40Gi"}

_PROCESSORS = "/sys/devices/system/node"
_MEMINFO = "/proc/meminfo"


def files(directory: Path) -> dict[Path, str]:
    """What is seen instead."""
    memory = f"MemTotal: {MEMORY * 2**20} kB\nMemFree: {MEMORY * 2**20} kB\nSwapTotal: 0 kB\n"
    made = {directory / "meminfo": memory, directory / "node" / "node0" / "meminfo": memory}
    real = sorted(os.sched_getaffinity(0))
    for number in range(CPU):
        # Each is a core, but pods are let run on those only that there are: a kubelet reads that from the first number.
        topology = directory / "node" / "node0" / f"cpu{real[number % len(real)]}.{number}" / "topology"
        made |= {topology / "core_id": f"{number}\n", topology / "physical_package_id": "0\n"}
    return made


def command(directory: Path, program: str) -> str:
    """A line of a shell that becomes a program which sees them. What it mounts anywhere else is seen by all, as before."""
    seen = ((directory / "node", _PROCESSORS), (directory / "meminfo", _MEMINFO))
    binds = " && ".join(f"mount --bind {source} {place}" for source, place in seen)
    return (
        "exec unshare --mount --propagation unchanged sh -c "
        f"'mount --make-private /sys && mount --make-private /proc && {binds} && exec {program}'"
    )
