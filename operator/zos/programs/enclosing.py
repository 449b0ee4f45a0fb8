"""What a service's program is shut in: a room of its own, a network namespace, a control group, its limits, and no rights."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import struct
import time
from pathlib import Path
from typing import Any

from zos.programs import fusemount

#: Files in a program's room.
_INODES = 4096
_NETNS = Path("/run/netns")
_CGROUPS = Path("/sys/fs/cgroup")

_CLONE_NEWNET = 0x40000000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT, _MS_BIND = 1, 2, 4, 8, 32, 4096  # mount(2)
_CAPBSET_DROP, _NO_NEW_PRIVS, _CAP_AMBIENT = 24, 38, 47  # prctl(2)
_AMBIENT_CLEAR_ALL = 4
_CAPABILITY_VERSION_3 = 0x20080522

libc = ctypes.CDLL(None, use_errno=True)


class Failure(Exception):
    """The text is for the person who reads the log."""


def make_room(told: dict[str, Any]) -> None:
    """Empty, so that no socket of an earlier run is in the way of this one; and bounded, as /run is everybody's memory."""
    fusemount.unmount(told["run"])
    os.makedirs(told["run"], mode=0o700, exist_ok=True)
    uid, flags = told["uid"], ctypes.c_ulong(_MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    options = f"mode=700,uid={uid},gid={uid},size={told['scratch']},nr_inodes={_INODES}"
    check(libc.mount(b"zos-service", told["run"].encode(), b"tmpfs", flags, options.encode()), told["run"])


def check(result: int, what: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), what)


def show(told: dict[str, Any]) -> None:
    """In the program's room, where it finds its way to them: files and directories of the node's. One that it may write to is
    made, and is its group's."""
    for name, source, writable in told.get("shown", ()):
        place = f"{told['run']}/{name}"
        if writable:
            os.makedirs(source, mode=0o700, exist_ok=True)
            os.chown(source, 0, told.get("gid") or told["uid"])
            os.chmod(source, 0o2770)
        if os.path.isdir(source):
            os.mkdir(place)
        else:
            os.close(os.open(place, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        check(libc.mount(source.encode(), place.encode(), None, ctypes.c_ulong(_MS_BIND), None), source)
        flags = _MS_REMOUNT | _MS_BIND | _MS_NOSUID | _MS_NODEV | (0 if writable else _MS_RDONLY)
        check(libc.mount(None, place.encode(), None, ctypes.c_ulong(flags), None), place)


def enter_netns(name: str) -> None:
    if not name:
        return
    place = _NETNS / name
    if not place.exists() or place.stat().st_dev != os.stat("/proc/self/ns/net").st_dev:
        raise Failure(f"no network namespace {name}")
    fd = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    check(libc.setns(fd, _CLONE_NEWNET), str(place))
    os.close(fd)


def _group(name: str) -> Path | None:
    """Directory of a control group of ours that can bound memory (of the kernel's version 2, or 1); None: there can be none."""
    with contextlib.suppress(OSError):
        if "memory" in (_CGROUPS / "cgroup.subtree_control").read_text().split():
            return _CGROUPS / name
    return _CGROUPS / "memory" / name if (_CGROUPS / "memory" / "memory.limit_in_bytes").exists() else None


def join_group(told: dict[str, Any]) -> None:
    """Where that can't be, each process still has its own limit."""
    group = _group(told["group"])
    if group is None:
        return
    with contextlib.suppress(OSError):
        group.mkdir(exist_ok=True)
        whole, more = ("memory.max", "memory.swap.max") if (group / "memory.max").exists() else (
            "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"
        )  # fmt: skip
        (group / whole).write_text(str(told["memory"]))
        with contextlib.suppress(OSError):  # no swap to speak of
            (group / more).write_text("0" if more == "memory.swap.max" else str(told["memory"]))
        with contextlib.suppress(OSError):  # version 2 only
            (group / "memory.oom.group").write_text("1")
        (group / "cgroup.procs").write_text(str(os.getpid()))


def leave_group(name: str) -> None:
    group = _group(name)
    for _ in range(50):
        try:
            if group is not None:
                group.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.02)  # the kernel counts what has just ended for a moment longer
            continue
        return


def limit(told: dict[str, Any]) -> None:
    """Not the address space: whoever maps a large file, or reserves what it never uses, needs no memory for that."""
    for kind, limit in (
        (resource.RLIMIT_DATA, told["memory"]),
        (resource.RLIMIT_NOFILE, told["descriptors"]),
        (resource.RLIMIT_NPROC, told["processes"]),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (limit, limit))


def drop_rights(uid: int, gid: int) -> None:
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    for capability in range(last + 1):
        check(libc.prctl(_CAPBSET_DROP, capability, 0, 0, 0), "prctl")
    check(libc.prctl(_CAP_AMBIENT, _AMBIENT_CLEAR_ALL, 0, 0, 0), "prctl")
    os.setgroups([uid] if gid != uid else [])  # its files are its own group's
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    header = struct.pack("II", _CAPABILITY_VERSION_3, 0)
    check(libc.capset(header, bytes(24)), "capset")  # the inheritable ones, too
    check(libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")
