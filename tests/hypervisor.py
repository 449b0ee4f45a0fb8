"""A libvirtd of the test's own: its own mounts and network, beside whatever else runs on the machine."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

_SETUP = """
set -e
mount --make-rprivate /
for part in run:/run/libvirt lib:/var/lib/libvirt cache:/var/cache/libvirt log:/var/log/libvirt etc:/etc/libvirt; do
  mkdir -p "$1/${part%%:*}" "${part#*:}"
  mount --bind "$1/${part%%:*}" "${part#*:}"
done
ip link set lo up
touch "$1/ready"
exec sleep infinity
"""

#: What the test has started ends with the test, whatever becomes of that.
_DYING = ("setpriv", "--pdeathsig", "KILL", "--")


class Libvirt:
    """``namespace`` is the process that holds mounts and network; programs are started in it by nsenter."""

    def __init__(self) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="zl-", dir="/tmp"))  # sockets: 108 bytes
        etc = self.base / "etc"
        etc.mkdir()
        (etc / "qemu.conf").write_text(
            'user = "root"\ngroup = "root"\nsecurity_driver = "none"\n'
            "namespaces = []\ncgroup_controllers = []\nremember_owner = 0\n"
        )
        (etc / "libvirtd.conf").write_text('auth_unix_rw = "none"\n')
        (etc / "virtlogd.conf").write_text("max_size = 2097152\nmax_backups = 3\n")
        command = [*_DYING, "unshare", "--mount", "--net", "sh", "-c", _SETUP, "sh", str(self.base)]
        self.namespace = subprocess.Popen(command)
        self._wait(self.base / "ready")
        self.virtlogd = self._start("virtlogd", "virtlogd", "virtlogd-sock")
        self.libvirtd = self.start_libvirtd()

    @property
    def uri(self) -> str:
        return f"qemu+unix:///system?socket={self.base}/run/libvirt-sock"

    def run(self, *command: str) -> str:
        return subprocess.run(self._inside(*command), check=True, capture_output=True, text=True).stdout

    def start_libvirtd(self) -> subprocess.Popen[bytes]:
        (self.base / "run" / "libvirt-sock").unlink(missing_ok=True)
        self.libvirtd = self._start("libvirtd", "libvirtd", "libvirt-sock")
        return self.libvirtd

    def qemu(self, name: str) -> int:
        return int((self.base / "run" / "qemu" / f"{name}.pid").read_text())

    def close(self) -> None:
        for pid in (self.base / "run" / "qemu").glob("*.pid"):
            with contextlib.suppress(ProcessLookupError, FileNotFoundError, ValueError):
                os.kill(int(pid.read_text()), signal.SIGKILL)
        for process in (self.libvirtd, self.virtlogd, self.namespace):
            process.kill()
            process.wait()
        shutil.rmtree(self.base, ignore_errors=True)

    def _inside(self, *command: str) -> list[str]:
        return ["nsenter", f"--target={self.namespace.pid}", "--mount", "--net", "--", *command]

    def _start(self, program: str, name: str, socket: str) -> subprocess.Popen[bytes]:
        with open(self.base / f"{name}.out", "ab") as out:
            command = [*_DYING, *self._inside(f"/usr/sbin/{program}")]
            process = subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
        self._wait(self.base / "run" / socket)
        return process

    def _wait(self, path: Path) -> None:
        deadline = time.monotonic() + 20
        while not path.exists():
            assert time.monotonic() < deadline, f"{path}: {[out.read_text()[-500:] for out in self.base.glob('*.out')]}"
            time.sleep(0.02)
