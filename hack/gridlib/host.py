"""A host of a minigrid: its own network, mounts, processes and name on this machine's kernel.

The first process of a host is an s6-svscan; killing it is a crash of the host. Nothing of a host is outside its
namespaces but its directory and its network namespace's name.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gridlib import cgroups
from gridlib.layout import DOMAIN, Grid, GridError, patience

_INIT = Path(__file__).parent / "init"
#: What a host has of its own: part of its directory → where it is seen.
_PLACES = {
    "log": "/var/log",
    "libvirt": "/var/lib/libvirt",
    "libvirt-cache": "/var/cache/libvirt",
    "libvirt-etc": "/etc/libvirt",
    "zos": "/var/lib/zos",
    "etc-zos": "/etc/zos",
}
#: Where pods run: what nodes take by file://. Agents in pods give tenants of their node nothing but this directory.
IMAGES = "/var/lib/zos/shared"
#: And what pods need. What is below another comes behind it.
_POD_PLACES = {
    "kubelet": "/var/lib/kubelet",
    "containerd": "/var/lib/containerd",
    "cni": "/var/lib/cni",
    "../../images": IMAGES,
}


def run(*argv: str, check: bool = True, input: str | None = None) -> str:
    """Output of a command. Raises GridError with what it said."""
    done = subprocess.run(argv, capture_output=True, text=True, input=input)
    if check and done.returncode != 0:
        raise GridError(f"{' '.join(argv)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


@dataclass(frozen=True)
class Service:
    """A supervised process: ``script`` is the body of its run file, ending in an exec."""

    name: str
    script: str


class Host:
    def __init__(self, grid: Grid, name: str) -> None:
        self.grid = grid
        self.name = name
        self.directory = grid.directory(name)
        self.pods = grid.kubernetes and any(node.name == name for node in grid.nodes)
        self.group = grid.netns(name)  # of control groups, if pods run on it

    @property
    def _pidfile(self) -> Path:
        return self.directory / "pid"

    def pid(self) -> int | None:
        """Of the host's first process, as this machine sees it; None: the host is down."""
        try:
            outer, since = self._pidfile.read_text().split()
            if began(int(outer)) != since:
                return None
            children = Path(f"/proc/{outer}/task/{outer}/children").read_text().split()
        except (OSError, ValueError):
            return None
        return int(children[0]) if children else None

    def services(self, services: Sequence[Service]) -> None:
        """Lays the services down; they run when the host starts."""
        base = self.directory / "services"
        if base.exists():
            shutil.rmtree(base)
        for service in services:
            place = base / service.name
            (place / "log").mkdir(parents=True)
            _script(place / "run", f"exec 2>&1\n{service.script}")
            logs = f"/var/log/{service.name}"
            _script(place / "log" / "run", f"mkdir -p {logs}\nexec s6-log -b n3 s4000000 T {logs}")

    def start(self, hosts: str = "") -> None:
        """Does nothing if it runs."""
        if self.pid() is not None:
            return
        places = _PLACES | (_POD_PLACES if self.pods else {})
        for part in places:
            (self.directory / part).mkdir(parents=True, exist_ok=True)
        (self.directory / "places").write_text("".join(f"{part} {place}\n" for part, place in places.items()))
        joined = cgroups.make(self.group) if self.pods else []
        (self.directory / "groups").write_text("".join(f"{path}\n" for path in joined))
        (self.directory / "hosts").write_text(f"127.0.0.1 localhost {self.name}\n::1 localhost\n{hosts}")
        (self.directory / "resolv.conf").write_text(f"nameserver 198.51.100.2\nsearch {DOMAIN}\n")
        with open(self.directory / "host.log", "ab") as log:
            process = subprocess.Popen(
                [
                    "nsenter", f"--net=/run/netns/{self.grid.netns(self.name)}",
                    "unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc",
                    "--propagation", "private", str(_INIT), str(self.directory), self.name,
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self._pidfile.write_text(f"{process.pid} {began(process.pid)}")
        deadline = time.monotonic() + patience(20)
        while not self._up():
            if process.poll() is not None or time.monotonic() > deadline:
                raise GridError(f"host {self.name} did not start: {(self.directory / 'host.log').read_text()[-800:]}")
            time.sleep(0.02)

    def _up(self) -> bool:
        pid = self.pid()
        with contextlib.suppress(OSError):
            return pid is not None and Path(f"/proc/{pid}/comm").read_text().strip() == "s6-svscan"
        return False

    def crash(self) -> None:
        """Everything in it dies at once. Does nothing if it is down."""
        if self.pid() is None:
            return
        outer = int(self._pidfile.read_text().split()[0])
        with contextlib.suppress(ProcessLookupError):
            os.kill(outer, signal.SIGKILL)
        deadline = time.monotonic() + patience(20)
        while began(outer) is not None and time.monotonic() < deadline:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(outer, os.WNOHANG)
            time.sleep(0.02)
        self._pidfile.unlink(missing_ok=True)
        if self.pods:
            cgroups.remove(self.group)

    def command(self, *argv: str) -> list[str]:
        """A command line that runs ``argv`` inside the host."""
        pid = self.pid()
        if pid is None:
            raise GridError(f"host {self.name} is down: hack/minigrid up --name {self.grid.name}")
        return ["nsenter", "-t", str(pid), "-m", "-u", "-i", "-n", "-p", *argv]

    def run(self, *argv: str, check: bool = True) -> str:
        return run(*self.command(*argv), check=check)


def _script(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def began(pid: int) -> str | None:
    """Start time of a process in clock ticks, so that a reused pid is not taken for it; None: gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]
