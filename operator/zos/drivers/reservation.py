"""Space that is really reserved: nobody else on the node's file system can have it, however full that gets."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import struct

from zos.drivers import DriverError

_KEEP_SIZE = 1  # FALLOC_FL_KEEP_SIZE, linux/falloc.h
_GETFLAGS, _SETFLAGS, _NOCOW = 0x80086601, 0x40086602, 0x0080_0000  # FS_IOC_*, FS_NOCOW_FL, linux/fs.h

_libc = ctypes.CDLL(None, use_errno=True)


def reserve(fd: int, start: int, end: int, what: str) -> None:
    """The bytes from ``start`` to ``end`` of a file, whose size stays as it is; what is before ``start`` is reserved already.

    Raises DriverError, which names ``what``, where there is no room (part of it may be reserved then, behind the file's end:
    cutting the file to its size gives that back), and OSError.
    """
    if os.fstat(fd).st_blocks == 0:
        _overwrite_in_place(fd)
    room, got = os.fstatvfs(fd), os.fstat(fd).st_blocks * 512
    free, more = room.f_bavail * room.f_frsize, end - max(start, got)
    full = f"{what}: {amount(end - start)} asked, {amount(free)} free on the node's file system"
    if more > free:
        raise DriverError(full)
    if _libc.fallocate(fd, _KEEP_SIZE, ctypes.c_long(start), ctypes.c_long(end - start)) != 0:
        code = ctypes.get_errno()
        if code in (errno.ENOSPC, errno.EDQUOT):
            raise DriverError(full)
        if code in (errno.EOPNOTSUPP, errno.ENOSYS):
            raise DriverError(f"{what}: the node's file system can't reserve space; use ext4, XFS or btrfs")
        raise OSError(code, os.strerror(code))


def _overwrite_in_place(fd: int) -> None:
    """btrfs would write anew elsewhere what is overwritten, and need room for that. It can be told before anything is there."""
    with contextlib.suppress(OSError):  # the others do so anyway
        (flags,) = struct.unpack("i", fcntl.ioctl(fd, _GETFLAGS, bytes(4)))
        fcntl.ioctl(fd, _SETFLAGS, struct.pack("i", flags | _NOCOW))


def amount(size: int) -> str:
    """For people: a binary unit where it is exact enough."""
    for unit, factor in (("Gi", 1 << 30), ("Mi", 1 << 20)):
        if size >= factor:
            return f"{size / factor:.4g}{unit}"
    return f"{size} bytes"
