"""``python -m zos.programs.confine [--at DIR] [--memory BYTES] --size BYTES ROOM PROGRAM…``: the last step before a program
that reads what strangers wrote.

Started in a mount namespace of its own (unshare(1)): there everything becomes read-only except ROOM, which the program also
finds at ``--at``, where it can go without a right to the directories above ROOM. Then PROGRAM runs in it with a small
environment, no core dumps and no file larger than ``--size``.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import resource
import sys

#: What a program gets to know of the environment of the agent. No proxy: what a proxy reaches, the kernel can't judge.
_PASSED = ("PATH", "PYTHONPATH", "SSL_CERT_FILE", "SSL_CERT_DIR")

_MOUNT_SETATTR = 442  # the same on every architecture
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_RDONLY, _NOSUID, _NODEV = 1, 2, 4  # MOUNT_ATTR_*, mount_setattr(2)
_MS_BIND = 0x1000

_libc = ctypes.CDLL(None, use_errno=True)


class _Attributes(ctypes.Structure):
    """``struct mount_attr``."""

    _fields_ = (
        ("set", ctypes.c_uint64),
        ("clear", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns", ctypes.c_uint64),
    )


def _change(path: str, flags: int, *, add: int = 0, take: int = 0) -> None:
    attributes = _Attributes(add, take, 0, 0)
    if _libc.syscall(
        ctypes.c_long(_MOUNT_SETATTR),
        ctypes.c_int(_AT_FDCWD),
        ctypes.c_char_p(path.encode()),
        ctypes.c_uint(flags),
        ctypes.byref(attributes),
        ctypes.c_size_t(ctypes.sizeof(attributes)),
    ):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)


def _enclose(room: str, place: str) -> None:
    if _libc.mount(room.encode(), place.encode(), None, ctypes.c_ulong(_MS_BIND), None) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), place)
    _change("/", _AT_RECURSIVE, add=_RDONLY | _NOSUID)
    _change(place, 0, add=_NODEV, take=_RDONLY)


def main() -> None:
    parser = argparse.ArgumentParser(prog="confine")
    parser.add_argument("--at")
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--memory", type=int)
    parser.add_argument("room")
    parser.add_argument("program", nargs=argparse.REMAINDER)
    told = parser.parse_args()
    place = told.at or told.room
    try:
        _enclose(told.room, place)
        for kind, limit in ((resource.RLIMIT_FSIZE, told.size), (resource.RLIMIT_CORE, 0), (resource.RLIMIT_AS, told.memory)):
            if limit is not None:
                resource.setrlimit(kind, (limit, limit))
        os.umask(0o022)
        os.chdir(place)
        passed = {name: os.environ[name] for name in _PASSED if name in os.environ}
        os.execvpe(told.program[0], told.program, {**passed, "LC_ALL": "C.UTF-8", "HOME": place, "TMPDIR": place})
    except OSError as error:
        sys.exit(f"confine: {error.filename or told.program[0]}: {error.strerror}")


if __name__ == "__main__":
    main()
