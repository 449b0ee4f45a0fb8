"""Takes a node out of use: ends what runs in its tree, and takes away what that leaves in the host's network.

What lies on its disk stays, unless its erasing is asked for in so many words.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import time
from pathlib import Path

from zos.programs.node import cgroup, children, commands, kernel, layout, tree
from zos.programs.node.commands import CommandFailed
from zos.programs.node.runtime import say

_GONE = 20.0
#: Seconds for the node's pods to go, which are told at the same time as who cleans.
_LEAVE = 60.0
#: What drivers call links and tables in the host's network: `zos.api.names`, and `zos-fetch` of fetchers.
_LINK = re.compile(r"[btuvwlp]-[a-z2-7]{10}(-\d+)?")
_TABLE = re.compile(r"zos-[a-z2-7]{10}(-\d+)?|zos-[a-z]+")


def run(*, erase: bool) -> int:
    """Raises OSError, RuntimeError, CommandFailed where something can't be taken away."""
    _until_no_pods()
    with tree.locked():
        ended = _end_all()
        say(f"ended: {ended} processes of guests and services")
        _release()
        links, tables = _links(), _tables()
        say(f"taken away from the host's network: {len(links)} links, {len(tables)} tables")
        if not erase:
            say(f"disks, images and keys stay in {layout.STATE}; zos-node clean --erase-data erases them")
            return 0
    if left := _erase(layout.STATE, kept=("shared",)):
        raise RuntimeError(f"not erased: {'; '.join(left)}")
    say(f"erased: all that was in {layout.STATE}, but for {layout.STATE}/shared, which is the node's owner's")
    return 0


def _erase(directory: Path, kept: tuple[str, ...] = ()) -> list[str]:
    """All that is in it; where something is mounted, all that is in that. Gives what could not be erased, and why."""
    failed = []
    for path in directory.iterdir():
        if path.name in kept:
            continue
        try:
            if path.is_symlink() or not path.is_dir():
                path.unlink()
                continue
            failed += _erase(path)
            if not path.is_mount():
                path.rmdir()
        except OSError as error:
            failed.append(f"{path} ({error.strerror})")
    return failed


def _until_no_pods() -> None:
    """They would bring up again what is ended. Raises RuntimeError."""
    deadline = time.monotonic() + _LEAVE
    said = False
    while pods := _pods():
        if time.monotonic() > deadline:
            raise RuntimeError(
                f"the grid's pods run on this node (processes {', '.join(map(str, pods))}): take its label off first, "
                "kubectl label node NODE zos.grid.tf.node-restriction.kubernetes.io/node-"
            )
        if not said:
            say("waiting for the grid's pods to leave this node")
            said = True
        time.sleep(0.5)


def _pods() -> list[int]:
    """First processes of runtime and agent pods, by their command lines (``zos-node VERB``)."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            if b"zos.programs.node" in words[:-1] and words[words.index(b"zos.programs.node") + 1] in (b"runtime", b"agent"):
                found.append(int(process.name))
    return sorted(found)


def _end_all() -> int:
    """Everything in the control group beside the pods', wherever it has gone since."""
    found = _groups()
    ended: set[int] = set()
    deadline = time.monotonic() + _GONE
    while members := {process for group in found for process in _members(group)}:
        if time.monotonic() > deadline:
            raise RuntimeError(f"processes {sorted(members)} do not end")
        for process in members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        ended |= members
        time.sleep(0.05)
    layout.FIRST.unlink(missing_ok=True)
    return len(ended)


def _groups() -> list[Path]:
    """Looked up by a process of its own, which loses sight of its namespace."""
    try:
        found = children.answer(lambda: [str(group) for group in cgroup.beside_pods()], "control groups")
    except OSError:
        raise RuntimeError("the tree's control groups can't be told: does this run in a privileged pod with hostPID?") from None
    return [Path(group) for group in found]


def _members(group: Path) -> set[int]:
    found: set[int] = set()
    for procs in group.rglob("cgroup.procs") if group.is_dir() else ():
        with contextlib.suppress(OSError):
            found |= {int(line) for line in procs.read_text().split()}
    return found


def _release() -> None:
    """The tree's namespace goes with its last mount. Raises RuntimeError."""

    def release() -> None:
        kernel.leave_for("/proc/1/ns/mnt", kernel.NEWNS)
        for place in (layout.PIN, layout.PIN.parent):
            with contextlib.suppress(OSError):
                kernel.detach(place)
        with contextlib.suppress(OSError):
            layout.PIN.unlink()

    children.do(release, "the node's tree could not be released")


def _links() -> list[str]:
    said = commands.run("ip", "-json", "link", "show")
    found = [str(link["ifname"]) for link in json.loads(said) if _LINK.fullmatch(link["ifname"])]
    for name in found:
        with contextlib.suppress(CommandFailed):  # its other end may have taken it along
            commands.run("ip", "link", "delete", name)
    return found


def _tables() -> list[tuple[str, str]]:
    said = commands.run("nft", "-j", "list", "tables")
    found = [
        (entry["table"]["family"], entry["table"]["name"])
        for entry in json.loads(said)["nftables"]
        if "table" in entry and _TABLE.fullmatch(entry["table"]["name"])
    ]
    for family, name in found:
        commands.run("nft", "delete", "table", family, name)
    return found
