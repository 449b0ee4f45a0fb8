"""A libvirtd of the test's own: its own mounts and network, beside whatever else runs on the machine."""

from __future__ import annotations

import subprocess
import tempfile
import time
from pathlib import Path

from bound import KILLED, TOLD

_SETUP = """
set -e
mount --make-rprivate /
for part in run:/run/libvirt lib:/var/lib/libvirt cache:/var/cache/libvirt log:/var/log/libvirt etc:/etc/libvirt; do
  mkdir -p "$1/${part%%:*}" "${part#*:}"
  mount --bind "$1/${part%%:*}" "${part#*:}"
done
ip link set lo up
# Guests are nobody's children: who outlives the test takes away all that is in this network.
own=$(readlink /proc/$$/ns/net)
clear() {
  set +e
  for process in /proc/[0-9]*; do
    pid=${process#/proc/}
    [ "$pid" = $$ ] || [ "$(readlink "$process/ns/net")" != "$own" ] || kill -9 "$pid"
  done 2>/dev/null
  rm -rf "$1" || { sleep 1; rm -rf "$1"; }
  exit
}
trap 'clear "$1"' TERM
touch "$1/ready"
setpriv --pdeathsig KILL -- sleep infinity &
wait
"""


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
        command = [*TOLD, "unshare", "--mount", "--net", "sh", "-c", _SETUP, "sh", str(self.base)]
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
        self.namespace.terminate()  # and all that is in it
        for process in (self.namespace, self.libvirtd, self.virtlogd):
            process.wait(20)

    def _inside(self, *command: str) -> list[str]:
        return ["nsenter", f"--target={self.namespace.pid}", "--mount", "--net", "--", *command]

    def _start(self, program: str, name: str, socket: str) -> subprocess.Popen[bytes]:
        with open(self.base / f"{name}.out", "ab") as out:
            # Where it is by default, one on the machine would be in its way.
            pid_file = f"--pid-file={self.base}/run/{program}.pid"
            command = [*KILLED, *self._inside(f"/usr/sbin/{program}", pid_file)]
            process = subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
        self._wait(self.base / "run" / socket)
        return process

    def _wait(self, path: Path) -> None:
        deadline = time.monotonic() + 20
        while not path.exists():
            assert time.monotonic() < deadline, f"{path}: {[out.read_text()[-500:] for out in self.base.glob('*.out')]}"
            time.sleep(0.02)
