"""The runtime's pod: brings the node's tree up, keeps its first process running, and shows what its daemons say.

It holds nothing itself: when it ends, everything goes on; the next one finds the tree and takes it over.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from zos.programs.node import children, commands, daemons, image, layout, preflight, tree
from zos.programs.node.waiting import Waiting

#: Seconds in which libvirtd answers after its start.
_PATIENCE = 60.0
_AGAIN = 1.0
_LISTENS = 0x10000  # __SO_ACCEPTCON, in the flags of proc_pid_net(5)


def run() -> int:
    """Until SIGTERM. Raises OSError, RuntimeError, CommandFailed where the node can't be used."""
    waiting = Waiting()
    if not preflight.passed():
        return 1
    identity = layout.image_id()
    layout.RUNTIME.mkdir(parents=True, exist_ok=True, mode=0o755)
    with tree.locked():
        if done := image.install(identity):
            say(done)
        first = bring_up(identity)
        if gone := tree.drop_roots({identity}):
            image.remove(gone)
            say(f"taken away, as nobody runs from them: {', '.join(gone)}")
    await_libvirtd()
    layout.UP.touch()
    say(f"ready; what the daemons say follows, and lies in {layout.LOGS} on the node")
    shown = commands.show([layout.LOGS / name / "current" for name in (daemons.VIRTLOGD, daemons.LIBVIRTD)])
    try:
        while not waiting.told:
            if not waiting.until_one_ends(first):
                continue
            say("the first process of the node's tree has ended: starting it again")
            time.sleep(_AGAIN)
            with tree.locked():
                first = bring_up(identity)
    finally:
        shown.terminate()
    say("this pod ends; guests, services and daemons go on")
    return 0


def bring_up(identity: str) -> int:
    """The tree with its daemons, from this image; gives the number of its first process. Whoever calls holds the lock. Raises
    RuntimeError."""
    if tree.pin() is None:
        tree.make(identity)
        say("the node's tree is made")
    tree.add_root(identity)
    first = tree.first_process()
    if first is None and (first := tree.adopt()) is not None:
        say(f"its first process runs, though {layout.FIRST} no longer told its number: {first}")
    elif first is None:
        first = tree.start(identity)
        say(f"its first process runs: {first}")
    tree.weigh()
    supervised = tree.within(identity, lambda: daemons.supervise(identity))
    children.finish(supervised, "the node's daemons could not be set up")
    return first


def await_libvirtd() -> None:
    """Raises RuntimeError."""
    deadline = time.monotonic() + _PATIENCE
    while not answers():
        if time.monotonic() > deadline:
            raise RuntimeError(f"libvirtd does not answer: see {layout.LOGS}/{daemons.LIBVIRTD}/current on the node")
        time.sleep(0.1)


def ready() -> bool:
    """Whether this pod is done with what it is for, and guests can be started: another pod's libvirtd answers as well."""
    return layout.UP.exists() and answers()


def answers() -> bool:
    """Whether the first process runs, and libvirtd takes calls. (It is not called: it complains of who says nothing.)"""
    return tree.first_process() is not None and any(
        words[-1] == str(layout.LIBVIRT_SOCKET) and int(words[3], 16) & _LISTENS
        for line in Path("/proc/net/unix").read_text().splitlines()[1:]
        if len(words := line.split()) == 8
    )


def say(text: str) -> None:
    print(text, flush=True)


def failed(error: Exception) -> int:
    """Says why; the text is also what ``kubectl describe pod`` shows of the container's end."""
    print(f"zos-node: {error}", file=sys.stderr, flush=True)
    return 1
