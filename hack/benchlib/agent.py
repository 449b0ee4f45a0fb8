"""What an agent costs its node that has much to look after and nothing to do: three hundred networks, twenty machines."""

from __future__ import annotations

import time
from collections.abc import Generator

from benchlib import process
from benchlib.grid import IMAGE, Minigrid, minigrid, obj, push_image
from benchlib.progress import Progress
from benchlib.table import Row

NETWORKS = 300
MACHINES = 20
IDLE = 60.0


def measure(progress: Progress) -> Generator[Row, None, None]:
    progress("a minigrid of one node")
    with minigrid(1) as grid:
        push_image()
        seconds = {"networks": _networks(grid, progress), "machines": _machines(grid, progress)}
        what = f"{NETWORKS} networks and {MACHINES} machines"
        yield Row(f"{NETWORKS} networks on a node, apply → all Ready", seconds["networks"], unit="s")
        time.sleep(30)  # what starting leaves behind: reports, retries, resyncs of the first minute
        agent = grid.agent("n1")
        yield Row(f"descriptors of an agent with {what}", process.descriptors(agent), "<=", 200)
        yield Row(f"threads of an agent with {what}", process.threads(agent), "<=", 40)
        yield Row(f"memory of an agent with {what}", process.resident(agent), "<=", 200, unit="MiB", detail=seconds)
        progress(f"an idle agent, {IDLE:.0f} s")
        yield Row(f"idle agent with {what}", process.share(agent, IDLE), "<", 5, "% of a core")


def _networks(grid: Minigrid, progress: Progress) -> float:
    progress(f"{NETWORKS} networks, each with a userspace WireGuard of its own where the kernel has none")
    began = time.monotonic()
    nodes = [{"name": "n1"}]
    grid.apply(*(obj("Network", f"net-{number}", ipRange="10.80.0.0/16", nodes=nodes) for number in range(NETWORKS)))
    grid.kubectl("wait", "networks", "--all", "--for=condition=Ready", "--timeout=1800s")
    return time.monotonic() - began


def _machines(grid: Minigrid, progress: Progress) -> float:
    progress(f"{MACHINES} machines, real guests")
    began = time.monotonic()
    spec = {"image": IMAGE, "memory": "256Mi", "nodeName": "n1", "entrypoint": ["sh", "-c", "exec sleep 100000"]}
    machines = (obj("ZMachine", f"m-{number}", **spec, network={"name": f"net-{number}"}) for number in range(MACHINES))
    grid.apply(*machines)
    grid.kubectl("wait", "zmachines", "--all", "--for=condition=Ready", "--timeout=900s")
    return time.monotonic() - began
