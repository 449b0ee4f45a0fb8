"""Numbers of accounts: the same for ever, one each."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zos.drivers import DriverError, accounts
from zos.drivers.accounts import FIRST, LAST, Accounts

NAMES = st.lists(st.from_regex(r"[a-z0-9][a-z0-9-]{0,20}", fullmatch=True), min_size=1, max_size=20)


def test_a_name_has_one_number_for_ever(tmp_path: Path) -> None:
    first = Accounts(tmp_path)
    numbers = {name: first.uid(name) for name in ("a", "b", "c")}
    assert len(set(numbers.values())) == 3
    assert all(FIRST <= number <= LAST for number in numbers.values())
    assert {name: first.uid(name) for name in numbers} == {name: Accounts(tmp_path).uid(name) for name in numbers} == numbers
    assert (tmp_path / "accounts").stat().st_mode & 0o777 == 0o600
    written = (tmp_path / "accounts").read_text()
    Accounts(tmp_path).uid("b")
    assert (tmp_path / "accounts").read_text() == written


@given(NAMES, st.integers(1, 8))
def test_no_two_names_ever_have_one_number(tmp_path_factory: pytest.TempPathFactory, names: list[str], room: int) -> None:
    """In a range so small that names meet all the time."""
    state = tmp_path_factory.mktemp("state")
    last = FIRST + len(set(names)) + room
    before, accounts.LAST = accounts.LAST, last
    try:
        given_out = {name: Accounts(state).uid(name) for name in names}
        assert len(set(given_out.values())) == len(given_out)
        assert {name: Accounts(state).uid(name) for name in given_out} == given_out
    finally:
        accounts.LAST = before


def test_a_lost_file_is_found_again(tmp_path: Path) -> None:
    numbers = {name: Accounts(tmp_path).uid(name) for name in ("a", "b")}
    lives = Accounts(tmp_path)
    lives.uid("a")
    (tmp_path / "accounts").unlink()
    assert lives.uid("a") == numbers["a"]  # who knew it writes it down again
    assert (tmp_path / "accounts").exists()
    (tmp_path / "accounts").unlink()
    assert {name: Accounts(tmp_path).uid(name) for name in ("b", "a")} == numbers


def test_what_is_on_disk_counts_where_names_had_met(tmp_path: Path) -> None:
    """b has the number that a would get by itself, as it was there first."""
    natural = Accounts(tmp_path).uid("a")
    (tmp_path / "accounts").unlink()
    found = [("b", natural), ("nobody", 0), ("c", natural)]
    again = Accounts(tmp_path, lambda: found)
    assert again.uid("b") == natural
    assert len({again.uid("a"), again.uid("c"), natural}) == 3
    assert Accounts(tmp_path).uid("b") == natural


@pytest.mark.parametrize("torn", ["6", f"{FIRST + 5} bb", f"{FIRST + 5} bb-1"])
def test_a_line_that_was_cut_short_was_never_told_and_becomes_nobodys(tmp_path: Path, torn: str) -> None:
    """Ended by the next, it would be the number of another, whose name begins the same."""
    number = Accounts(tmp_path).uid("a")
    with open(tmp_path / "accounts", "a") as file:
        file.write(torn)
    told = {name: Accounts(tmp_path).uid(name) for name in ("b", "bb", "bb-1")}
    assert {name: Accounts(tmp_path).uid(name) for name in ("a", "b", "bb", "bb-1")} == {"a": number, **told}
    lines = [f"{number} a", *(f"{number} {name}" for name, number in told.items())]
    assert (tmp_path / "accounts").read_text().splitlines() == lines


@pytest.mark.parametrize("text", [b"", b"\0\0\0\0", b"\xff\n", b"one two\n", f"{FIRST - 1} a\n0 a\n99999999999 a\n".encode()])
def test_what_is_no_line_is_passed_over(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "accounts").write_bytes(text)
    number = Accounts(tmp_path).uid("a")
    assert FIRST <= number <= LAST
    assert Accounts(tmp_path).uid("a") == number


def test_eight_times_as_many_accounts_cost_some_eight_times_as_much(tmp_path: Path) -> None:
    """To find them again, to read them and to give out more: what looks through all of them for each costs 64 times as much."""

    def seconds(many: int) -> float:
        state = Path(tempfile.mkdtemp(dir=tmp_path))
        names = [(f"zdb-{number}", FIRST + number) for number in range(many)]
        began = time.process_time()
        Accounts(state, lambda: names).uid("zdb-0")
        again = Accounts(state)
        assert again.uid(f"zdb-{many - 1}") == FIRST + many - 1
        again.uid("another")
        return time.process_time() - began

    few, many = (min(seconds(count) for _ in range(3)) for count in (2_000, 16_000))
    assert many < 24 * few


def test_what_is_found_is_written_down_once(tmp_path: Path) -> None:
    """Also where it can't be read again, as no name is like that: the file would grow with each start."""
    found = [("a b", FIRST), ("b\n0 c", FIRST + 1), ("d", FIRST + 2)]
    for _ in range(3):
        Accounts(tmp_path, lambda: found).uid("d")
    assert (tmp_path / "accounts").read_text() == f"{FIRST + 2} d\n"


@pytest.mark.parametrize("name", ["", "a b", "a\n1 b", "/", "..", "x" * 201])
def test_a_name_is_a_word(tmp_path: Path, name: str) -> None:
    with pytest.raises(DriverError, match="can't be the name"):
        Accounts(tmp_path).uid(name)
    assert not (tmp_path / "accounts").exists()


def test_a_file_that_can_not_be_read_is_not_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "accounts").mkdir()
    with pytest.raises(OSError, match="directory"):
        Accounts(tmp_path).uid("a")


def test_one_is_not_told_before_it_is_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="No space"):
        Accounts(tmp_path).uid("a")
