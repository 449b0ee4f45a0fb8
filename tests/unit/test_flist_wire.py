"""The words of Linux' FUSE protocol, as the kernel measures them."""

from __future__ import annotations

import stat
import struct

import pytest

from zos.programs.flist import wire
from zos.programs.flist.catalogue import Inode

FILE = Inode(7, 1, b"name", 4711, 12, 34, stat.S_IFREG | 0o4755, 5, 6)


def test_answers_are_as_long_as_the_kernel_expects() -> None:
    assert len(wire.answer(1)) == 16
    assert len(wire.entry(FILE)) == len(wire.entry(None)) == 128
    assert len(wire.attributes(FILE)) == 104
    assert len(wire.opened(directory=True)) == 16
    assert len(wire.statfs(1, 2)) == 80
    told = wire.initialised(struct.pack("<IIII", 7, 40, 131072, 0xFFFFFFFF))
    assert told is not None
    assert (len(told), struct.unpack_from("<II", told)) == (64, (7, 31))


@pytest.mark.parametrize("version", [(6, 0), (7, 22), (8, 1)])
def test_a_kernel_of_another_age_is_told_so(version: tuple[int, int]) -> None:
    assert wire.initialised(struct.pack("<IIII", *version, 0, 0)) is None


def test_a_name_that_is_not_there_may_be_forgotten_never() -> None:
    assert struct.unpack_from("<QQQ", wire.entry(None)) == (0, 0, 365 * 86400)


@pytest.mark.parametrize("plus", [False, True])
def test_a_list_has_what_has_room_and_goes_on_there(plus: bool) -> None:
    files = [Inode(number, 1, b"x" * number, 0, 0, 0, stat.S_IFREG, 0, 0) for number in range(2, 100)]
    names, first, rounds = [], 0, 0
    while told := wire.listed(files, first, 1000, plus=plus):
        assert len(told) <= 1000
        at, rounds = 0, rounds + 1
        while at < len(told):
            at += 128 if plus else 0
            ino, first, length, kind = struct.unpack_from("<QQII", told, at)
            names.append(told[at + 24 : at + 24 + length])
            assert (ino, kind) == (length, stat.S_IFREG >> 12)
            at += -(-(24 + length) // 8) * 8
    assert names == [file.name for file in files]
    assert rounds > 5
    assert wire.listed(files, 10**9, 1000, plus=plus) == b""


def test_a_question_says_what_it_is_about() -> None:
    asked = wire.Request.of(struct.pack("<IIQQIIII", 60, wire.Opcode.READ, 9, 7, 0, 0, 0, 0) + struct.pack("<QQI", 0, 512, 99))
    assert (asked.unique, asked.node, asked.span) == (9, 7, (512, 99))
    assert wire.Request.of(struct.pack("<IIQQIIII", 45, 1, 9, 1, 0, 0, 0, 0) + b"etc\0").name == b"etc"
    assert not wire.CHANGES & wire.UNANSWERED
