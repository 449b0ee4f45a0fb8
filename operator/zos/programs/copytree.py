"""``python -m zos.programs.copytree FD ROOT BYTES ENTRIES KEPT``: copies the directory tree that FD is open on into the empty
directory ROOT, no more than so many bytes and entries, and so that KEPT bytes stay free on its disk.

Each step goes by descriptors and never through a symlink, so a directory that somebody swaps for a link meanwhile leads
nowhere. Only files, directories and symlinks are copied: a device, a socket or a FIFO is not even opened. Prints how many of
those there were.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import sys
from collections.abc import Iterator

from zos.programs.budget import Budget
from zos.programs.ending import explained

_FICLONE = 0x40049409  # ioctl_ficlone(2)
_PIECE = 1 << 22


class Copy:
    """Into the directory ``root``. Raises Exceeded."""

    def __init__(self, root: int, budget: Budget) -> None:
        self._root = root
        self._budget = budget
        self._first: dict[tuple[int, int], str] = {}
        self.passed_over = 0

    def tree(self, source: int, target: int, path: str) -> None:
        """``path`` is that of both below the root, empty or ending in a slash."""
        with os.scandir(source) as found:
            names = [entry.name for entry in found]
        for name in names:
            self._budget.add(entries=1)
            info = os.stat(name, dir_fd=source, follow_symlinks=False)
            if stat.S_ISDIR(info.st_mode):
                self._directory(source, target, name, path)
            elif stat.S_ISREG(info.st_mode):
                self._file(source, target, name, path)
            elif stat.S_ISLNK(info.st_mode):
                os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
                os.chown(name, info.st_uid, info.st_gid, dir_fd=target, follow_symlinks=False)
                os.utime(name, ns=(info.st_atime_ns, info.st_mtime_ns), dir_fd=target, follow_symlinks=False)
            else:
                self.passed_over += 1

    def _directory(self, source: int, target: int, name: str, path: str) -> None:
        with _opened(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, source) as inner:
            os.mkdir(name, 0o700, dir_fd=target)
            with _opened(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, target) as copy:
                self.tree(inner, copy, f"{path}{name}/")
                _attributes(inner, copy)

    def _file(self, source: int, target: int, name: str, path: str) -> None:
        # First only a handle: what it is now may be a device, which to open is to act on.
        with _opened(name, os.O_PATH | os.O_NOFOLLOW, source) as handle:
            info = os.fstat(handle)
            if not stat.S_ISREG(info.st_mode):
                self.passed_over += 1
                return
            if info.st_nlink > 1:
                first = self._first.setdefault((info.st_dev, info.st_ino), path + name)
                if first != path + name:
                    os.link(first, name, src_dir_fd=self._root, dst_dir_fd=target, follow_symlinks=False)
                    return
            with (
                _opened(f"/proc/self/fd/{handle}", os.O_RDONLY) as file,
                _opened(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, target) as copy,
            ):
                self._content(file, copy, info.st_size)
                _attributes(file, copy)

    def _content(self, source: int, target: int, length: int) -> None:
        """As much as there was at first: a file that grows all the time ends too. Holes stay holes."""
        with contextlib.suppress(OSError):
            fcntl.ioctl(target, _FICLONE, source)
            self._budget.add(size=os.fstat(target).st_blocks * 512)
            return
        os.ftruncate(target, length)
        start = 0
        while start < length:
            try:
                start = os.lseek(source, start, os.SEEK_DATA)
                end = min(os.lseek(source, start, os.SEEK_HOLE), length)
            except OSError as error:
                if error.errno == errno.ENXIO:  # only a hole is left
                    return
                raise
            os.lseek(source, start, os.SEEK_SET)
            os.lseek(target, start, os.SEEK_SET)
            while start < end:
                self._budget.write(piece := min(end - start, _PIECE))
                if not (moved := os.sendfile(target, source, None, piece)):
                    break
                self._budget.add(size=moved)
                start += moved
            if start < end:  # it shrank meanwhile
                return


@contextlib.contextmanager
def _opened(name: str, flags: int, directory: int | None = None) -> Iterator[int]:
    fd = os.open(name, flags | os.O_CLOEXEC, 0o600, dir_fd=directory)
    try:
        yield fd
    finally:
        os.close(fd)


def _attributes(source: int, target: int) -> None:
    """Owner before mode and capabilities, which a change of owner takes away."""
    info = os.fstat(source)
    os.fchown(target, info.st_uid, info.st_gid)
    os.fchmod(target, stat.S_IMODE(info.st_mode))
    names: list[str] = []
    with contextlib.suppress(OSError):  # a file system without any
        names = os.listxattr(source)
    for name in names:
        if name == "security.capability" or name.startswith("user."):
            os.setxattr(target, name, os.getxattr(source, name))
    os.utime(target, ns=(info.st_atime_ns, info.st_mtime_ns))


def main() -> None:
    _, source, root, size, entries, kept = sys.argv
    with explained(), _opened(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW) as target:
        copy = Copy(target, Budget(int(size), int(entries), int(kept), target))
        copy.tree(int(source), target, "")
        _attributes(int(source), target)
    if copy.passed_over:
        print(f"{copy.passed_over} device nodes, sockets and FIFOs were passed over")


if __name__ == "__main__":
    main()
