"""A FUSE file system for a service's program, which may mount none itself; and one that outlives it.

Where the next program can go on with what another began (``resumes``), each works at an end of the connection of its own
(``FUSE_DEV_IOC_CLONE``), and a process that does nothing else holds the connection itself. What a program was asked and had not
answered ends with it, as an error; what nobody was asked yet waits for the next one, and is refused while that is put off. So
whoever has the mount, a guest above all, has the same one again (ADR 0024). It needs nothing but the standard library.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import select
import signal
import struct
import time
from pathlib import Path

#: On directories that were made to mount something in them (xattr(7)).
_MADE = "trusted.zos-mount"
_MS_NOSUID, _MS_NODEV, _MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 4, 2, 8  # mount(2), umount2(2)
_PIDFD_GETFD = 438  # the same on every architecture
_CLONE = 0x8004E500  # FUSE_DEV_IOC_CLONE
#: What the holder is called; where it has the connection, and for how many seconds: as long as sleep(1) can.
_HOLDER, _HELD, _LIFE = "zos-fuse-holder", 3, str(2**31 - 1)
#: Of the kernel's questions: header, and those without an answer (include/uapi/linux/fuse.h).
_QUESTION = struct.Struct("<IIQ")
_UNANSWERED = frozenset({2, 36, 41, 42})
_LONGEST = 1 << 20

_libc = ctypes.CDLL(None, use_errno=True)


def mounted(place: str, uid: int) -> int:
    """A new one, and the descriptor that it is served at."""
    _make_place(place)
    fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={fd},rootmode=40000,user_id={uid},group_id={uid},allow_other"
    flags = ctypes.c_ulong(_MS_NOSUID | _MS_NODEV)
    if _libc.mount(b"zos-service", place.encode(), b"fuse", flags, options.encode()) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), place)
    return fd


def unmount(place: str) -> None:
    """Whatever is mounted there; nothing: fine."""
    while _libc.umount2(place.encode(), _MNT_DETACH | _UMOUNT_NOFOLLOW) == 0:
        pass


def _make_place(mount: str) -> None:
    """What is made is marked: nobody else could tell later that it was not there before."""
    for directory in (os.path.dirname(mount), mount):
        if not os.path.isdir(directory):
            os.makedirs(directory)
            with contextlib.suppress(OSError):  # a file system that knows no such marks
                os.setxattr(directory, _MADE, b"")


def remove_place(mount: str) -> None:
    """What was made for it, as far as it is empty."""
    with contextlib.suppress(OSError):
        for directory in (mount, os.path.dirname(mount)):
            os.getxattr(directory, _MADE)
            os.rmdir(directory)


# -- one that stays ----------------------------------------------------------------------------------------------------------


def kept(place: str) -> int | None:
    """The connection of what is mounted there, if somebody holds it; None: it has to be mounted anew."""
    try:
        device = _device(place)
        holder = next(pid for pid, of in _holders(place) if of == device)
        process = os.pidfd_open(holder)
        try:
            fd = int(_libc.syscall(ctypes.c_long(_PIDFD_GETFD), ctypes.c_int(process), ctypes.c_int(_HELD), ctypes.c_uint(0)))
        finally:
            os.close(process)
    except (OSError, StopIteration):
        return None
    if fd < 0:
        return None
    poll = select.poll()
    poll.register(fd, 0)
    if os.readlink(f"/proc/self/fd/{fd}") != "/dev/fuse" or poll.poll(0):  # it is broken off
        os.close(fd)
        return None
    return fd


def keep(fd: int, place: str) -> None:
    """Leaves somebody behind who holds the connection, and is known by what it is called; nobody's child."""
    name = f"{_HOLDER} {_device(place)} {place}"
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            if os.fork() == 0:
                os.dup2(fd, _HELD)
                os.set_inheritable(_HELD, True)  # where it was that number already
                nothing = os.open("/dev/null", os.O_RDWR)
                for number in (0, 1, 2):  # the log ends with the program
                    os.dup2(nothing, number)
                os.closerange(_HELD + 1, 4096)
                os.chdir("/")
                os.execv("/bin/sleep", [name, _LIFE])
        finally:
            os._exit(0)
    os.waitpid(child, 0)


def let_go(place: str) -> None:
    """Nobody holds anything of what was mounted there any more."""
    for pid, _ in _holders(place):
        with contextlib.suppress(OSError):
            process = os.pidfd_open(pid)
            signal.pidfd_send_signal(process, signal.SIGKILL)
            select.select([process], [], [], 5.0)
            os.close(process)


def _holders(place: str) -> list[tuple[int, str]]:
    """Processes, and which device's connection each holds."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            with contextlib.suppress(OSError):
                words = (process / "cmdline").read_bytes().split(b"\0")[0].decode(errors="replace").split(" ", 2)
                if words[0] == _HOLDER and words[2:] == [place] and process.stat().st_uid == 0:
                    found.append((int(process.name), words[1]))
    return found


def end_of(connection: int) -> int:
    """Another end of a connection, which is closed with its program."""
    fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    fcntl.ioctl(fd, _CLONE, struct.pack("I", connection))
    return fd


def refuse(connection: int, seconds: float) -> None:
    """For so long nobody serves: who asks is told that nothing can be had, and waits for nobody."""
    end = end_of(connection)
    poll = select.poll()
    poll.register(end, select.POLLIN)
    deadline = time.monotonic() + seconds
    try:
        while (left := deadline - time.monotonic()) > 0:
            if not poll.poll(left * 1000):
                return
            try:
                question = os.read(end, _LONGEST)
                _, opcode, unique = _QUESTION.unpack_from(question)
                if opcode not in _UNANSWERED:
                    os.write(end, struct.pack("<IiQ", 16, -errno.EIO, unique))
            except OSError as error:
                if error.errno != errno.ENOENT:  # who asked has been called off
                    return
    finally:
        os.close(end)


def _device(place: str) -> str:
    """Of what is mounted there. Asks nobody who is behind it. Raises OSError."""
    escaped = place.replace("\\", "\\134").replace(" ", "\\040").replace("\t", "\\011").replace("\n", "\\012")
    lines = [line.split(" ") for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    found = [fields[2] for fields in lines if fields[4] == escaped]
    if not found:
        raise OSError(errno.EINVAL, "nothing is mounted there", place)
    return found[-1]
