"""What a file holds, unpacked as it is read: plain, or packed by gzip, xz, bzip2 or zstd. Its first bytes tell, since a name
says nothing."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import hashlib
import lzma
import subprocess
import threading
import zlib
from typing import IO, Protocol, cast

#: Bytes that are looked at before anybody reads.
_FIRST = 0x10048
PIECE = 1 << 20


class BadContent(Exception):
    """What is wrong with the content."""


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class Digested:
    """The file, read once from its beginning to its end, and its digest."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self.first = self._rest = _whole(file, _FIRST)

    def read(self, size: int = PIECE) -> bytes:
        piece, self._rest = self._rest[:size], self._rest[size:]
        if not piece:
            piece = self._file.read(size)
        self._digest.update(piece)
        return piece

    def rest(self) -> str:
        """Reads what nobody wanted, and gives the digest."""
        while self.read():
            pass
        return f"sha256:{self._digest.hexdigest()}"


class Content:
    """What is in the file. ``first`` are its first bytes, which are still to be read."""

    def __init__(self, source: Digested) -> None:
        self._zstd = _Zstd(source) if source.first.startswith(b"\x28\xb5\x2f\xfd") else None
        self._stream: _Readable = self._zstd.output if self._zstd is not None else _codec(source)
        self._rest = b""
        first = b""
        while len(first) < _FIRST and (piece := self.read(_FIRST - len(first))):
            first += piece
        self.first = self._rest = first

    def read(self, size: int = PIECE) -> bytes:
        """Up to so many bytes; none at the end. Raises BadContent."""
        piece, self._rest = self._rest[:size], self._rest[size:]
        if piece:
            return piece
        try:
            piece = self._stream.read(size)
        except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
            raise BadContent(f"it is broken: {error}") from error
        except OSError as error:
            if error.errno is not None:
                raise
            raise BadContent(f"it is broken: {error}") from error
        if not piece and self._zstd is not None:
            self._zstd.end()
        return piece

    def end(self, size: int) -> None:
        """Reads what nobody wanted, no more than so many bytes of it."""
        left = size
        while piece := self.read():
            left -= len(piece)
            if left < 0:
                raise BadContent(f"too big: {size - left} 0")


class _Zstd:
    """zstd, fed with the file by a thread."""

    def __init__(self, source: Digested) -> None:
        self._process = subprocess.Popen(["zstd", "-dcq"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self.output = self._process.stdout
        self._feeder = threading.Thread(target=self._feed, args=(source,), daemon=True)
        self._feeder.start()

    def _feed(self, source: Digested) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died: its end tells
            while piece := source.read():
                self._process.stdin.write(piece)
            self._process.stdin.close()

    def end(self) -> None:
        self._feeder.join()
        if self._process.wait() != 0:
            raise BadContent("it is broken: zstd can't read it to its end")


def _codec(source: Digested) -> _Readable:
    file = cast("IO[bytes]", source)  # all that these ask of a file is to be read
    if source.first.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=file)
    if source.first.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMAFile(file)
    if source.first.startswith(b"BZh"):
        return bz2.BZ2File(file)
    return source


def _whole(file: IO[bytes], size: int) -> bytes:
    found = b""
    while len(found) < size and (piece := file.read(size - len(found))):
        found += piece
    return found
