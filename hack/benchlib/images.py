"""An image unpacked, over ``tar`` that unpacks the same: from an archive on the node, and from a registry.

Measured is what the node does: from the moment at which the bytes are there until the image is in the cache, looked through,
weighed and on the disk. ``tar`` begins with the same bytes on the same file system, and its tree is on the disk in the end too.
Downloading is no part of either.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import random
import shutil
import socket
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from ipaddress import ip_network
from pathlib import Path

from apiserver import free_port
from benchlib.progress import Progress
from benchlib.table import Row, ratio
from zos.drivers.image import ImageDriver
from zos.drivers.sources import Registries, Sources
from zos.plan.diff import diff
from zos.plan.items import Image

ROUNDS = 5
FILES, SIZE = 20_000, 300 << 20
_EACH = 10
_SPREAD = 1.5


def measure(progress: Progress) -> Generator[Row, None, None]:
    Path("build").mkdir(exist_ok=True)
    # Not below a directory that fetchers see as another: they find their own room at /tmp.
    with tempfile.TemporaryDirectory(prefix="images-", dir=Path("build").absolute()) as scratch:
        room = Path(scratch)
        room.chmod(0o755)
        progress(f"an image of {SIZE >> 20} MiB in {FILES:,} files")
        archive = room / "root.tar"
        write_archive(archive)
        yield _compared("tar", f"file://{archive}", ["tar", "-xf", str(archive)], "", room, progress)
        with _registry(room) as address:
            reference = f"{address}/bench:latest"
            layer = _publish(archive, reference, room)
            archive.unlink()
            unpack = ["tar", "-xzf", str(layer)]
            yield _compared("OCI, one gzip layer", f"oci://{reference}", unpack, "unpacking", room, progress)


def write_archive(path: Path, files: int = FILES, size: int = SIZE) -> None:
    """As many files in directories of ten, a symlink in each, and as many bytes: sizes are log-normal, as those of systems are;
    half of each is noise, the rest packs well."""
    chosen = random.Random(1)
    weights = [chosen.lognormvariate(0, _SPREAD) for _ in range(files)]
    scale = size / sum(weights)
    noise, words = chosen.randbytes(4 << 20), b"what is in a file of text, " * 1000
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        for number, weight in enumerate(weights):
            place = f"usr/share/{number // 1000}/{number // _EACH}"
            if number % 1000 == 0:
                _add(archive, place.rpartition("/")[0], tarfile.DIRTYPE)
            if number % _EACH == 0:
                _add(archive, place, tarfile.DIRTYPE)
                _add(archive, f"{place}/link", tarfile.SYMTYPE, link="0")
            length = int(weight * scale)
            _add(archive, f"{place}/{number % _EACH}", content=_content(length, chosen.randrange(1 << 20), noise, words))


def _add(archive: tarfile.TarFile, name: str, type: bytes = tarfile.REGTYPE, content: bytes = b"", link: str = "") -> None:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size, info.mtime = type, link, len(content), 1_700_000_000
    info.mode = 0o644 if type == tarfile.REGTYPE else 0o755
    archive.addfile(info, io.BytesIO(content))


def _content(length: int, at: int, noise: bytes, words: bytes) -> bytes:
    half = noise[at : at + length // 2]
    rest = length - len(half)
    return half + (words * (rest // len(words) + 1))[:rest]


def _compared(what: str, ref: str, unpack: list[str], since: str, room: Path, progress: Progress) -> Row:
    """``since``: the words of its progress with which the part that counts begins; empty: all of it."""
    ours: list[float] = []
    theirs: list[float] = []
    for number in range(ROUNDS):
        progress(f"{what}, by turns with tar, round {number + 1} of {ROUNDS}")
        turns: list[Callable[[], None]] = [
            lambda: ours.append(asyncio.run(_taken(ref, room / "images", since))),
            lambda: theirs.append(_untarred(unpack, room / "tree")),
        ]
        for turn in turns if number % 2 else reversed(turns):
            subprocess.run(["sync", "-f", str(room)], check=True)
            turn()
    return ratio(
        f"unpacking {SIZE >> 20} MiB, {FILES:,} files ({what}) / tar of the same, both synced", ours, theirs, "<=", 1.5
    )


def _untarred(unpack: list[str], tree: Path) -> float:
    tree.mkdir()
    try:
        began = time.monotonic()
        subprocess.run([*unpack, "-C", str(tree)], check=True)
        subprocess.run(["sync", "-f", str(tree)], check=True)
        return time.monotonic() - began
    finally:
        shutil.rmtree(tree)


async def _taken(ref: str, images: Path, since: str) -> float:
    """Seconds, by a driver that has nothing yet."""
    sources = Sources(Registries(("127.0.0.1",)), (images.parent,), (ip_network("127.0.0.1/32"),))
    driver, image = ImageDriver(images, sources), Image(ref=ref, owner="bench")
    try:
        ops = diff([image], await driver.observe([image]))
        began = time.monotonic()
        work = asyncio.ensure_future(asyncio.wait_for(driver.apply(ops[0]), 900))
        while since and not work.done() and not driver.progress(image.key).startswith(since):
            await asyncio.sleep(0.005)
            began = time.monotonic()
        await work
        return time.monotonic() - began
    finally:
        await driver.close()
        shutil.rmtree(images)


@contextlib.contextmanager
def _registry(room: Path) -> Iterator[str]:
    address = f"127.0.0.1:{free_port()}"
    config = room / "registry.yml"
    store = f"storage: {{filesystem: {{rootdirectory: {room}/registry}}}}"
    config.write_text(f"version: 0.1\n{store}\nhttp: {{addr: '{address}'}}\n")
    server = subprocess.Popen(["docker-registry", "serve", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2]))).close()
                break
            if time.monotonic() > deadline:
                raise TimeoutError("the registry does not start")
            time.sleep(0.02)
        yield address
    finally:
        server.terminate()
        server.wait()


def _publish(archive: Path, reference: str, room: Path) -> Path:
    """Gives the layer as it is in the registry."""
    layout = room / "layout"
    for words in (
        ["umoci", "init", "--layout", str(layout)],
        ["umoci", "new", "--image", f"{layout}:x"],
        ["umoci", "raw", "add-layer", "--image", f"{layout}:x", str(archive)],
        ["umoci", "config", "--image", f"{layout}:x", "--architecture=amd64"],
        ["skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci:{layout}:x", f"docker://{reference}"],
    ):
        subprocess.run(words, check=True, capture_output=True)
    return max((layout / "blobs/sha256").iterdir(), key=lambda blob: blob.stat().st_size)
