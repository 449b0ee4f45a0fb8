"""Machines over what a person would do who knows QEMU and libvirt: a virtual machine, and many containers at once."""

from __future__ import annotations

from collections.abc import Generator

from benchlib import crowd, virtual
from benchlib.grid import IMAGE, Minigrid, minigrid, obj, push_image
from benchlib.progress import Progress
from benchlib.table import Row

_NETWORK = "net"


def measure(progress: Progress) -> Generator[Row, None, None]:
    progress(f"a minigrid of {len(crowd.NODES)} nodes")
    with minigrid(len(crowd.NODES)) as grid:
        push_image(virtual=True)
        grid.apply(obj("Network", _NETWORK, ipRange="10.80.0.0/16", nodes=[{"name": node} for node in crowd.NODES]))
        grid.kubectl("wait", f"network/{_NETWORK}", "--for=condition=Ready", "--timeout=60s")
        _spread(grid, progress)
        yield crowd.measure(grid, _NETWORK, progress)
        yield virtual.measure(grid, _NETWORK, progress)


def _spread(grid: Minigrid, progress: Progress) -> None:
    """The image comes to each node."""
    progress("the image comes to each node")
    spec = {"image": IMAGE, "memory": "256Mi", "network": {"name": _NETWORK}, "entrypoint": ["sh", "-c", "exec sleep 100000"]}
    grid.apply(*(obj("ZMachine", f"first-{node}", **spec, nodeName=node) for node in crowd.NODES))
    grid.kubectl("wait", "zmachines", "--all", "--for=condition=Ready", "--timeout=300s")
    grid.kubectl("delete", "zmachines", "--all", "--timeout=120s")
