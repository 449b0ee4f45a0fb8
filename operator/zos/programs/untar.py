"""Unpacks tars into a directory: one, or the layers of an image, one upon the other (opencontainers/image-spec layer.md).

It unpacks with that directory as its root (chroot(2)), so nothing that an archive says, no link in it and no ``..``, can reach
anything outside. An entry that tries to is an error all the same: such an archive is broken or hostile.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import stat
import tarfile
import threading
from collections.abc import Callable, Container, Iterator
from typing import IO, TypeVar, cast

from zos.programs.budget import Budget
from zos.programs.forward import Forward
from zos.programs.packed import BadContent, Content

_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"
#: What AUFS writes down for itself.
_OWN = ".wh..wh."
#: Directories within one another: what looks through them later is not to lose its way.
_DEEPEST = 500
#: Zeros of this many bytes are a hole.
_HOLE = 64 << 10
_ZEROS = bytes(_HOLE)
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
#: Beyond every owner (uid_t is of 32 bits, and its last one is none), and the last second of a time that all file systems know.
_OWNERS, _LAST = (1 << 32) - 1, (1 << 34) - 1

_T = TypeVar("_T")


def is_tar(first: bytes) -> bool:
    """Whether the first bytes of a file are those of an archive, be it an empty one."""
    block = first[: tarfile.BLOCKSIZE]
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return len(block) == tarfile.BLOCKSIZE and not any(first)
    return True


class Untar:
    """Into ``root``."""

    def __init__(self, root: str, budget: Budget) -> None:
        self._root = root
        self._budget = budget
        self._times: dict[str, int] = {}

    def unpack(self, content: Content, *, layer: bool = False) -> int:
        """Number of entries. Of a ``layer`` some say what is not there any more of those below it. Raises BadContent and
        Exceeded."""
        try:
            archive = tarfile.TarFile(fileobj=cast("IO[bytes]", Forward(content)), errorlevel=1)
        except tarfile.ReadError as error:
            raise BadContent(f"it is not a tar archive: {error}") from error
        count, made = 0, set[int]()
        with self._inside():
            for member in archive:
                count += 1
                self._budget.add(entries=1)
                if member.offset_data > self._budget.size:  # what is only read to be passed over may not be without end
                    raise BadContent(f"too big: {member.offset_data} {count}")
                path = _path(member)
                if layer and _OWN in path and not path.endswith(_OPAQUE):
                    continue
                if layer and (hidden := _hidden(path)):
                    self._hide(*hidden, made)
                else:
                    self._put(archive, member, path)
                    made.add(hash(path))
                # It keeps each one that it saw, for look-ups that nobody makes: a million of them are a gigabyte.
                archive.members.clear()  # type: ignore[attr-defined]
        return count

    def end(self) -> None:
        """Gives directories their times back, which all that came into them has changed."""
        with self._inside():
            for path, at in self._times.items():
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    os.utime(path, ns=(at, at), follow_symlinks=False)

    @contextlib.contextmanager
    def _inside(self) -> Iterator[None]:
        # Loaded at their first use, and from inside there is nothing to load them from: a codec, and what ends a thread.
        b"".decode("iso8859-1")
        last = threading.Thread()
        last.start()
        last.join()
        outside = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.chroot(self._root)
            os.chdir("/")
            yield
        finally:
            os.fchdir(outside)
            os.chroot(".")
            os.close(outside)

    def _put(self, archive: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> None:
        """The guest's kernel makes its own device nodes."""
        if member.isdir():
            self._directory(member, path)
        elif member.isreg():
            fd = self._anew(path, lambda: os.open(path, _CREATE, 0o600))
            try:
                self._fill(fd, archive, member)
                _attributes(member, fd)
            finally:
                os.close(fd)
        elif member.issym():
            self._anew(path, lambda: os.symlink(member.linkname, path))
            _attributes(member, path)
        elif member.islnk() and (target := posixpath.normpath(member.linkname).lstrip("/")) != path:
            # Its attributes are those of what it leads to.
            try:
                self._anew(path, lambda: os.link(target, path, follow_symlinks=False))
            except FileNotFoundError as error:
                raise BadContent(f"the archive is broken: the hard link {path[:200]} in it leads to what it has not") from error

    def _directory(self, member: tarfile.TarInfo, path: str) -> None:
        if not os.path.isdir(path) or os.path.islink(path):
            self._anew(path, lambda: os.mkdir(path, 0o700))
        _attributes(member, path)
        self._times[path] = _time(member)

    def _fill(self, fd: int, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        self._budget.add(size=member.size)
        source = archive.extractfile(member)
        assert source is not None
        at = 0
        while piece := source.read(_HOLE):
            if piece != _ZEROS[: len(piece)]:
                self._budget.write(len(piece))
                os.pwrite(fd, piece, at)
            at += len(piece)
        os.ftruncate(fd, at)

    def _anew(self, path: str, make: Callable[[], _T]) -> _T:
        """In the place of what has this name, in directories that are made where there are none."""
        try:
            return make()
        except FileExistsError:
            self._take_away(path)
        except FileNotFoundError:
            self._parents(path)
        return make()

    def _parents(self, path: str) -> None:
        missing, entry = [], path
        while (path := posixpath.dirname(path)) and not os.path.lexists(path):
            missing.append(path)
        if path and not os.path.exists(path):
            raise BadContent(
                f"the archive is broken: the entry /{entry[:200]} is below /{path[:200]}, a link to what the archive has not"
            )
        for directory in reversed(missing):
            self._budget.add(entries=1)
            os.mkdir(directory, 0o755)

    # --- layers

    def _hide(self, directory: str, name: str, made: Container[int]) -> None:
        """One thing in a directory, or all, but for what the same layer makes."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for inner in [name] if name else os.listdir(directory or "."):
                self._take_away(posixpath.join(directory, inner), made)

    def _take_away(self, path: str, kept: Container[int] = ()) -> bool:
        """Whether nothing of it had to be kept."""
        info = os.lstat(path)
        if stat.S_ISDIR(info.st_mode):
            left = [name for name in os.listdir(path) if not self._take_away(f"{path}/{name}", kept)]
            if left or hash(path) in kept:
                return False
            os.rmdir(path)
            self._times.pop(path, None)
            return True
        if hash(path) in kept:
            return False
        os.unlink(path)
        if stat.S_ISREG(info.st_mode) and info.st_nlink == 1:
            self._budget.take_back(info.st_size)
        return True


def _path(member: tarfile.TarInfo) -> str:
    """Relative to the root, which is ``.``. Raises BadContent."""
    for part in (member.linkname if member.islnk() else "", member.name):
        if ".." in part.split("/"):
            raise BadContent(f"the entry {member.name[:200]!r} leads out of the archive's root")
    if member.name.count("/") > _DEEPEST:
        raise BadContent("its directories are nested too deep")
    return posixpath.normpath(f"./{member.name}")


def _hidden(path: str) -> tuple[str, str] | None:
    """What an entry of a layer says is there no more, if it does: directory and name, which is empty for all that is in the
    directory. Raises BadContent."""
    directory, _, name = path.rpartition("/")
    if not name.startswith(_WHITEOUT):
        return None
    if name == _OPAQUE:
        return directory, ""
    if (hidden := name.removeprefix(_WHITEOUT)) in ("", ".", ".."):
        raise BadContent(f"its layer hides what has no name, in {directory[:200]}/")
    return directory, hidden


def _attributes(member: tarfile.TarInfo, of: int | str) -> None:
    """Owner before mode and capabilities, which a change of owner takes away. Extended attributes are as GNU tar and container
    engines write them."""
    if not (0 <= member.uid < _OWNERS and 0 <= member.gid < _OWNERS):
        raise BadContent(f"the archive is broken: nobody can own the entry {member.name[:200]!r}")
    at = _time(member)
    if member.issym():
        os.chown(of, member.uid, member.gid, follow_symlinks=False)
        os.utime(of, ns=(at, at), follow_symlinks=False)
        return
    os.chown(of, member.uid, member.gid)
    os.chmod(of, member.mode & 0o7777)
    for key, value in member.pax_headers.items():
        name = key.removeprefix("SCHILY.xattr.")
        if name != key and name.startswith(("security.capability", "user.")):
            os.setxattr(of, name, value.encode("utf-8", "surrogateescape"))
    os.utime(of, ns=(at, at))


def _time(member: tarfile.TarInfo) -> int:
    return int(min(max(member.mtime, 0), _LAST) * 10**9)
