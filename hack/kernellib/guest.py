"""A guest of this machine with Debian's kernel: its root is this machine's own, read-only, under memory that forgets.

So it has every program, the checkout and the Python environment as they are here, and nothing that it does is done to them. It
has no network, and its processor is an emulated one: it is some ten times slower than this machine.
"""

from __future__ import annotations

import os
import resource
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_VIRTIOFSD = "/usr/lib/qemu/virtiofsd"
#: SSE, which Python's libraries use where there is, costs an emulated processor less than AVX.
_PROCESSOR = "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt,+rdrand"
#: What is started ends with whoever started it, whatever becomes of that.
_DYING = ("setpriv", "--pdeathsig", "KILL", "--")
_FIRST = """
export {environment}
release=$(uname -r)
mkdir -p "/lib/modules/$release"
mount --bind {kernel}/lib/modules/"$release" "/lib/modules/$release"
modprobe -a tun loop # nobody here makes their device files, by which they would be loaded
ln -s /proc/self/fd /dev/fd # as udev would
ip link set lo up
cd {directory}
{command} >/run/answer/output 2>&1 </dev/null
echo $? >/run/answer/code
sync
busybox poweroff -f
"""


@dataclass(frozen=True)
class Size:
    """Of a guest: processors, MiB of memory."""

    processors: int
    memory: int


#: For the tests of one driver, and for a whole grid.
SMALL, LARGE = Size(1, 1536), Size(2, 6144)


class GuestError(Exception):
    """The guest came to no end: what its console and the command said last."""


def run(
    command: Sequence[str],
    *,
    kernel: Path,
    directory: Path,
    answer: Path,
    seconds: float,
    environment: Mapping[str, str] | None = None,
    size: Size = SMALL,
) -> int:
    """Runs ``command`` as root in a guest and gives its exit code.

    ``kernel`` is what `kernellib.kernel.build` made, ``directory`` the working directory. What the command says is in file
    ``output`` of folder ``answer`` from the first line on; the guest has that folder at /run/answer and may write there. Raises
    GuestError when it takes longer than ``seconds``, or ends without an exit code.
    """
    values = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": os.environ.get("HOME", "/root"),
        "LC_ALL": "C.UTF-8",
        **(environment or {}),
    }
    first = _FIRST.format(
        environment=" ".join(f"{name}={shlex.quote(value)}" for name, value in values.items()),
        kernel=shlex.quote(str(kernel)), directory=shlex.quote(str(directory)), command=shlex.join(command),
    )  # fmt: skip
    (answer / "first").write_text(first)
    started: list[subprocess.Popen[bytes]] = []
    sockets = Path(tempfile.mkdtemp(prefix="zk-", dir="/tmp"))  # 108 bytes
    try:
        started += [_share(Path("/"), sockets / "host", "always"), _share(answer, sockets / "answer", "none")]
        guest = _boot(kernel, sockets, answer / "console", size)
        started.append(guest)
        guest.wait(seconds)
        return int((answer / "code").read_text())
    except subprocess.TimeoutExpired:
        raise GuestError(f"not done after {seconds:.0f} s\n{_last_words(answer)}") from None
    except (OSError, ValueError) as error:
        raise GuestError(f"no answer: {error}\n{_last_words(answer)}") from error
    finally:
        for process in started:
            process.kill()
            process.wait()
        shutil.rmtree(sockets, ignore_errors=True)


def _share(folder: Path, socket: Path, cache: str) -> subprocess.Popen[bytes]:
    files = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 1_000_000)  # of every file that the guest has seen
    command = (
        _VIRTIOFSD, f"--socket-path={socket}", f"--rlimit-nofile={files}", "-o", f"source={folder},sandbox=chroot,cache={cache}"
    )  # fmt: skip
    with open(socket.with_suffix(".log"), "wb") as log:
        process = subprocess.Popen([*_DYING, *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    deadline = time.monotonic() + 20
    while not socket.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            process.wait()
            raise GuestError(f"{folder} can't be shared: {socket.with_suffix('.log').read_text()[-500:]}")
        time.sleep(0.02)
    return process


def _boot(kernel: Path, sockets: Path, console: Path, size: Size) -> subprocess.Popen[bytes]:
    shares = [
        word
        for tag in ("host", "answer")
        for word in (
            "-chardev", f"socket,id={tag},path={sockets / tag}",
            "-device", f"vhost-user-fs-pci,queue-size=1024,chardev={tag},tag={tag}",
        )
    ]  # fmt: skip
    command = (
        "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        "-machine", "q35,memory-backend=memory", "-accel", "tcg", "-cpu", _PROCESSOR, "-smp", str(size.processors),
        "-m", f"{size.memory}M", "-object", f"memory-backend-memfd,id=memory,size={size.memory}M,share=on",
        "-kernel", str(kernel / "vmlinuz"), "-initrd", str(kernel / "initramfs"),
        "-append", "console=ttyS0 quiet panic=-1 random.trust_cpu=on mitigations=off",
        "-serial", f"file:{console}", *shares,
    )  # fmt: skip
    return subprocess.Popen([*_DYING, *command], stdin=subprocess.DEVNULL)


def _last_words(answer: Path) -> str:
    said = []
    for name in ("console", "output"):
        try:
            said.append(f"--- {name}\n{(answer / name).read_text(errors='replace')[-3000:]}")
        except OSError as error:
            said.append(f"--- {name}: {error.strerror}")
    return "\n".join(said)
