"""A host as pods see it: processes and mounts of its own, on which the programs of a node's pods run (`zos.programs.node`).

Images are overlays over this machine's own root, where a container runtime would have unpacked them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import zos
from bound import KILLED

_CGROUPS = Path("/sys/fs/cgroup")
_OPERATOR = str(Path(zos.__file__).parents[1])
_HOST = """
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mkdir -p /run/lock /var/lib/zos
mount --bind "$1" /var/lib/zos
mount -t tmpfs tmpfs /mnt
mount --make-rshared /
echo up
exec sleep 1000
"""
_POD = """
for group in $PODS; do echo $$ >"$group/kubepods/pod/cgroup.procs"; done
mount -t tmpfs tmpfs /run
mkdir -p /usr/share/zos /run/secrets/kubernetes.io/serviceaccount
cp /etc/ssl/certs/ca-certificates.crt /run/secrets/kubernetes.io/serviceaccount/ca.crt
echo nobody >/run/secrets/kubernetes.io/serviceaccount/token
mount -t tmpfs tmpfs /usr/share/zos
echo "$1" >/usr/share/zos/image
shift
exec "$0" -m zos.programs.node "$@"
"""
_IMAGE = """
set -e
mkdir -p "/mnt/$1/upper" "/mnt/$1/work" "/var/lib/zos/runtime/$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=/mnt/$1/upper,workdir=/mnt/$1/work" "/var/lib/zos/runtime/$1/root"
mkdir -p "/var/lib/zos/runtime/$1/root/opt/zos"
cp -a "$2" "/var/lib/zos/runtime/$1/root/opt/zos/operator"
touch "/var/lib/zos/runtime/$1/complete"
"""
_SETTLE = "import sys, pathlib; from zos.programs.node import image; image._settle(pathlib.Path(sys.argv[1]))"


class PodNode:
    """``state`` is what the host has at /var/lib/zos."""

    def __init__(self, state: Path) -> None:
        self.state = state
        command = (
            "unshare",
            "--mount",
            "--pid",
            "--uts",
            "--ipc",
            "--net",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "sh",
            "-c",
        )
        self._process = subprocess.Popen([*KILLED, *command, _HOST, "sh", str(state)], stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "up\n"
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        self._first = children[0]
        # As a kubelet has them: control groups of pods, in every hierarchy that there is.
        hierarchies = [path.parent for path in (*_CGROUPS.glob("*/cgroup.procs"), _CGROUPS / "cgroup.procs") if path.exists()]
        self._groups = [hierarchy / f"podnode-{self._first}" for hierarchy in hierarchies]
        for group in self._groups:
            (group / "kubepods/pod").mkdir(parents=True)
            for name in ("cpuset.cpus", "cpuset.mems"):
                for place in (group, group / "kubepods", group / "kubepods/pod"):
                    if (place / name).exists():
                        (place / name).write_text((place.parent / name).read_text())

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for group in self._groups:
            for place in (*sorted(group.glob("**/"), reverse=True),):
                soon(lambda place=place: not place.exists() or _removed(place))

    def command(self, *argv: str) -> list[str]:
        """Run on the host."""
        return ["nsenter", "-t", self._first, "-m", "-p", "-n", "-u", "-i", *argv]

    def run(self, *argv: str) -> str:
        return subprocess.run(self.command(*argv), check=True, capture_output=True, text=True).stdout

    def image(self, identity: str) -> None:
        """As if one of its pods had put it on the disk."""
        self.run("sh", "-c", _IMAGE, "sh", identity, _OPERATOR)
        self.run("env", *self._environment, sys.executable, "-c", _SETTLE, f"/var/lib/zos/runtime/{identity}/root")

    def pod(self, identity: str, *argv: str) -> Pod:
        """A container of an image, with the host's processes and network, and mounts of its own."""
        groups = f"PODS={' '.join(map(str, self._groups))}"
        container = self.command("unshare", "--mount", "--propagation", "private", "env", *self._environment, groups)
        return Pod([*KILLED, *container, "sh", "-c", _POD, sys.executable, identity, *argv])

    def say(self, identity: str, *argv: str) -> tuple[int, str]:
        """Exit code and output of one that ends by itself."""
        pod = self.pod(identity, *argv)
        said = pod.rest()
        return pod.ended(), said

    @property
    def _environment(self) -> tuple[str, ...]:
        nowhere = ("KUBERNETES_SERVICE_HOST=127.0.0.1", "KUBERNETES_SERVICE_PORT=1")  # a cluster that does not answer
        # In an image, and where a container finds the code that is tested: the tree has a /tmp of its own.
        return (f"PYTHONPATH=/opt/zos/operator:{_OPERATOR}", "PYTHONDONTWRITEBYTECODE=1", *nowhere)

    def running(self) -> dict[str, tuple[int, str]]:
        """What runs in the tree: a name, its number on the host and the image that it runs from."""
        return {name: (number, image) for number, image, name in self._processes()}

    def all_running(self, name: str) -> set[int]:
        """The numbers of those of that name."""
        return {number for number, _, found in self._processes() if found == name}

    def _processes(self) -> Iterator[tuple[int, str, str]]:
        look = r'sed -n "s/^Name:\t//p; s/^PPid:\t//p" $p/status 2>/dev/null'
        script = f'for p in /proc/[0-9]*; do echo "${{p#/proc/}}" "$(readlink $p/root)" $({look}); done'
        found = [words for line in self.run("sh", "-c", script).splitlines() if len(words := line.split()) == 4]
        names = {number: name for number, _, name, _ in found}
        for number, root, name, parent in found:
            # Who has just forked to run something else has a child of its own name for a moment.
            if root.startswith("/roots/") and names.get(parent) != name:
                yield int(number), root.removeprefix("/roots/"), name

    def kill(self, process: int) -> None:
        self.run("kill", "-9", str(process))


class Pod:
    """The first process of a container, and what it says."""

    def __init__(self, command: list[str]) -> None:
        self._entered = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def until(self, text: str) -> str:
        """What it says, up to and with a line that has ``text``."""
        assert self._entered.stdout is not None
        said = []
        for line in self._entered.stdout:
            said.append(line)
            if text in line:
                return "".join(said)
        raise AssertionError(f"it ended without {text!r}: {''.join(said)}")

    def rest(self) -> str:
        """What it says until it ends, and whoever has its output."""
        assert self._entered.stdout is not None
        return self._entered.stdout.read()

    def is_ready(self) -> bool:
        """What its probe says, which runs in the same container."""
        children = Path(f"/proc/{self._entered.pid}/task/{self._entered.pid}/children").read_text().split()
        inside = ["nsenter", "-t", children[0], "-m", "-p", "-n"]
        environment = [f"PYTHONPATH={_OPERATOR}", "PYTHONDONTWRITEBYTECODE=1"]
        probe = ["env", *environment, sys.executable, "-m", "zos.programs.node", "ready"]
        return subprocess.run([*KILLED, *inside, *probe], timeout=30).returncode == 0

    def signal(self, number: signal.Signals) -> None:
        """To the first process itself; gone already: fine."""
        children = Path(f"/proc/{self._entered.pid}/task/{self._entered.pid}/children")
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for child in children.read_text().split():
                os.kill(int(child), number)

    def ended(self) -> int:
        """Its exit code, once it has ended."""
        return self._entered.wait(30)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.ended()


def soon(what: object, seconds: float = 20.0) -> None:
    """Until ``what()`` is true."""
    assert callable(what)
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def _removed(group: Path) -> bool:
    try:
        group.rmdir()
    except OSError:
        return False
    return True
