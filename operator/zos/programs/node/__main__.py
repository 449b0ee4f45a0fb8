"""``zos-node VERB``: what the pods of a node run, and what administrators ask of it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from zos.programs.node import agent, clean, image, layout, preflight, runtime, tree
from zos.programs.node.commands import CommandFailed


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="zos-node", description="What the pods of a node run, and what is asked of it.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    verbs.add_parser("runtime", help="bring up what guests need, and keep it up (a pod's)")
    made = verbs.add_parser("agent", help="run the agent in the node's tree (a pod's)")
    made.add_argument("arguments", nargs=argparse.REMAINDER, help="the agent's own")
    verbs.add_parser("ready", help="exit 0 if guests can be started (a probe's)")
    verbs.add_parser("preflight", help="say what this node lacks, and what to do about it")
    made = verbs.add_parser("exec", help="run a command where guests and services are: virsh, ip netns, bash")
    made.add_argument("arguments", nargs=argparse.REMAINDER, metavar="COMMAND")
    made = verbs.add_parser("clean", help="end all guests and services, and take away what they leave in the node's network")
    made.add_argument("--erase-data", action="store_true", help="and erase its disks, images and keys, for good")
    told = parser.parse_args(arguments)
    try:
        match told.verb:
            case "runtime":
                return runtime.run()
            case "agent":
                return agent.run([word for index, word in enumerate(told.arguments) if index or word != "--"])
            case "exec":
                return _execute(told.arguments or ["bash"])
            case "ready":
                return 0 if runtime.ready() else 1
            case "preflight":
                return 0 if preflight.passed() else 1
            case _:
                return clean.run(erase=told.erase_data)
    except (OSError, RuntimeError, ValueError, CommandFailed) as error:
        return runtime.failed(error)


def _execute(command: Sequence[str]) -> int:
    identity = layout.image_id()
    with tree.locked():
        image.install(identity)
        tree.add_root(identity)
        child = tree.within(identity, lambda: os.execvp(command[0], [*command]))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 0xFF


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
