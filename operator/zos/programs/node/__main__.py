"""``zos-node VERB``: what the pods of a node run, and what administrators ask of it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from zos.programs.node import agent, clean, preflight, runtime
from zos.programs.node.commands import CommandFailed


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="zos-node", description="What the pods of a node run, and what is asked of it.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    verbs.add_parser("runtime", help="bring up what guests need, and keep it up (a pod's)")
    made = verbs.add_parser("agent", help="run the agent in the node's tree (a pod's)")
    made.add_argument("arguments", nargs=argparse.REMAINDER, help="the agent's own")
    verbs.add_parser("ready", help="exit 0 if guests can be started (a probe's)")
    verbs.add_parser("preflight", help="say what this node lacks, and what to do about it")
    made = verbs.add_parser("clean", help="end all guests and services, and take away what they leave in the node's network")
    made.add_argument("--erase-data", action="store_true", help="and erase its disks, images and keys, for good")
    told = parser.parse_args(arguments)
    try:
        match told.verb:
            case "runtime":
                return runtime.run()
            case "agent":
                return agent.run([word for index, word in enumerate(told.arguments) if index or word != "--"])
            case "ready":
                return 0 if runtime.answers() else 1
            case "preflight":
                return 0 if preflight.passed() else 1
            case _:
                return clean.run(erase=told.erase_data)
    except (OSError, RuntimeError, ValueError, CommandFailed) as error:
        return runtime.failed(error)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
