"""What a stranger may try with an image: to read the node, to reach what the node reaches, to fill it, to stay."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import http.server
import lzma
import os
import socket
import subprocess
import sys
import tarfile
import threading
import zlib
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path

import pytest

from imageworks import converge, driver_of, entry, fact, https_server, leftovers, problem, push, serving, tar, until
from zos.drivers.confined import fetcher, fetchers_room, unpacker
from zos.drivers.fence import TABLE, Fence
from zos.drivers.imagecache import directory_of
from zos.drivers.meter import Limits
from zos.drivers.process import run
from zos.drivers.sources import Registries

SMALL = Limits(size=8 << 20, entries=100)
CLOSED = "it is at an address that this node closes to images"


# --- reading the node


async def test_the_nodes_own_files_are_no_images(tmp_path: Path, images: Path) -> None:
    (tmp_path / "shelf").mkdir()
    (tmp_path / "shelf" / "door").symlink_to("/etc")
    driver = driver_of(images, directories=(tmp_path / "shelf",))
    for path in ("/etc", "/dev/zero", "/dev/../dev/zero", f"{images}/refs", f"{tmp_path}/shelf/../images", "/not/there"):
        assert "is not below a directory that this node opens for images" in await problem(driver, f"file://{path}")
    assert "is a link out of" in await problem(driver, f"file://{tmp_path}/shelf/door")
    assert leftovers(images) == []


async def test_devices_are_never_read(tmp_path: Path, images: Path) -> None:
    os.mknod(tmp_path / "zero", 0o20666, os.makedev(1, 5))
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "tree" / "dev").mkdir(parents=True)
    os.mknod(tmp_path / "tree" / "dev" / "zero", 0o20666, os.makedev(1, 5))
    os.mkfifo(tmp_path / "tree" / "fifo")
    (tmp_path / "tree" / "word").write_text("word")
    driver = driver_of(images)
    for path in ("zero", "/zero", "fifo"):  # the device by two spellings
        assert "is neither a file nor a directory" in await problem(driver, f"file://{tmp_path}/{path}")
    await converge(driver, f"file://{tmp_path}/tree")
    root = directory_of(images, fact(driver, f"file://{tmp_path}/tree").digest) / "rootfs"
    assert sorted(path.name for path in root.rglob("*")) == ["dev", "word"]


async def test_two_spellings_of_one_path_are_one_image(tmp_path: Path, images: Path) -> None:
    path = tar(tmp_path / "root.tar")
    refs = [f"file://{path}", f"file://{tmp_path}/x/..//root.tar"]
    driver = driver_of(images)
    await converge(driver, *refs)
    assert fact(driver, refs[0]) == fact(driver, refs[1])
    assert len(leftovers(images)) == len(list((images / "refs").iterdir())) == 1
    assert await converge(driver, *refs) == []


async def test_a_tree_that_looks_like_another_is_not_taken_for_it(tmp_path: Path, images: Path) -> None:
    for name in ("good", "evil"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "word").write_text(name)
        for path in (tmp_path / name / "word", tmp_path / name):
            os.utime(path, ns=(0, 0))
    driver = driver_of(images)
    await converge(driver, f"file://{tmp_path}/evil")
    await converge(driver, f"file://{tmp_path}/good")
    root = directory_of(images, fact(driver, f"file://{tmp_path}/good").digest) / "rootfs"
    assert (root / "word").read_text() == "good"


async def test_a_directory_that_is_closed_again(tmp_path: Path, images: Path) -> None:
    ref = f"file://{tar(tmp_path / 'root.tar')}"
    await converge(driver_of(images), ref)
    assert "is not below a directory" in await problem(driver_of(images, directories=()), ref)
    await converge(driver_of(images), ref)


# --- filling the node


async def test_an_archive_that_unpacks_to_too_much(tmp_path: Path, images: Path) -> None:
    plain = tar(tmp_path / "plain.tar", entry("zeros", bytes(16 << 20)), base=False)
    bomb = tmp_path / "bomb.tar.gz"
    bomb.write_bytes(gzip.compress(plain.read_bytes()))
    assert bomb.stat().st_size < 1 << 20
    driver = driver_of(images, limits=SMALL)
    said = await problem(driver, f"file://{bomb}")
    assert "it unpacks to more than the 8.0 MiB that this node takes (16.0 MiB so far)" in said
    assert "--image-size" in said
    assert leftovers(images) == []
    # What gave too much is not unpacked again and again; what was mended is looked at.
    assert await problem(driver, f"file://{bomb}") == said
    bomb.write_bytes(gzip.compress(tar(tmp_path / "good.tar").read_bytes()))
    await converge(driver, f"file://{bomb}")


@pytest.mark.parametrize("kind", ["entries", "passed over", "behind", "header", "holes", "tree", "disk", "dictionary"])
async def test_other_ways_to_be_too_big(tmp_path: Path, images: Path, kind: str) -> None:
    path = tmp_path / "root.tar"
    match kind:
        case "entries":
            tar(path, *(entry(f"f{number}") for number in range(120)))
            words = "it unpacks to more than the 100 files"
        case "passed over":  # an entry of a type that nobody knows, with content
            tar(path, entry("odd", bytes(9 << 20), type=b"Z"), entry("last"), base=False)
            words = "it unpacks to more than the 8.0 MiB"
        case "behind":  # the archive's end, which no reader of archives looks at
            plain = tar(tmp_path / "plain.tar", base=False)
            subprocess.run(["sh", "-c", f"(cat {plain}; head -c 32M /dev/zero) | zstd -q >{path}"], check=True)
            words = "it unpacks to more than the 8.0 MiB"
        case "header":  # a name of 2 GiB of zeros
            huge = tarfile.TarInfo("././@LongLink")
            huge.size, huge.type = 2 << 30, tarfile.GNUTYPE_LONGNAME
            path.write_bytes(huge.tobuf(tarfile.GNU_FORMAT))
            os.truncate(path, 2 << 30)
            words = "memory"
        case "holes":
            subprocess.run(["truncate", "-s", "1T", tmp_path / "sparse"], check=True)
            subprocess.run(["tar", "--sparse", "-cf", path, "-C", tmp_path, "sparse"], check=True)
            words = "it unpacks to more than the 8.0 MiB"
        case "disk":  # a terabyte of holes, but for its boot sector
            sector = bytes(510) + b"\x55\xaa"
            with gzip.open(path, "wb", 1) as file:
                file.write(sector + bytes(32 << 20))
            words = "it unpacks to more than the 8.0 MiB"
        case "dictionary":  # of 1.5 GiB, to unpack a kilobyte
            packed = bytearray(lzma.compress(tar(path, base=False).read_bytes(), preset=0))
            packed[16] = 37  # size of the dictionary in the block's header (xz-file-format 3.1, 5.3.1)
            packed[20:24] = zlib.crc32(packed[12:20]).to_bytes(4, "little")
            path.write_bytes(packed)
            words = "it wants more memory than it gets to unpack"
        case _:
            path = tmp_path / "tree"
            path.mkdir()
            (path / "file").write_bytes(os.urandom(9 << 20))
            words = "it unpacks to more than the 8.0 MiB"
    assert words in await problem(driver_of(images, limits=SMALL), f"file://{path}")
    assert leftovers(images) == []


async def test_registry_images_that_are_too_big(tmp_path: Path, images: Path) -> None:
    zeros = tar(tmp_path / "zeros.tar", entry("zeros", bytes(64 << 20)), base=False)
    noise = tar(tmp_path / "noise.tar", entry("noise", os.urandom(9 << 20)), base=False)
    many = tar(tmp_path / "many.tar", *(entry(f"f{number}") for number in range(120)), base=False)
    with serving(tmp_path) as registry:
        for name, layer, words in (
            ("bomb", zeros, "it unpacks to more than the 8.0 MiB that this node takes"),
            ("noise", noise, "packed, it has more than the 8.0 MiB that this node takes"),
            ("many", many, "it unpacks to more than the 100 files"),
        ):
            push(tmp_path, f"{registry}/{name}:1", [layer])
            assert words in await problem(driver_of(images, limits=SMALL), f"oci://{registry}/{name}:1")
            assert leftovers(images) == []


async def test_hostile_names_and_links(tmp_path: Path, images: Path) -> None:
    driver = driver_of(images)
    nested = tar(tmp_path / "nested.tar", entry("d/" * 3000 + "f"))
    assert "nested too deep" in await problem(driver, f"file://{nested}")
    long = tar(tmp_path / "long.tar", entry("n" * 300))
    assert "File name too long" in await problem(driver, f"file://{long}")
    odd = tar(tmp_path / "odd.tar", entry("a\x1b[31m\nb", link="../x", type=tarfile.SYMTYPE))
    assert "leads out of the image's root" in (said := await problem(driver, f"file://{odd}"))
    assert said.isprintable()
    assert "the hard link hard in it leads to what it has not" in await problem(
        driver, f"file://{tar(tmp_path / 'hard.tar', entry('hard', link='etc/absent', type=tarfile.LNKTYPE))}"
    )
    devices = tar(tmp_path / "devices.tar", entry("dev/sda", type=tarfile.BLKTYPE), entry("fifo", type=tarfile.FIFOTYPE))
    await converge(driver, f"file://{devices}")
    root = directory_of(images, fact(driver, f"file://{devices}").digest) / "rootfs"
    assert not (root / "dev/sda").exists()
    assert not (root / "fifo").exists()


# --- reaching what the node reaches


class _Handler(http.server.BaseHTTPRequestHandler):
    """``/to/<url>`` sends on to it; ``/slow`` never ends; anything else is the archive."""

    archive = b""
    go_on = threading.Event()

    def do_GET(self) -> None:
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.end_headers()
            return
        self.send_response(200)
        if self.path != "/slow":
            self.send_header("Content-Length", str(len(self.archive)))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(self.archive)
            if self.path == "/slow":
                self.wfile.flush()
                self.go_on.wait(20)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def https(tmp_path: Path, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Port of a server on all of loopback, whose certificate the node trusts."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert.pem"))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # nothing goes by a proxy that the kernel can't see behind
    _Handler.archive = tar(tmp_path / "served.tar").read_bytes()
    _Handler.go_on = threading.Event()
    with https_server(certificate, _Handler) as port:
        yield port
        _Handler.go_on.set()


async def test_an_archive_by_https(images: Path, https: int) -> None:
    driver = driver_of(images)
    direct, sent_on = f"https://127.0.0.1:{https}/a.tar", f"https://127.0.0.1:{https}/to/https://127.0.0.1:{https}/a.tar"
    await converge(driver, direct, sent_on)
    assert fact(driver, direct).digest == fact(driver, sent_on).digest
    assert len(leftovers(images)) == 1


async def test_a_checksum_is_held_to(images: Path, https: int) -> None:
    driver, url = driver_of(images), f"https://127.0.0.1:{https}/a.tar"
    digest = f"sha256:{hashlib.sha256(_Handler.archive).hexdigest()}"
    other = f"sha256:{'0' * 64}"
    said = await problem(driver, f"{url}#{other}")
    assert f"its checksum is {digest}, and the image's address asks for {other}" in said
    assert leftovers(images) == []
    await converge(driver, f"{url}#{digest}")
    assert fact(driver, f"{url}#{digest}").digest == digest


async def test_redirects_lead_nowhere_else(images: Path, https: int) -> None:
    driver, base = driver_of(images), f"https://127.0.0.1:{https}"
    for target, words in (
        (f"http://127.0.0.1:{https}/a.tar", "which is not https"),
        ("file:///etc/passwd", "which is not https"),
        (f"https://127.0.0.2:{https}/a.tar", CLOSED),  # where the same server would answer
        (f"https://localhost:{https}/a.tar", "certificate"),  # 127.0.0.1 is open, but not its name
        ("https://169.254.169.254/latest/meta-data", CLOSED),
        ("https://10.0.0.1/", CLOSED),
        (f"https://[::1]:{https}/", CLOSED),
    ):
        assert words in await problem(driver, f"{base}/to/{target}"), target
    assert leftovers(images) == []


async def test_a_download_that_is_too_big_or_not_trusted(images: Path, https: int, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"https://127.0.0.1:{https}"
    limits = Limits(size=1 << 20)
    assert "packed, it has more than the 1.0 MiB" in await problem(driver_of(images, limits=limits), f"{url}/a.tar")
    assert "packed, it has more than the 1.0 MiB" in await problem(driver_of(images, limits=limits), f"{url}/slow")
    monkeypatch.delenv("SSL_CERT_FILE")
    assert "certificate is not trusted" in await problem(driver_of(images), f"{url}/a.tar")


async def test_open_and_closed_ports_look_the_same(images: Path, https: int) -> None:
    driver = driver_of(images)
    driver_said = [await problem(driver, f"https://127.0.0.2:{port}/a") for port in (https, 1)]
    driver_said += [await problem(driver, f"oci://127.0.0.2:{port}/a/b:1") for port in (https, 1)]
    assert all(CLOSED in said for said in driver_said)


_PROBE = """
import socket, sys
for target in sys.argv[1:]:
    host, port = target.rsplit("=", 1)
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
        print(target, "open")
    except OSError as error:
        print(target, "closed")
"""


async def test_the_kernel_judges_every_program_of_a_fetcher(tmp_path: Path, images: Path) -> None:
    """Also one that never heard of rules, and while somebody takes them away."""
    python = os.path.realpath(sys.executable)
    fence = Fence((ip_network("127.0.0.3"),))
    with socket.create_server(("0.0.0.0", 0)) as server:
        port = server.getsockname()[1]
        targets = [f"{host}={port}" for host in ("127.0.0.1", "127.0.0.3", "0.0.0.0")]
        probe = fetcher(fetchers_room(tmp_path), 1 << 20, python, "-I", "-c", _PROBE, *targets)
        said = (await fence.around(lambda: run(*probe))).stdout
    assert said.splitlines() == [f"{targets[0]} closed", f"{targets[1]} open", f"{targets[2]} closed"]

    async def taken_away() -> None:
        for _ in range(3):
            subprocess.run(["nft", "delete", "table", "inet", TABLE], check=True)
            await until(lambda: subprocess.run(["nft", "list", "table", "inet", TABLE], capture_output=True).returncode == 0)

    await fence.around(taken_away)


async def test_a_fetcher_has_no_rights_and_nothing_outlives_it(tmp_path: Path) -> None:
    room = fetchers_room(tmp_path)
    script = """
    id -u; id -G; grep -E 'Cap(Prm|Bnd|Amb)|NoNewPrivs' /proc/self/status; env | cut -d= -f1 | sort | tr '\\n' ' '; echo
    cat /etc/shadow; touch /var/tmp/zos-escaped; ls /proc | grep -c '^[0-9]'
    echo kept > /tmp/kept; (setsid sleep 1000 &) ; echo done"""
    done = await run(*fetcher(room, 1 << 20, "sh", "-c", script), env={"SECRET": "x"})
    said = done.stdout.splitlines()
    assert said[:2] == ["1900000053", "1900000053"]
    assert [line.split()[1].strip("0") for line in said[2:6]] == ["", "", "", "1"]
    assert set(said[6].split()) <= {"HOME", "LC_ALL", "PATH", "PYTHONPATH", "SSL_CERT_DIR", "SSL_CERT_FILE", "TMPDIR", "PWD"}
    assert int(said[7]) < 10
    assert "Permission denied" in done.stderr
    assert "Read-only file system" in done.stderr
    assert (room / "kept").read_text() == "kept\n"
    await until(lambda: not _processes(room))


async def test_an_unpacker_writes_only_to_its_room_and_talks_to_nobody(tmp_path: Path) -> None:
    room = tmp_path / "room"
    room.mkdir()
    script = f"echo x > {room}/in; echo x > {tmp_path}/out; cat /proc/net/dev"
    done = await run(*unpacker(room, 1 << 20, "sh", "-c", script))
    assert "Read-only file system" in done.stderr
    assert [path.name for path in tmp_path.rglob("*")] == ["room", "in"]
    assert [line.split(":")[0].strip() for line in done.stdout.splitlines()[2:]] == ["lo"]


async def test_a_killed_agent_leaves_no_fetcher(tmp_path: Path) -> None:
    room = fetchers_room(tmp_path)
    command = fetcher(room, 1 << 20, "sleep", "1000")
    agent = "import subprocess, sys; subprocess.run(['setpriv', '--pdeathsig', 'KILL', '--', *sys.argv[1:]])"
    parent = subprocess.Popen([sys.executable, "-c", agent, *command])
    await until(lambda: "sleep" in _processes(room))
    parent.kill()
    parent.wait()
    await until(lambda: not _processes(room))


async def test_a_cancelled_download_ends(images: Path, https: int) -> None:
    pull = asyncio.create_task(converge(driver_of(images), f"https://127.0.0.1:{https}/slow"))
    await until(lambda: any(images.glob("fetched/files/*/file")))
    (room,) = images.glob("fetched/files/*")
    pull.cancel()
    await asyncio.gather(pull, return_exceptions=True)
    assert _processes(room) == set()
    assert leftovers(images) == [room.name]  # to go on with, for a while
    os.utime(room, (0, 0))
    await converge(driver_of(images))
    assert leftovers(images) == []


def _processes(room: Path) -> set[str]:
    """Names of the programs that have the room as their directory."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            info = os.stat(process / "cwd")
            if room.exists() and (info.st_dev, info.st_ino) == (room.stat().st_dev, room.stat().st_ino):
                found.add((process / "comm").read_text().strip())
    return found


# --- credentials


def test_a_fetcher_gets_the_credentials_of_one_repository(tmp_path: Path) -> None:
    auth = tmp_path / "auth.json"
    auth.write_text('{"auths": {"r.example/a": {"auth": "YQ=="}, "r.example/b": {"auth": "Yg=="}}, "credHelpers": {"x": "y"}}')
    auth.chmod(0o600)
    for number, (registries, reference, text) in enumerate(
        (
            (Registries(auth=auth), "r.example/a/app:1", '{"auths": {"r.example/a": {"auth": "YQ=="}}}'),
            (Registries(auth=auth), "r.example/c:1", '{"auths": {}}'),
            (Registries(), "r.example/a:1", '{"auths": {}}'),  # never what root is logged in to
        )
    ):
        (tmp_path / str(number)).mkdir()
        room = fetchers_room(tmp_path / str(number))
        registries.give(reference, room)
        assert (room / "auth.json").read_text() == text
        info = (room / "auth.json").stat()
        assert (info.st_uid, info.st_mode & 0o777) == (1900000053, 0o600)
        assert registries.options(reference)[0] == "--authfile=/tmp/auth.json"
