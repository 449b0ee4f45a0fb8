"""``python -m zos.programs.untar FD ROOT BYTES ENTRIES``: unpacks a tar (plain, gzip, xz, bzip2 or zstd), which FD is open on,
into an empty directory, no more than so many bytes and entries, and prints the digest of the archive as it was read.

It unpacks with ROOT as its root directory (chroot(2)), so nothing that an archive says, no link in it and no ``..``, can
reach anything outside. An entry that tries to is an error all the same: such an archive is broken or hostile.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import sys
import tarfile
import threading
from typing import IO

_ZSTD = b"\x28\xb5\x2f\xfd"
_PIECE = 1 << 20


class BadArchive(Exception):
    """What is wrong with the archive."""


class _Digested:
    """The archive, read once from its beginning to its end, and its digest."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._first = file.read(tarfile.BLOCKSIZE)
        self.is_zstd = self._first.startswith(_ZSTD)

    def read(self, size: int = _PIECE) -> bytes:
        piece, self._first = self._first[:size], self._first[size:]
        if not piece:
            piece = self._file.read(size)
        self._digest.update(piece)
        return piece

    def rest(self) -> str:
        """Reads what nobody wanted, and gives the digest."""
        while self.read():
            pass
        return f"sha256:{self._digest.hexdigest()}"


class _Zstd:
    """zstd, fed with the archive by a thread."""

    def __init__(self, source: _Digested) -> None:
        self._process = subprocess.Popen(["zstd", "-dcq"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self.output = self._process.stdout
        self._feeder = threading.Thread(target=self._feed, args=(source,), daemon=True)
        self._feeder.start()

    def _feed(self, source: _Digested) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died: its end tells
            while piece := source.read():
                self._process.stdin.write(piece)
            self._process.stdin.close()

    def end(self, size: int) -> None:
        """After the last entry: what follows is read and passed over."""
        left = size
        while piece := self.output.read(_PIECE):
            left -= len(piece)
            if left < 0:
                raise BadArchive(f"too big: {size - left} 0")
        self._feeder.join()
        if self._process.wait() != 0:
            raise BadArchive("the archive is broken: zstd can't read it to its end")


def _open(source: _Digested) -> tuple[tarfile.TarFile, _Zstd | None]:
    if not source.is_zstd:
        return tarfile.open(fileobj=source, mode="r|*", bufsize=_PIECE, errorlevel=1), None  # type: ignore[call-overload]
    zstd = _Zstd(source)
    return tarfile.open(fileobj=zstd.output, mode="r|", bufsize=_PIECE, errorlevel=1), zstd


def _check(member: tarfile.TarInfo) -> None:
    depth = 0
    for part in (member.linkname if member.islnk() else "", member.name):
        if ".." in part.split("/"):
            raise BadArchive(f"the entry {member.name!r} leads out of the archive's root")
    if member.issym() and not member.linkname.startswith("/"):
        depth = len([part for part in member.name.split("/")[:-1] if part not in ("", ".")])
        for part in member.linkname.split("/"):
            depth += -1 if part == ".." else 0 if part in ("", ".") else 1
            if depth < 0:
                raise BadArchive(f"the symlink {member.name} -> {member.linkname} leads out of the archive's root")


def unpack(source: _Digested, root: str, size: int, entries: int) -> int:
    """Number of entries. Never returns to the old root: the process is good for nothing else afterwards."""
    try:
        archive, zstd = _open(source)
    except tarfile.ReadError as error:
        raise BadArchive(f"it is not a tar archive: {error}") from error
    # Loaded at their first use, and from inside there is nothing to load them from: a codec, and what ends a thread.
    b"".decode("iso8859-1")
    last = threading.Thread()
    last.start()
    last.join()
    os.chroot(root)
    os.chdir("/")
    count = held = 0
    for member in archive:
        count += 1
        held += member.size if member.isreg() else 0
        # What is written, and what is only read to be passed over: neither may be without end.
        if count > entries or max(held, member.offset_data) > size:
            raise BadArchive(f"too big: {max(held, member.offset_data)} {count}")
        _check(member)
        member.name = member.name.lstrip("/") or "."
        if member.isreg() or member.isdir() or member.issym() or member.islnk():
            archive.extract(member, "/", numeric_owner=True)  # the guest's kernel makes its own device nodes
            _attributes(member)
        # It keeps each one that it saw, for look-ups that nobody makes: a million of them are a gigabyte.
        archive.members.clear()  # type: ignore[attr-defined]
    if zstd is not None:
        zstd.end(size)
    return count


def _attributes(member: tarfile.TarInfo) -> None:
    """Extended attributes as GNU tar and container engines write them: file capabilities above all."""
    for key, value in member.pax_headers.items():
        name = key.removeprefix("SCHILY.xattr.")
        if name != key and name.startswith(("security.capability", "user.")) and not member.issym():
            os.setxattr(f"/{member.name}", name, value.encode("utf-8", "surrogateescape"), follow_symlinks=False)


def main() -> None:
    _, fd, root, size, entries = sys.argv
    try:
        source = _Digested(open(int(fd), "rb", buffering=0))  # noqa: SIM115 - read to the end of the process
        count = unpack(source, os.path.abspath(root), int(size), int(entries))
        digest = source.rest()
    except BadArchive as error:
        sys.exit(str(error))
    except RecursionError:
        sys.exit("its directories are nested too deep")
    except MemoryError:
        sys.exit("the archive wants more memory than it gets to unpack")
    except KeyError:
        sys.exit("the archive is broken: a hard link in it leads to what it has not")
    except (tarfile.TarError, EOFError, UnicodeError, ValueError) as error:
        sys.exit(f"the archive is broken: {error}")
    except OSError as error:
        sys.exit(f"{error.strerror or error}: {error.filename or ''}")
    if count == 0:
        sys.exit("it is not a tar archive, or an empty one")
    print(digest)


if __name__ == "__main__":
    main()
