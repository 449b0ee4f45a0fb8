"""``file://`` images: archives and trees below the directories that the node's owner opened, and nothing else of the node."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import posixpath
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from zos.drivers import DriverError

_SCHEME = "file://"

_OPENAT2 = 437  # the same on every architecture
_RESOLVE_NO_MAGICLINKS, _RESOLVE_BENEATH = 0x02, 0x08
#: The kernel says EAGAIN where names moved while it looked.
_TRIES = 5

_libc = ctypes.CDLL(None, use_errno=True)


class _How(ctypes.Structure):
    """``struct open_how``, openat2(2)."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class NotOpened(DriverError):
    """The node's owner did not open it."""


def canonical(ref: str) -> str:
    """One text for all spellings of one path. ``..`` is taken by the words, before any link is looked at."""
    if not ref.startswith(_SCHEME):
        return ref
    return f"{_SCHEME}/{posixpath.normpath('/' + ref.removeprefix(_SCHEME)).lstrip('/')}"


def stamp(ref: str, directories: Sequence[Path]) -> str:
    """What tells a changed archive from the one that was unpacked; empty where only the ref counts, or where it is not
    there any more. Raises NotOpened."""
    if not ref.startswith(_SCHEME):
        return ""
    try:
        with handle(ref, directories) as fd:
            info = os.fstat(fd)
            return "directory" if stat.S_ISDIR(info.st_mode) else f"{info.st_size}.{info.st_mtime_ns}"
    except NotOpened:
        raise
    except DriverError:
        return ""


@contextlib.contextmanager
def opened(ref: str, directories: Sequence[Path]) -> Iterator[tuple[int, bool]]:
    """A descriptor to read from, and whether it is a directory's. Raises DriverError."""
    with handle(ref, directories) as fd:
        is_directory = stat.S_ISDIR(os.fstat(fd).st_mode)
        try:
            # By the handle: what is opened is what was looked at, whatever has its name by now.
            content = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise DriverError(f"it can't be read: {error.strerror}") from error
        try:
            yield content, is_directory
        finally:
            os.close(content)


@contextlib.contextmanager
def handle(ref: str, directories: Sequence[Path]) -> Iterator[int]:
    """Of the file or directory (O_PATH: nothing is opened yet). Raises DriverError, with one text for all that is not below
    the directories, there or not."""
    path = canonical(ref).removeprefix(_SCHEME)
    base, rest = _base(path, directories)
    fd = _beneath(base, rest, path)
    try:
        if not stat.S_ISDIR(mode := os.fstat(fd).st_mode) and not stat.S_ISREG(mode):
            raise DriverError(f"{path} is neither a file nor a directory")
        yield fd
    finally:
        os.close(fd)


def _base(path: str, directories: Sequence[Path]) -> tuple[str, str]:
    """The opened directory that the path is in, and the rest of it. Its owner may have written it with links in it."""
    for directory in directories:
        for base in dict.fromkeys((posixpath.normpath(directory), os.path.realpath(directory))):
            if path == base or path.startswith(base.rstrip("/") + "/"):
                return base, path[len(base) :].strip("/") or "."
    raise NotOpened(
        f"{path} is not below a directory that this node opens for images; the node's owner can open it with --image-dir"
    )


def _beneath(base: str, rest: str, path: str) -> int:
    """Opened by the kernel, which never leaves ``base`` on the way, whatever anybody does with names meanwhile."""
    try:
        root = os.open(base, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise DriverError(f"the directory {base}, which this node opens for images: {error.strerror}") from error
    try:
        how = _How(os.O_PATH | os.O_CLOEXEC, 0, _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS)
        for _ in range(_TRIES):
            fd = int(
                _libc.syscall(
                    ctypes.c_long(_OPENAT2),
                    ctypes.c_int(root),
                    ctypes.c_char_p(os.fsencode(rest)),
                    ctypes.byref(how),
                    ctypes.c_size_t(ctypes.sizeof(how)),
                )
            )
            if fd >= 0:
                return fd
            if (problem := ctypes.get_errno()) != errno.EAGAIN:
                break
    finally:
        os.close(root)
    match problem:
        case errno.ENOENT | errno.ENOTDIR:
            raise DriverError(f"there is no {path} on this node")
        case errno.EXDEV | errno.ELOOP:
            raise NotOpened(f"{path} is a link out of {base}, the directory that this node opens for images")
        case _:
            raise DriverError(f"{path} can't be opened: {os.strerror(problem)}")
