"""``file://``: below what the node's owner opened, by whatever names."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from zos.drivers import DriverError
from zos.drivers.localimage import NotOpened, canonical, opened, stamp
from zos.programs.budget import Budget, Exceeded
from zos.programs.copytree import Copy


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """An opened directory, with a secret beside it."""
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "shelf-of-others").mkdir()
    shelf = tmp_path / "shelf"
    (shelf / "tree").mkdir(parents=True)
    (shelf / "a.tar").write_text("archive")
    return shelf


def content(ref: str, *directories: Path) -> str:
    with opened(ref, directories) as (fd, is_directory):
        return "directory" if is_directory else os.read(fd, 100).decode()


def problem(ref: str, *directories: Path) -> str:
    with pytest.raises(DriverError) as caught, opened(ref, directories):
        pass
    return str(caught.value)


def test_one_text_for_all_spellings() -> None:
    for ref in ("file:///a/b", "file:////a//b", "file:///a/./b/", "file:///a/c/../b", "file:///../a/b"):
        assert canonical(ref) == "file:///a/b"
    assert canonical("oci://r.example/a/../b:1") == "oci://r.example/a/../b:1"


def test_what_is_below_is_opened(shelf: Path) -> None:
    assert content(f"file://{shelf}/a.tar", shelf) == "archive"
    assert content(f"file://{shelf}/tree", Path("/nowhere"), shelf) == "directory"
    assert content(f"file://{shelf}", shelf) == "directory"
    (shelf / "inner").symlink_to("tree/../a.tar")
    assert content(f"file://{shelf}/inner", shelf) == "archive"


def test_the_owner_may_write_it_with_a_link(shelf: Path) -> None:
    (shelf.parent / "link").symlink_to(shelf)
    link = shelf.parent / "link"
    assert content(f"file://{link}/a.tar", link) == "archive"
    assert content(f"file://{shelf}/a.tar", link) == "archive"


def test_nothing_else_is_even_told_from_what_is_not_there(shelf: Path) -> None:
    for path in ("/etc", "/etc/shadow", "/not/there", f"{shelf}/../secret", f"{shelf}-of-others", f"{shelf.parent}"):
        said = problem(f"file://{path}", shelf)
        assert "is not below a directory that this node opens for images; the node's owner can open it with --image-dir" in said
    assert "is not below" in problem(f"file://{shelf}/a.tar")


def test_links_out_of_it(shelf: Path) -> None:
    (shelf / "up").symlink_to("../secret")
    (shelf / "away").symlink_to("/etc")
    (shelf / "proc").symlink_to("/proc/self/root")
    for path in ("up", "away", "away/passwd", "proc/etc/passwd"):
        with pytest.raises(NotOpened, match="is a link out of"), opened(f"file://{shelf}/{path}", (shelf,)):
            pass
    with pytest.raises(NotOpened):
        stamp(f"file://{shelf}/up", (shelf,))


def test_what_is_neither_file_nor_directory(shelf: Path) -> None:
    os.mkfifo(shelf / "fifo")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(shelf / "socket"))
    for name in ("fifo", "socket"):
        assert "is neither a file nor a directory" in problem(f"file://{shelf}/{name}", shelf)
    assert "there is no" in problem(f"file://{shelf}/absent", shelf)


def test_a_stamp_tells_a_changed_archive(shelf: Path) -> None:
    ref = f"file://{shelf}/a.tar"
    first = stamp(ref, (shelf,))
    (shelf / "a.tar").write_text("another archive")
    assert stamp(ref, (shelf,)) not in ("", first)
    (shelf / "a.tar").unlink()
    assert stamp(ref, (shelf,)) == ""
    assert stamp("oci://x/y", ()) == ""


class Swapping:
    """Puts a link to a secret where a thing is, and the thing back, all the time."""

    def __init__(self, path: Path, target: Path) -> None:
        self._path, self._kept, self._target = path, path.with_name("kept"), target
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._swap)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _swap(self) -> None:
        link = self._path.with_name("link")
        while not self._over.is_set():
            link.symlink_to(self._target)
            self._path.rename(self._kept)
            link.rename(self._path)
            self._path.unlink()
            self._kept.rename(self._path)


def test_a_link_put_in_its_place_meanwhile(shelf: Path) -> None:
    (shelf / "dir").mkdir()
    (shelf / "dir" / "secret").write_text("harmless")
    seen: Counter[str] = Counter()
    deadline = time.monotonic() + 20
    with Swapping(shelf / "dir", shelf.parent):
        while not (seen["harmless"] and seen["refused"] > 20):
            assert time.monotonic() < deadline, seen
            try:
                seen[content(f"file://{shelf}/dir/secret", shelf)] += 1
            except NotOpened:
                seen["refused"] += 1
            except DriverError:
                seen["gone"] += 1
    assert seen["secret"] == 0


def copied(source: Path, target: Path, size: int = 1 << 30, entries: int = 1000) -> int:
    target.mkdir()
    fds = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in (source, target)]
    try:
        copy = Copy(fds[1], Budget(size, entries, 0, fds[1]))
        copy.tree(fds[0], fds[1], "")
    finally:
        for fd in fds:
            os.close(fd)
    return copy.passed_over


def test_a_copy_is_the_same(shelf: Path, tmp_path: Path) -> None:
    tree = shelf / "tree"
    (tree / "sub").mkdir(mode=0o750)
    (tree / "sub" / "program").write_bytes(b"\x7fELF")
    (tree / "sub" / "program").chmod(0o4755)
    os.link(tree / "sub" / "program", tree / "other")
    (tree / "link").symlink_to("/etc/passwd")
    with open(tree / "holes", "wb") as file:
        file.seek(8 << 20)
        file.write(b"end")
    os.utime(tree / "sub" / "program", ns=(1_000_000_000, 2_000_000_000))
    os.mkfifo(tree / "fifo")
    assert copied(tree, tmp_path / "copy") == 1
    copy = tmp_path / "copy"
    assert sorted(path.name for path in copy.iterdir()) == ["holes", "link", "other", "sub"]
    info = (copy / "sub" / "program").stat()
    assert (info.st_mode & 0o7777, info.st_mtime_ns, info.st_nlink) == (0o4755, 2_000_000_000, 2)
    assert (copy / "sub").stat().st_mode & 0o7777 == 0o750
    assert os.readlink(copy / "link") == "/etc/passwd"
    assert (copy / "holes").read_bytes() == (tree / "holes").read_bytes()
    assert (copy / "holes").stat().st_blocks * 512 < 1 << 20


def test_a_copy_has_its_limits(shelf: Path, tmp_path: Path) -> None:
    for number in range(20):
        (shelf / "tree" / str(number)).write_bytes(os.urandom(65536))
    with pytest.raises(Exceeded, match="too big"):
        copied(shelf / "tree", tmp_path / "small", size=1 << 20)
    with pytest.raises(Exceeded, match="too big"):
        copied(shelf / "tree", tmp_path / "few", entries=19)


def test_a_copy_never_goes_through_a_link(shelf: Path, tmp_path: Path) -> None:
    (shelf / "tree" / "dir").mkdir()
    (shelf / "tree" / "dir" / "secret").write_text("harmless")
    failed = number = 0
    found: set[str] = set()
    deadline = time.monotonic() + 20
    with Swapping(shelf / "tree" / "dir", shelf.parent):
        while failed < 20 or not found:  # both are to be seen: copies that are thrown away, and some that come through
            assert time.monotonic() < deadline
            number += 1
            try:
                copied(shelf / "tree", tmp_path / f"copy{number}")
            except OSError:  # it saw a directory that is none any more: the whole copy is thrown away
                failed += 1
            made = tmp_path.glob(f"copy{number}/*/secret")
            found |= {path.read_text() for path in made if not path.parent.is_symlink()}
    assert found == {"harmless"}
