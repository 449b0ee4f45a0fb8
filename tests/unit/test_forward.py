"""A stream that tarfile reads: the same members as from a file, however the bytes come."""

from __future__ import annotations

import io
import tarfile
from typing import IO, cast

import pytest

from zos.programs.forward import Forward
from zos.programs.packed import Content


class _Pieces:
    """Content that comes in pieces of a size of its own."""

    def __init__(self, content: bytes, size: int) -> None:
        self._file, self._size = io.BytesIO(content), size

    def read(self, size: int) -> bytes:
        return self._file.read(min(size, self._size))


def _forward(content: bytes, size: int) -> Forward:
    return Forward(cast("Content", _Pieces(content, size)))


def _archive() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for number in range(30):
            info = tarfile.TarInfo(f"{'long/' * (number * 3)}file-{number}")
            info.size = number * 100
            archive.addfile(info, io.BytesIO(bytes([number]) * info.size))
    return file.getvalue()


@pytest.mark.parametrize("size", [1, 511, 512, 1000, 1 << 20])
def test_tarfile_finds_the_same_as_in_a_file(size: int) -> None:
    whole, found = _archive(), {}
    with tarfile.TarFile(fileobj=cast("IO[bytes]", _forward(whole, size))) as archive:
        for number, member in enumerate(archive):
            if number % 3:  # others are passed over
                content = archive.extractfile(member)
                assert content is not None
                found[member.name] = content.read()
    assert found == {f"{'long/' * (n * 3)}file-{n}": bytes([n]) * n * 100 for n in range(30) if n % 3}


def test_one_that_is_cut_off_is_broken() -> None:
    # In the content of the last member, which nobody reads.
    whole = _archive()
    last = whole.rindex(b"\x1d" * 2900)
    with pytest.raises(tarfile.ReadError, match="unexpected end"):
        list(tarfile.TarFile(fileobj=cast("IO[bytes]", _forward(whole[: last + 1000], 4096))))


def test_it_goes_forward_only() -> None:
    stream = _forward(b"0123456789", 3)
    assert (stream.read(4), stream.tell()) == (b"0123", 4)
    stream.seek(8)
    assert (stream.read(9), stream.read(1), stream.tell()) == (b"89", b"", 10)
    with pytest.raises(ValueError, match="gone"):
        stream.seek(0)
    stream.seek(100)
    assert stream.tell() == 10
