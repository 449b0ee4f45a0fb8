"""System calls for namespaces and mounts that Python 3.11 has no names for. All raise OSError."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

#: mount(2).
RDONLY, NOSUID, NODEV, NOEXEC, REMOUNT, BIND, REC = 1, 2, 4, 8, 32, 4096, 16384
PRIVATE, SLAVE, SHARED = 1 << 18, 1 << 19, 1 << 20
NEWNS, NEWCGROUP, NEWNET = 0x00020000, 0x02000000, 0x40000000
_DETACH = 2
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: object) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(what))


def mount(source: object, target: object, kind: str = "", flags: int = 0, options: str = "") -> None:
    words = (str(source).encode(), str(target).encode(), kind.encode() or None, ctypes.c_ulong(flags), options.encode() or None)
    _check(_libc.mount(*words), target)


def bind(source: object, target: object) -> None:
    """With everything that is mounted below."""
    mount(source, target, flags=BIND | REC)


def propagate(target: object, how: int) -> None:
    """`SHARED`, `SLAVE` or `PRIVATE`, with everything that is mounted below."""
    mount("none", target, flags=how | REC)


def detach(target: object) -> None:
    """Out of sight at once, with everything below; gone when nobody uses it any more."""
    _check(_libc.umount2(str(target).encode(), _DETACH), target)


def leave_for(namespace: object, kind: int) -> None:
    """Into another namespace, of which ``namespace`` is the file."""
    fd = os.open(str(namespace), os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.setns(fd, kind), namespace)
    finally:
        os.close(fd)


def unshare(kind: int) -> None:
    _check(_libc.unshare(kind), "unshare")


def change_root(new: Path, old: Path) -> None:
    """pivot_root(2): what was the root is at ``old`` afterwards, below ``new``."""
    number = ctypes.c_long(_PIVOT_ROOT[os.uname().machine])
    _check(_libc.syscall(number, str(new).encode(), str(old).encode()), new)


def die_with_parent(signal: int) -> None:
    """prctl(PR_SET_PDEATHSIG)."""
    _check(_libc.prctl(1, signal, 0, 0, 0), "prctl")


def began(process: int) -> str | None:
    """When a process was started, in clock ticks since the boot, so that a number that was given again is not taken for it;
    None: it is gone."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]
