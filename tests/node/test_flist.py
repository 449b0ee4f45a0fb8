"""flists on the kernel's FUSE: the tree as it was packed, from servers that are slow, die, and lie."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import needs
from blockserver import Store
from bound import KILLED
from zos.programs.flist.pack import pack
from zos.programs.flist.sealing import BLOCK

pytestmark = needs.FUSE

#: Bytes in a second.
_SPEED = 4 << 20


class Bench:
    """A tree, its flist, who serves its blocks, and mounts of it."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.tree = directory, directory / "tree"
        self.programs: list[subprocess.Popen[bytes]] = []
        self.store = Store(directory, speed=_SPEED).begin()
        self.url = f"http://127.0.0.1:{self.store.server_port}/blocks"

    def pack(self) -> None:
        pack(self.tree, self.directory / "image.fl", self.directory / "blocks", self.url)

    def start(self, name: str = "mount", cache: str = "cache", size: int = 1 << 30) -> Path:
        place = self.directory / name
        with contextlib.suppress(OSError):
            place.mkdir(exist_ok=True)
        words = [*KILLED, sys.executable, "-m", "zos.programs.flist", "--flist", self.directory / "image.fl"]
        words += ["--cache", self.directory / cache, "--cache-size", str(size), "--status", self.status(name), place]
        self.programs.append(subprocess.Popen(words))
        until(lambda: self.programs[-1].poll() is None and _mounted(place), 15)
        return place

    def status(self, name: str = "mount") -> Path:
        return self.directory / f"{name}.json"

    def well(self, name: str = "mount") -> bool:
        return bool(json.loads(self.status(name).read_text())["well"])

    def end(self) -> None:
        for program in self.programs:
            program.terminate()
        for program in self.programs:
            try:
                program.wait(10)
            except subprocess.TimeoutExpired:
                program.kill()
                program.wait()
        for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
            if str(self.directory) in line:
                subprocess.run(["umount", "-l", line.split()[4]], check=True)
        self.store.end()


def _mounted(place: Path) -> bool:
    with contextlib.suppress(OSError):
        return os.path.ismount(place) and os.statvfs(place).f_bsize == BLOCK
    return False


def until(what: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.05)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    tree = bench.tree
    (tree / "usr/bin").mkdir(parents=True)
    (tree / "etc").mkdir()
    (tree / "etc/motd").write_text("hello\n")
    (tree / "etc/größe").write_text("umlaut\n")
    for number in range(300):
        (tree / f"usr/file-{number}").write_bytes(os.urandom(number * 7))
    (tree / "big").write_bytes(os.urandom(8 * BLOCK + 4711))
    with (tree / "sparse").open("wb") as sparse:
        sparse.seek(5 * BLOCK)
        sparse.write(b"end")
    (tree / "usr/bin/su").write_text("#!/bin/sh\n")
    os.chown(tree / "usr/bin/su", 12, 34)
    (tree / "usr/bin/su").chmod(0o4755)
    (tree / "etc").chmod(0o1700)
    os.link(tree / "usr/bin/su", tree / "usr/bin/also")
    os.symlink("usr/bin", tree / "bin")
    os.symlink("/nowhere", tree / "broken")
    bench.pack()
    try:
        yield bench
    finally:
        bench.end()


def _facts(root: Path) -> list[tuple[object, ...]]:
    found = []
    for directory, directories, files in os.walk(root):
        for name in (*directories, *files):
            path = Path(directory, name)
            info = path.lstat()
            size = 0 if path.is_dir() and not path.is_symlink() else info.st_size
            link = os.readlink(path) if path.is_symlink() else ""
            found.append((str(path.relative_to(root)), info.st_mode, info.st_uid, info.st_gid, size, int(info.st_mtime), link))
    return sorted(found)


def test_the_tree_is_the_one_that_was_packed(bench: Bench) -> None:
    place = bench.start()
    assert _facts(place) == _facts(bench.tree)
    assert bench.store.answers == 0, "nothing is fetched for names"
    subprocess.run(["diff", "-r", "--no-dereference", bench.tree, place], check=True)
    with pytest.raises(OSError, match="Read-only"):
        (place / "new").write_text("")
    assert not (place / "absent").exists()
    before = bench.store.answers
    subprocess.run(["diff", "-r", "--no-dereference", bench.tree, place], check=True)
    assert bench.store.answers == before


def test_what_is_read_first_needs_few_blocks(bench: Bench) -> None:
    place = bench.start()
    assert (place / "etc/motd").read_text() == "hello\n"
    assert bench.store.answers == 1
    with (place / "big").open("rb") as file:
        file.seek(4 * BLOCK + 100)
        assert file.read(10) == (bench.tree / "big").read_bytes()[4 * BLOCK + 100 : 4 * BLOCK + 110]
    time.sleep(0.5)
    assert bench.store.answers <= 4


def test_a_server_that_dies_is_an_error_in_time_and_told_and_mends(bench: Bench) -> None:
    place = bench.start()
    assert (place / "etc/motd").read_text() == "hello\n"
    port = bench.store.server_port
    bench.store.end()
    began = time.monotonic()
    with pytest.raises(OSError, match="Input/output error"):
        (place / "big").read_bytes()
    assert time.monotonic() - began < 10
    assert (place / "etc/motd").read_text() == "hello\n"
    until(lambda: not bench.well(), 2)
    assert str(port) in json.loads(bench.status().read_text())["problem"]
    bench.store = Store(bench.directory, ("127.0.0.1", port), _SPEED).begin()
    until(bench.well, 20)
    assert (place / "big").read_bytes() == (bench.tree / "big").read_bytes()


def test_a_server_that_says_nothing_is_an_error_in_time(bench: Bench) -> None:
    port = bench.store.server_port
    bench.store.end()
    place = bench.start()
    with socket.create_server(("127.0.0.1", port)):
        began = time.monotonic()
        with pytest.raises(OSError, match="Input/output error"):
            (place / "big").read_bytes()
        assert time.monotonic() - began < 10.5
    bench.store = Store(bench.directory, ("127.0.0.1", port), _SPEED).begin()


def test_a_flipped_byte_is_never_served(bench: Bench) -> None:
    place = bench.start()
    bench.store.lies = 1
    assert (place / "etc/motd").read_text() == "hello\n", "fetched once more"
    bench.store.lies = 1 << 30
    with pytest.raises(OSError, match="Input/output error"):
        (place / "big").read_bytes()
    bench.store.lies = 0
    until(bench.well, 20)
    assert (place / "big").read_bytes() == (bench.tree / "big").read_bytes()
    for file in (bench.directory / "cache").iterdir():
        if not file.name.startswith("."):
            whole = file.read_bytes()
            file.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    other = bench.start("other")
    subprocess.run(["diff", "-r", "--no-dereference", bench.tree, other], check=True)


def test_two_mounts_share_what_was_fetched(bench: Bench) -> None:
    one, two = bench.start("one"), bench.start("two")
    assert (one / "big").read_bytes() == (bench.tree / "big").read_bytes()
    before = bench.store.answers
    assert (two / "big").read_bytes() == (bench.tree / "big").read_bytes()
    assert bench.store.answers == before


def test_the_cache_keeps_its_bound(bench: Bench) -> None:
    place = bench.start(size=4 * BLOCK)
    subprocess.run(["diff", "-r", "--no-dereference", bench.tree, place], check=True)
    held = sum(file.stat().st_blocks * 512 for file in (bench.directory / "cache").iterdir())
    assert held <= 4 * BLOCK + 8192


def test_one_that_was_killed_is_mounted_anew(bench: Bench) -> None:
    place = bench.start()
    bench.programs[-1].send_signal(signal.SIGKILL)
    bench.programs[-1].wait()
    with pytest.raises(OSError, match="not connected"):
        os.statvfs(place)
    assert bench.start() == place
    assert (place / "etc/motd").read_text() == "hello\n"
    assert sum(f" {place} " in line for line in Path("/proc/self/mountinfo").read_text().splitlines()) == 1
    bench.programs[-1].terminate()
    assert bench.programs[-1].wait(10) == 0
    assert str(place) not in Path("/proc/self/mountinfo").read_text()


def test_it_serves_what_somebody_else_has_mounted(bench: Bench) -> None:
    """As the launcher of a service does, whose program may not mount."""
    place = bench.directory / "given"
    place.mkdir()
    fuse = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={fuse},rootmode=40000,user_id=0,group_id=0,allow_other"
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mount(b"zos-service", bytes(place), b"fuse", 0, options.encode()) == 0, os.strerror(ctypes.get_errno())
    words = [*KILLED, sys.executable, "-m", "zos.programs.flist", "--flist", bench.directory / "image.fl"]
    words += ["--cache", bench.directory / "cache", "--cache-size", str(1 << 30), f"/dev/fd/{fuse}"]
    bench.programs.append(subprocess.Popen(words, pass_fds=[fuse]))
    os.close(fuse)
    assert (place / "etc/motd").read_text() == "hello\n"
    bench.programs[-1].terminate()
    assert bench.programs[-1].wait(10) == 0


def test_one_that_can_not_be_mounted_says_why(bench: Bench) -> None:
    (bench.directory / "image.fl").write_bytes(b"no database")
    words = [
        sys.executable,
        "-m",
        "zos.programs.flist",
        "--flist",
        bench.directory / "image.fl",
        "--cache",
        bench.directory / "c",
    ]
    ended = subprocess.run([*words, "--cache-size", "1000000", bench.directory], capture_output=True, text=True)
    assert ended.returncode == 1
    assert "it is no flist of rfs v2" in ended.stderr
