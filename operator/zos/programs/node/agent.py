"""The agent's pod: the agent runs in the node's tree, from the copy of its own image, and ends with its pod.

The container's first process stays where it is. Its credentials are reached through it: the kubelet renews them there.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from zos.programs.node import image, layout, tree
from zos.programs.node.runtime import say
from zos.programs.node.waiting import Waiting

#: In the agent's arguments: where the pod's own files are found from the tree.
_POD = "{pod}"
_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
#: What the agent gets to know of the pod's environment, beside its own settings (ZOS_…).
_PASSED = ("KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT", "PYTHONPATH", "SSL_CERT_FILE", "SSL_CERT_DIR")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LOOK = 0.5


def run(arguments: Sequence[str]) -> int:
    """Until the agent ends, or the tree does; gives the agent's exit code."""
    identity = layout.image_id()
    container = f"/proc/{os.getpid()}/root"
    account = f"{container}{os.path.realpath(_ACCOUNT)}"
    arguments = reached(arguments, container)
    waiting = Waiting()
    said = False
    while not waiting.told:
        if (begun := _begin(identity, account, arguments)) is not None:
            return _stand_by(*begun, waiting)
        if not said:
            say("waiting for the node's runtime: its pod, of the DaemonSet beside this one's, makes what the agent works in")
            said = True
        time.sleep(_LOOK)  # pods of a node start in any order; nothing tells them of each other
    return 0


def _begin(identity: str, account: str, arguments: Sequence[str]) -> tuple[int, int] | None:
    """Starts the agent; gives its number and that of the tree's first process. None: there is no tree yet. Whoever else waits
    for the lock may go on as soon as the agent runs from its copy, which nobody takes away then."""
    with tree.locked():
        if done := image.install(identity):
            say(done)
        if (first := tree.first_process()) is None or tree.pin() is None:
            return None
        tree.add_root(identity)
        running, runs = os.pipe()  # its end goes with execve(2)
        agent = tree.within(identity, lambda: _become(identity, account, arguments))
        os.close(runs)
        os.read(running, 1)
        os.close(running)
        return agent, first


def reached(arguments: Sequence[str], container: str) -> list[str]:
    """Settings, with files of the pod named as they are found from the node's tree."""
    return [word.replace(_POD, container) for word in arguments]


def _become(identity: str, account: str, arguments: Sequence[str]) -> None:
    passed = {name: value for name, value in os.environ.items() if name in _PASSED or name.startswith("ZOS_")}
    given = {**passed, "PATH": _PATH, "LC_ALL": "C.UTF-8", "HOME": "/root", "ZOS_ROOT": identity}
    settings = ["--service-account", account, "--guest-dir", str(layout.copy_of(identity) / layout.GUEST.relative_to("/"))]
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    os.execve(sys.executable, [sys.executable, "-m", "zos.agent", *settings, *arguments], given)


def _stand_by(agent: int, first: int, waiting: Waiting) -> int:
    """Hands on that this process is to end. Where the tree's first process has ended, another tree may follow: the agent is
    ended as well, and the kubelet starts this pod's container anew."""
    watched = [agent, first]
    while agent not in (ended := waiting.until_one_ends(*watched)):
        if ended:
            say("the first process of the node's tree has ended: the agent ends with it")
            watched.remove(first)
        os.kill(agent, signal.SIGTERM)
    return os.waitstatus_to_exitcode(os.waitpid(agent, 0)[1]) & 0xFF
