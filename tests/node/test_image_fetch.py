"""Fetching: once, going on where it was broken off, and never more than the node has room for."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from imageworks import (
    converge,
    driver_of,
    entry,
    fact,
    https_server,
    leftovers,
    problem,
    push,
    tar,
)
from zos.drivers import DriverError, halffetched, meter
from zos.drivers.fencerules import USER
from zos.drivers.halffetched import HalfFetched, look_over
from zos.drivers.imagecache import directory_of
from zos.drivers.space import Space


@pytest.fixture(autouse=True)
def room_on_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is half fetched goes at once where the node's disk is nearly full, as that of the tests may be."""
    monkeypatch.setattr(halffetched, "free_share", lambda _: 1.0)


# --- files by https


class _Handler(http.server.BaseHTTPRequestHandler):
    """One file, with ranges. ``cut``: where it breaks off; ``sent``: what it gave, by request."""

    content = b""
    tag = '"one"'
    cut: int | None = None
    status = 200
    pause = 0.0
    sent: list[tuple[str, int]]

    def do_GET(self) -> None:
        start = 0
        asked = self.headers.get("Range", "")
        if self.status != 200:
            self.send_error(self.status)
            return
        if asked and self.headers.get("If-Range") == self.tag:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        else:
            self.send_response(200)
        self.send_header("ETag", self.tag)
        self.send_header("Content-Length", str(len(self.content) - start))
        self.end_headers()
        body = self.content[start : self.cut]
        type(self).sent.append((asked, len(body)))
        with contextlib.suppress(OSError):
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            time.sleep(self.pause)
            self.wfile.write(body[len(body) // 2 :])
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """URL of an archive of 6.9 MiB."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert.pem"))
    _Handler.content = tar(tmp_path / "served.tar", entry("noise", os.urandom(5 << 20))).read_bytes()
    _Handler.tag, _Handler.cut, _Handler.status, _Handler.pause = '"one"', None, 200, 0.0
    _Handler.sent = []
    with https_server(certificate, _Handler) as port:
        yield f"https://127.0.0.1:{port}/a.tar"


@pytest.mark.parametrize("again", ["same agent", "new agent"])
async def test_a_broken_download_goes_on(images: Path, server: str, again: str) -> None:
    driver, whole = driver_of(images), len(_Handler.content)
    _Handler.cut = 4 << 20
    assert f"the server ended after {4 << 20} of {whole} bytes" in await problem(driver, server, passing=True)
    assert len(leftovers(images)) == 1
    _Handler.cut = None
    driver = driver if again == "same agent" else driver_of(images)
    await converge(driver, server)
    assert _Handler.sent == [("", 4 << 20), (f"bytes={4 << 20}-", whole - (4 << 20))]
    assert fact(driver, server).digest == f"sha256:{hashlib.sha256(_Handler.content).hexdigest()}"
    assert len(leftovers(images)) == 1


async def test_what_changed_meanwhile_is_fetched_anew(tmp_path: Path, images: Path, server: str) -> None:
    driver = driver_of(images)
    _Handler.cut = 4 << 20
    await problem(driver, server, passing=True)
    _Handler.content, _Handler.tag, _Handler.cut = tar(tmp_path / "other.tar").read_bytes(), '"two"', None
    await converge(driver, server)
    assert fact(driver, server).digest == f"sha256:{hashlib.sha256(_Handler.content).hexdigest()}"


async def test_a_whole_download_is_not_fetched_again_after_a_crash(images: Path, server: str) -> None:
    """The agent died while it unpacked."""
    room = images / "fetched" / "files" / hashlib.sha256(server.encode()).hexdigest()[:32]
    driver = driver_of(images)
    _Handler.cut = 4 << 20
    await problem(driver, server, passing=True)
    (room / "file").write_bytes(_Handler.content)
    _Handler.cut, _Handler.sent = None, []
    await converge(driver_of(images), server)
    assert [size for _, size in _Handler.sent] == [1]


@pytest.mark.parametrize(("status", "kept"), [(404, 0), (503, 1)])
async def test_a_refusal_ends_a_download_and_a_busy_server_does_not(images: Path, server: str, status: int, kept: int) -> None:
    driver = driver_of(images)
    _Handler.cut = 4 << 20
    await problem(driver, server, passing=True)
    _Handler.status = status
    assert f"the server answers {status}" in await problem(driver, server, passing=status == 503)
    assert len(leftovers(images)) == kept


async def test_what_is_no_image_is_not_downloaded_again_and_again(images: Path, server: str) -> None:
    _Handler.content = b"a page about images" * 1000
    driver = driver_of(images)
    said = await problem(driver, server)
    assert "it is neither a tar archive nor a disk image" in said
    assert await problem(driver, server) == said
    assert len(_Handler.sent) == 1
    assert leftovers(images) == []


async def test_how_far_it_is(images: Path, server: str) -> None:
    driver, seen = driver_of(images), dict[str, tuple[int, int]]()
    driver.watch(lambda: seen.update(driver.measures().under_way))
    _Handler.pause = 1.2
    await converge(driver, server)
    got, whole = seen[f"image/{server}"]
    assert 0 < got < whole == len(_Handler.content)
    assert driver.measures().fetched == len(_Handler.content)
    assert driver.measures().under_way == {}


async def test_a_download_for_which_there_is_no_room_is_not_begun(
    images: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = driver_of(images)
    disk = list(os.statvfs(images))
    disk[4] = (64 << 20) // disk[1]  # of which others take and give while we look
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result(disk))
    monkeypatch.setattr(meter, "_KEPT", 61 << 20)
    monkeypatch.setattr(meter, "_KEPT_SHARE", 1.0)
    assert "the node's disk has no room for 6.9 MiB: 64.0 MiB are free" in await problem(driver, server, passing=True)
    assert leftovers(images) == []


# --- layers


def _stored(tmp_path: Path) -> dict[int, Path]:
    """The layers of a registry's only image, by their size."""
    blobs = (tmp_path / "registry").glob("**/blobs/sha256/*/*/data")
    return {blob.stat().st_size: blob for blob in blobs if blob.stat().st_size > 10_000}


async def test_whole_layers_are_not_fetched_again(tmp_path: Path, images: Path, registry: str) -> None:
    first = tar(tmp_path / "one.tar")
    second = tar(tmp_path / "two.tar", entry("noise", os.urandom(6 << 20)), base=False)
    push(tmp_path, f"{registry}/app:1", [first, second])
    small, large = (blob for _, blob in sorted(_stored(tmp_path).items()))
    right = large.read_bytes()
    large.write_bytes(right[:-1] + bytes([right[-1] ^ 1]))
    driver, ref = driver_of(images), f"oci://{registry}/app:1"
    await problem(driver, ref)
    assert leftovers(images) == []
    large.write_bytes(right)
    small.rename(tmp_path / "away")
    again = driver_of(images)
    await converge(again, ref)
    one = fact(again, ref).digest
    # Nor for another image that has them.
    shutil.copy(tmp_path / "away", small)
    push(tmp_path, f"{registry}/app:2", [first, tar(tmp_path / "three.tar", entry("three", b"3"), base=False)])
    small.unlink()
    await converge(again, f"oci://{registry}/app:2")
    assert fact(again, f"oci://{registry}/app:2").digest != one


async def test_layers_of_a_killed_agent_are_looked_at_before_they_are_used(tmp_path: Path, images: Path, registry: str) -> None:
    push(tmp_path, f"{registry}/app:1", [tar(tmp_path / "one.tar")])
    (blob,) = _stored(tmp_path).values()
    ref = f"oci://{registry}/app:1"
    for content, works in ((b"something else", False), (blob.read_bytes(), True)):
        left = images / ".new--killed1" / "fetch" / "oci" / "blobs" / "sha256" / blob.parent.name
        left.parent.mkdir(parents=True)
        left.write_bytes(content)
        os.chown(left, USER, USER)
        blob.rename(tmp_path / "away")
        if works:
            await converge(driver_of(images), ref)
        else:
            await problem(driver_of(images), ref)
        (tmp_path / "away").rename(blob)


def _left(layout: Path, content: bytes) -> str:
    """A layout as a fetcher leaves it; gives its layer's digest."""
    name = hashlib.sha256(content).hexdigest()
    (layout / "blobs" / "sha256").mkdir(parents=True)
    (layout / "blobs" / "sha256" / name).write_bytes(content)
    return f"sha256:{name}"


async def test_layers_that_came_with_credentials_are_for_them_alone(tmp_path: Path, images: Path) -> None:
    kept = HalfFetched(images, 1 << 30)
    layer = _left(tmp_path / "layout", b"layer")
    kept.keep(tmp_path / "layout", [layer], "ours")
    assert kept.lend(tmp_path / "theirs", [layer], "theirs") == set()
    assert kept.lend(tmp_path / "nobodys", [layer], "") == set()
    assert kept.lend(tmp_path / "ours", [layer], "ours") == {layer}


async def test_a_fetcher_that_was_taken_over_leads_nobody_to_what_is_not_its_own(tmp_path: Path, images: Path) -> None:
    kept = HalfFetched(images, 1 << 30)
    layer = _left(tmp_path / "layout", b"layer")
    kept.keep(tmp_path / "layout", [layer], "ours")
    ours = images / "layers" / "ours"
    # Where a layout is made for it: what it puts there gets no other owner, and nothing in it.
    (tmp_path / "home").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path / "home")
    with pytest.raises(FileExistsError):
        kept.lend(tmp_path / "linked", [layer], "ours")
    assert ((tmp_path / "home").stat().st_uid, list((tmp_path / "home").iterdir())) == (0, [])
    # In the layout that it leaves: nothing of others becomes its own, nor is it read.
    (tmp_path / "evil" / "blobs").mkdir(parents=True)
    (tmp_path / "evil" / "blobs" / "sha256").symlink_to(ours)
    kept.keep(tmp_path / "evil", [layer], "theirs")
    kept.rescue(tmp_path / "evil", "theirs")
    assert (ours / layer.removeprefix("sha256:")).exists()
    assert kept.lend(tmp_path / "theirs", [layer], "theirs") == set()
    with pytest.raises(DriverError, match="something else than files"):
        look_over(tmp_path / "evil")


# --- how much is kept


async def test_beyond_the_bound_the_least_recently_wanted_goes(tmp_path: Path, images: Path) -> None:
    used: set[str] = set()
    refs = [f"file://{tar(tmp_path / f'{name}.tar', entry(name, os.urandom(1 << 20)))}" for name in "abcd"]
    driver = driver_of(images)
    digests = []
    for ref in refs:
        await converge(driver, ref)
        digests.append(fact(driver, ref).digest)
        for card in (images / "refs").glob("*.json"):
            os.utime(card, (0, card.stat().st_mtime - 100))
    await converge(driver)
    assert len(leftovers(images)) == 4
    used.add(digests[0])
    bound = driver.measures().cached * 4 // 5
    again = driver_of(images, in_use=lambda: frozenset(used), bound=bound)
    assert await converge(again, refs[3]) == [f"remove image/{refs[1]}"]  # the first is older, and a guest stands on it
    assert again.measures().cached < bound
    assert await converge(again, refs[3]) == []
    assert [directory_of(images, digest).exists() for digest in digests] == [True, False, True, True]


async def test_two_pulls_do_not_count_on_the_same_room(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images.mkdir()
    disk = os.statvfs(images)
    monkeypatch.setattr(meter, "_KEPT", disk.f_bavail * disk.f_frsize - (100 << 20))
    monkeypatch.setattr(meter, "_KEPT_SHARE", 1.0)
    space = Space(images)
    with space.hold(60 << 20) as one:
        with pytest.raises(DriverError, match="no room"), space.hold(60 << 20):
            pass
        one.written = 60 << 20
        with space.hold(30 << 20):
            pass
    with space.hold(60 << 20):
        pass
