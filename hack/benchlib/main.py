"""hack/bench: parts that measure, one table, JSON beside it."""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
from importlib import import_module
from pathlib import Path

from benchlib.results import Measure, Results

PARTS = {
    "disks": "1,000 ZMounts over bare writes, writes per disk, resyncs, size of the controller",
    "addresses": "1,000 PublicIPs over bare writes, writes per address, a restart with 5,000 held",
    "scale": "one Network over 50, 100 and 200 simulated nodes, then one endpoint changes",
    "mesh": "a Network on three nodes until its routers reach each other; iperf3 through the mesh over a bare pair",
    "guests": "a machine's first output over bare QEMU, API writes of its life; sizes of twenty guests and their agent",
    "machines": "twenty machines at once over virsh create of the same; a VM's cloud-init over bare QEMU",
    "images": "an image of 300 MB in 20,000 files unpacked, from a tar and from a registry, over tar of the same",
    "agent": "descriptors, threads, memory and idle processor time of an agent with 300 networks and 20 machines",
    "volumes": "writes in a volume over those in a plain directory; many volumes made, looked at and erased",
}


def machine() -> dict[str, object]:
    models = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "kernel": platform.release(),
        "kvm": Path("/dev/kvm").exists(),
        "python": platform.python_version(),
    }


def main() -> int:
    listed = "\n".join(f"  {name:8} {text}" for name, text in PARTS.items())
    parser = argparse.ArgumentParser(
        prog="hack/bench",
        description="Measures what the project promises; by turns with what it is compared to, in one run.",
        epilog=f"parts:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("parts", nargs="*", metavar="part", help="all of them if none is named")
    parser.add_argument("--json", type=Path, default=Path("build/bench.json"), help="where the samples go (%(default)s)")
    arguments = parser.parse_args()
    unknown = set(arguments.parts) - PARTS.keys()
    if unknown:
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if os.geteuid() != 0:
        parser.error("it makes nodes: run it as root")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is stopped on the way out
    parts: dict[str, Measure] = {name: import_module(f"benchlib.{name}").measure for name in arguments.parts or PARTS}
    results = Results(arguments.json, machine())
    try:
        results.measure(parts)
    finally:
        print(results.table())
        print(f"samples: {arguments.json}", file=sys.stderr)
    return 0 if results.good else 1


if __name__ == "__main__":
    raise SystemExit(main())
