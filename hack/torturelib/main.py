"""hack/torture NAME: see --help."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import random
import signal
import sys
from importlib import import_module
from types import ModuleType

from torturelib import chaos

NAMES = {
    "truth": "real disks and guests on a minigrid: whatever dies or is away for a while, no byte is lost, no guest stopped",
    "grid": "many objects on simulated nodes under edits, restarts and drift: nothing is given twice, everything gets Ready",
    "machines": "many guests through their node's reboot; crashes while images are unpacked and disks written or grown",
    "power": "one node's drivers on a file system whose power is cut: nothing half is taken for whole, nothing safe is lost",
    "helm": "the product's life on kubelets: upgrades, drains, crashes, lost kinds and rights; guests notice nothing",
    "bytes": "hostile bytes in whatever the product reads, on simulated nodes: everyone else is served",
}


def main() -> int:
    listed = "\n".join(f"  {name:9} {text}" for name, text in NAMES.items())
    parser = argparse.ArgumentParser(
        prog="hack/torture",
        description="Long chaotic runs with invariants that are looked at all the while. Ends with 1 where one was violated.",
        epilog=f"names:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", nargs="?", choices=sorted(NAMES), metavar="NAME")
    parser.add_argument("--seconds", type=float, default=600, help="of chaos; settling and deleting come after (%(default)s)")
    parser.add_argument("--seed", type=int, help="chooses the actions; a run tells its own (default: another each time)")
    parser.add_argument("--actions", default="", help="comma-separated, instead of all that fit into the run; or: all")
    parser.add_argument(
        "--steps", default="", help="comma-separated: these in this order, once, each NAME or NUMBER:NAME, as told"
    )
    parser.add_argument("--list", action="store_true", help="names, and their actions")
    arguments = parser.parse_args()
    if arguments.list:
        return show([arguments.name] if arguments.name else sorted(NAMES))
    if arguments.name is None:
        parser.error(f"which one? {', '.join(NAMES)}")
    if os.geteuid() != 0:
        parser.error("it makes nodes: run it as root")
    logging.basicConfig(level=logging.CRITICAL)  # what the tortured say of themselves is no news
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is stopped on the way out
    seed = random.SystemRandom().randrange(10**6) if arguments.seed is None else arguments.seed
    asked = [word for word in arguments.actions.split(",") if word]
    try:
        steps = chaos.steps_of(arguments.steps)
    except ValueError as wrong:
        parser.error(f"--steps {wrong}")
    try:
        return asyncio.run(of(arguments.name).run(seed, arguments.seconds, asked, steps))
    except KeyError as unknown:
        print(f"{arguments.name} has no action {unknown}: see hack/torture {arguments.name} --list", file=sys.stderr)
        return 2


def of(name: str) -> ModuleType:
    """The module of a torture: it has SCENARIO, and ``run(seed, seconds, asked, steps)`` that gives the exit code."""
    return import_module({"bytes": "torturelib.hostile"}.get(name, f"torturelib.{name}"))


def show(names: list[str]) -> int:
    for name in names:
        print(f"{name}: {NAMES[name]}")
        for action in of(name).SCENARIO.actions:
            print(f"  {action.name}{' — not in short runs' if action.slow else ''}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
