"""Which process shares a guest's image, and what counts as its end."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from zos.drivers import virtiofsd
from zos.drivers.virtiofsd import Watched, Watcher, launcher, launcher_of, process_of
from zos.plan.items import GuestShare

NAME = "zos-abcdefghij"
PLAIN = GuestShare(tag="t", path="a/b", ground="volume/b")
_DAEMON = """
import socket, sys
with socket.socket(socket.AF_UNIX) as listener:
    listener.bind(sys.argv[1]); listener.listen(); print("listens", flush=True)
    connection, _ = listener.accept()
print("connected", flush=True); sys.stdin.read()
"""
_GUEST = """
import socket, sys
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect(sys.argv[1]); print("connected", flush=True); sys.stdin.read()
"""


def start(script: str, *argv: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", script, *argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stdout is not None
    assert process.stdout.readline()
    return process


def connected(base: Path, device: str) -> tuple[subprocess.Popen[str], subprocess.Popen[str]]:
    """A daemon and the guest that it serves, as libvirt connects them."""
    place = base / f"domain-7-{NAME}"
    place.mkdir(exist_ok=True)
    daemon = start(_DAEMON, str(place / f"{device}-fs.sock"))
    guest = start(_GUEST, str(place / f"{device}-fs.sock"))
    assert daemon.stdout is not None
    assert daemon.stdout.readline() == "connected\n"
    (base / f"7-{NAME}-{device}-fs.pid").write_text(f"{daemon.pid}\n")
    return daemon, guest


@dataclass
class Pair:
    """A guest and its daemon, connected as libvirt connects them."""

    pids: Path
    daemon: subprocess.Popen[str]
    guest: subprocess.Popen[str]

    def end(self, process: subprocess.Popen[str]) -> None:
        process.kill()
        process.wait()


@pytest.fixture
def pair() -> Iterator[Pair]:
    base = Path(tempfile.mkdtemp(prefix="zv-", dir="/tmp"))  # sockets: 108 bytes
    daemon, guest = connected(base, "fs0")
    (base / f"{NAME}.pid").write_text(f"{guest.pid}")
    pair = Pair(base, daemon, guest)
    yield pair
    clear(daemon, guest)
    shutil.rmtree(base)


def clear(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()


@pytest.mark.parametrize("file", ["whole", "missing", "garbage", "empty", "another's"])
def test_it_is_found_whatever_became_of_its_pid_file(pair: Pair, file: str) -> None:
    (path,) = pair.pids.glob("*-fs0-fs.pid")
    match file:
        case "missing":
            path.unlink()
        case "garbage":
            path.write_text("not a number")
        case "empty":
            path.write_text("")
        case "another's":
            path.write_text("2147483646")  # there is no such process
    assert process_of(pair.pids, NAME) == pair.daemon.pid


def test_one_that_was_looked_for_and_is_not_there_is_lost(pair: Pair) -> None:
    pair.end(pair.daemon)
    assert process_of(pair.pids, NAME) is None
    (path,) = pair.pids.glob("*-fs0-fs.pid")
    path.unlink()
    assert process_of(pair.pids, NAME) is None


def test_where_the_guest_itself_can_not_be_found_nothing_is_known(pair: Pair) -> None:
    (path,) = pair.pids.glob("*-fs0-fs.pid")
    path.unlink()
    (pair.pids / f"{NAME}.pid").unlink()
    with pytest.raises(OSError, match="No such file"):
        process_of(pair.pids, NAME)


async def test_a_guest_is_not_called_lost_for_want_of_a_file(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(virtiofsd, "_AGAIN", 0.02)
    (path,) = pair.pids.glob("*-fs0-fs.pid")
    path.unlink()
    told = (pair.pids / f"{NAME}.pid").read_text()
    (pair.pids / f"{NAME}.pid").unlink()
    lost: list[tuple[str, str]] = []
    news = asyncio.Event()

    def note(name: str, uuid: str) -> None:
        lost.append((name, uuid))
        news.set()

    watcher = Watcher(pair.pids, note)
    watcher.watch([Watched(NAME, "u")])
    with pytest.raises(TimeoutError):  # unsure, again and again, is no loss
        await asyncio.wait_for(news.wait(), 0.2)
    (pair.pids / f"{NAME}.pid").write_text(told)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(news.wait(), 0.2)
    pair.end(pair.daemon)
    await asyncio.wait_for(news.wait(), 5)
    assert lost == [(NAME, "u")]
    watcher.close()


async def test_each_that_shares_with_a_guest_is_watched(pair: Pair) -> None:
    second, other = connected(pair.pids, "fs1")
    lost: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
    watcher = Watcher(pair.pids, lambda name, uuid: lost.put_nowait((name, uuid)))
    watcher.watch([Watched(NAME, "u", 2)])
    assert process_of(pair.pids, NAME, "fs1") == second.pid
    assert lost.empty()
    pair.end(second)
    assert await asyncio.wait_for(lost.get(), 5) == (NAME, "u")
    watcher.watch([Watched(NAME, "u", 2)])  # gone already, then
    assert lost.get_nowait() == (NAME, "u")
    watcher.watch([Watched(NAME, "u")])
    assert lost.empty()
    pair.end(pair.daemon)
    assert await asyncio.wait_for(lost.get(), 5) == (NAME, "u")
    watcher.close()
    clear(second, other)


def test_each_kind_of_share_has_its_launcher(tmp_path: Path) -> None:
    images = launcher(tmp_path / "libexec")
    kinds = [replace(PLAIN, read_only=ro, mounted=mounted) for ro in (False, True) for mounted in (False, True)]
    kinds += [replace(PLAIN, read_only=ro, inside="fs") for ro in (False, True)]
    paths = {launcher_of(share, images) for share in kinds}
    assert len(paths) == 5  # whether what is inside is read-only is for who mounts it
    assert {path.name for path in images.parent.iterdir()} == {path.name for path in {*paths, images}}
    for path in {*paths, images}:
        subprocess.run(["sh", "-n", path], check=True)
        assert path.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("there", ["", "a", "a b"])
def test_what_is_around_a_mount_is_shared_with_nothing_else_in_it(tmp_path: Path, there: str) -> None:
    around, path = tmp_path / "around", launcher_of(replace(PLAIN, inside="a"), launcher(tmp_path / "libexec"))
    around.mkdir()
    for name in there.split():
        (around / name).mkdir()
    subprocess.run(["mount", "--bind", around, around], check=True)  # which is a mount, but not the one
    try:
        done = subprocess.run(["timeout", "10", path, "-o", f"source={around},x"], capture_output=True, text=True)
        assert (done.returncode, done.stderr.count("nothing is mounted there")) == (1, 1)
    finally:
        subprocess.run(["umount", around], check=True)


def test_sockets_of_others_are_not_taken_for_it(pair: Pair) -> None:
    pair.end(pair.daemon)
    for name in (f"domain-8-{NAME}x", f"domain-8-x{NAME}"):
        place = pair.pids / name
        place.mkdir()
        with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as other:
            listener.bind(str(place / "fs0-fs.sock"))
            listener.listen()
            other.connect(str(place / "fs0-fs.sock"))
            assert process_of(pair.pids, NAME) is None
