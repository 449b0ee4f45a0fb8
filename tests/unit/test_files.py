"""Small files: whatever step a crash cuts off, the old one is there or the new, and the next write clears what is left."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from zos import files
from zos.files import Durability, clear, half_made, sync, write

VOLATILE, DURABLE = Durability.VOLATILE, Durability.DURABLE


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def crashes(work: Callable[[], None], step: int) -> bool:
    """Does it in a process that dies before the line with that number of all that run; False: it is done before that."""
    child = os.fork()
    if child == 0:
        left = step

        def trace(frame: FrameType, event: str, _: Any) -> Any:
            nonlocal left
            if frame.f_code.co_filename != files.__file__:
                return None
            if event == "line":
                left -= 1
                if left < 0:
                    os._exit(9)
            return trace

        sys.settrace(trace)
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert ended in (0, 9)
    return ended == 9


def calls(work: Callable[[], None]) -> list[str]:
    """What of the system is called, in order, as far as it says what lasts."""
    seen: list[str] = []

    def profile(_: FrameType, event: str, what: Any) -> None:
        if event == "c_call" and what.__name__ in ("fsync", "rename", "open"):
            seen.append(what.__name__)

    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(None)
    return seen


@pytest.mark.parametrize("durability", Durability)
@pytest.mark.parametrize("before", [None, "old"])
def test_a_crash_at_any_step_leaves_the_old_or_the_new(tmp_path: Path, durability: Durability, before: str | None) -> None:
    seen = set()
    for step in range(1000):
        path = tmp_path / str(step) / "room" / "file"
        if before is not None:
            write(path, before, durability)
        crashed = crashes(lambda path=path: write(path, "new", durability, 0o644), step)  # type: ignore[misc]
        found = path.read_text() if path.exists() else None
        seen.add(found)
        assert found in (before, "new")
        assert found is None or mode(path) == (0o644 if found == "new" else 0o600)
        write(path, "next", durability)
        assert [(left.name, left.read_text(), mode(left)) for left in path.parent.iterdir()] == [("file", "next", 0o600)]
        if not crashed:
            break
    assert seen == {before, "new"}


def test_what_must_last_is_on_the_disk_before_it_has_its_name_and_so_is_the_name(tmp_path: Path) -> None:
    assert calls(lambda: write(tmp_path / "file", "x", VOLATILE)) == ["open", "open", "rename"]
    durable = ["open", "open", "fsync", "rename", "open", "fsync"]
    assert calls(lambda: write(tmp_path / "file", "x", DURABLE)) == durable
    # A directory that was made for it is named in another one.
    deep = calls(lambda: write(tmp_path / "a" / "b" / "file", "x", DURABLE))
    assert deep[-6:] == ["open", "fsync"] * 3
    assert calls(lambda: sync(tmp_path)) == ["open", "fsync"]


@pytest.mark.parametrize("wanted", [0o600, 0o644, 0o755, 0o400])
def test_a_file_has_the_mode_that_was_asked_for_whatever_the_umask(tmp_path: Path, wanted: int) -> None:
    path, mask = tmp_path / "room" / "file", os.umask(0o027)
    try:
        write(path, b"\x00\xff", VOLATILE, wanted)
    finally:
        os.umask(mask)
    assert (path.read_bytes(), mode(path), mode(path.parent)) == (b"\x00\xff", wanted, 0o700)


def test_what_a_crash_has_left_is_neither_trusted_nor_kept(tmp_path: Path) -> None:
    path, other = tmp_path / "file", tmp_path / "other"
    half_made(path).write_text("half")
    half_made(path).chmod(0o666)
    with open(half_made(path)) as reader:
        write(path, "secret", VOLATILE)
        assert reader.read() == "half", "who had that open reads nothing of the new one"
    other.write_text("another's")
    half_made(path).symlink_to(other)
    write(path, "secret", VOLATILE)
    assert (other.read_text(), path.is_symlink()) == ("another's", False)


def test_what_can_not_be_written_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.mkdir()
    (path / "in the way").touch()
    with pytest.raises(OSError, match="directory"):
        write(path, "x", DURABLE)
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(UnicodeEncodeError):
        write(tmp_path / "text", "\udc80", DURABLE)
    assert list(tmp_path.iterdir()) == [path]


def test_leftovers_are_cleared_and_nothing_else_is(tmp_path: Path) -> None:
    half_made(tmp_path / "file").touch()
    for name in ("file", "file.new", ".file"):
        (tmp_path / name).touch()
    (tmp_path / ".room.new").mkdir()
    clear(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"file", "file.new", ".file", ".room.new"}
    clear(tmp_path / "absent")


def test_it_is_its_owners_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named: list[tuple[int, int, int]] = []
    rename = Path.rename

    def renamed(self: Path, target: Path) -> Path:
        info = self.stat()
        named.append((info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode)))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", renamed)
    own = os.getuid()
    write(tmp_path / "file", "x", VOLATILE, 0o400, owner=own)
    assert named == [(own, own, 0o400)]


def test_a_directory_that_is_gone_does_not_come_back_unless_asked(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write(tmp_path / "gone" / "file", "x", VOLATILE, parents=False)
    assert list(tmp_path.iterdir()) == []
    write(tmp_path / "gone" / "file", "x", VOLATILE)
    write(tmp_path / "gone" / "other", "x", DURABLE, parents=False)
    assert {path.name for path in (tmp_path / "gone").iterdir()} == {"file", "other"}
