"""Images: a real registry, real archives; among them those that try to get out."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

from imageworks import converge, driver_of, entry, fact, leftovers, listed, problem, push, tar, until
from zos.drivers import DriverError
from zos.drivers.confined import MEMORY, program, unpacker
from zos.drivers.imagecache import directory_of
from zos.drivers.process import run
from zos.drivers.sources import Registries


@pytest.mark.parametrize("packed", ["plain", "gzip", "xz", "bzip2", "zstd"])
async def test_an_archive_is_unpacked_once(tmp_path: Path, images: Path, packed: str) -> None:
    path = tar(
        tmp_path / "root.tar",
        entry("boot/vmlinuz", b"kernel"),
        entry("etc/motd", b"hello"),
        entry("noise", os.urandom(300_000)),
    )
    if packed != "plain":
        with open(tmp_path / "root", "wb") as file:
            subprocess.run([packed, "-q", "-c", path], stdout=file, check=True)
        path = tmp_path / "root"
    ref = f"file://{path}"
    driver = driver_of(images)
    assert await converge(driver, ref) == [f"create image/{ref}"]
    found = fact(driver, ref)
    root = directory_of(images, found.digest) / "rootfs"
    assert (root / "etc/motd").read_bytes() == b"hello"
    assert (found.has_kernel, found.disk) == (True, None)
    assert found.provides("sh", "/usr/bin:/sbin") is True
    assert found.provides("/sbin/sh", "") is True
    assert found.provides("sbin/../bin/sh", "") is True
    assert found.provides("bash", "/usr/bin:/sbin") is False
    assert found.provides("/etc/motd", "") is False
    assert await converge(driver, ref) == []
    again = driver_of(images)  # a new agent
    assert await converge(again, ref) == []
    assert fact(again, ref) == found
    assert len(leftovers(images)) == 1


@pytest.mark.parametrize("packed", ["plain", "gzip", "xz", "zstd"])
@pytest.mark.parametrize("kind", ["mbr", "gpt", "qcow2"])
async def test_a_disk_image_is_the_one_file_of_its_tree_and_keeps_its_holes(
    tmp_path: Path, images: Path, kind: str, packed: str
) -> None:
    disk = tmp_path / "disk"
    blank = bytearray(8 << 20)
    blank[100_000:100_010] = b"not a zero"
    blank[-1:] = b"x"
    if kind == "mbr":
        blank[510:512] = b"\x55\xaa"
    else:
        blank[512:520] = b"EFI PART"
    disk.write_bytes(blank)
    if kind == "qcow2":
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", disk, tmp_path / "qcow2"], check=True)
        disk = tmp_path / "qcow2"
    content = disk.read_bytes()
    if packed != "plain":
        with open(tmp_path / "packed", "wb") as file:
            subprocess.run([packed, "-q", "-c", disk], stdout=file, check=True)
        disk = tmp_path / "packed"
    room = tmp_path / "room"
    room.mkdir()
    with open(disk, "rb") as file:
        command = program("unpack", str(file.fileno()), str(room), str(64 << 20), "100", "0")
        done = await run(*unpacker(room, 64 << 20, *command, memory=MEMORY), fds=(file.fileno(),))
    assert done.stdout.strip() == f"sha256:{hashlib.sha256(disk.read_bytes()).hexdigest()}"
    (made,) = room.iterdir()
    assert made.name == ("image.qcow2" if kind == "qcow2" else "image.raw")
    assert made.read_bytes() == content
    assert made.stat().st_blocks * 512 < 1 << 20


async def test_a_directory_is_copied(tmp_path: Path, images: Path) -> None:
    source = tmp_path / "tree"
    (source / "bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", source / "bin/sh")
    (source / "old").symlink_to("bin/../bin/sh")
    driver = driver_of(images)
    await converge(driver, f"file://{source}")
    (source / "bin/sh").unlink()
    root = directory_of(images, fact(driver, f"file://{source}").digest) / "rootfs"
    assert os.access(root / "bin/sh", os.X_OK)


async def test_a_replaced_archive_is_another_image_and_a_deleted_one_stays(tmp_path: Path, images: Path) -> None:
    path = tar(tmp_path / "root.tar")
    driver, ref = driver_of(images), f"file://{path}"
    await converge(driver, ref)
    first = fact(driver, ref).digest
    tar(path, entry("new", b"x"))
    assert await converge(driver, ref) == [f"create image/{ref}"]
    assert fact(driver, ref).digest != first
    path.unlink()
    assert await converge(driver, ref) == []


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ((entry("../escaped", b"x"),), "leads out of the archive's root"),
        ((entry("a/../../escaped", b"x"),), "leads out of the archive's root"),
        ((entry("hard", link="../../../etc/passwd", type=tarfile.LNKTYPE),), "leads out of the archive's root"),
        ((entry("usr/lib/x", link="../../../etc/passwd", type=tarfile.SYMTYPE),), "symlink /usr/lib/x -> ../../../etc/passwd"),
    ],
)
async def test_what_leads_out_is_refused(
    tmp_path: Path, images: Path, entries: tuple[tarfile.TarInfo, ...], words: str
) -> None:
    driver = driver_of(images)
    assert words in await problem(driver, f"file://{tar(tmp_path / 'bad.tar', *entries)}")
    assert leftovers(images) == []


async def test_unpacking_never_follows_a_link_to_the_outside(tmp_path: Path, images: Path) -> None:
    """The classic: a link to a directory of the host, then a file through it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("kept")
    path = tar(
        tmp_path / "root.tar",
        entry("door", link=str(outside), type=tarfile.SYMTYPE),
        entry("door/secret", b"overwritten"),
        entry("hard", link=f"{outside}/secret", type=tarfile.LNKTYPE),
    )
    driver = driver_of(images)
    try:
        await converge(driver, f"file://{path}")
        root = directory_of(images, fact(driver, f"file://{path}").digest) / "rootfs"
        assert (root / str(outside)[1:] / "secret").read_text() == "overwritten"  # inside, where the guest would see it
    except DriverError:
        pass
    assert (outside / "secret").read_text() == "kept"
    assert (outside / "secret").stat().st_nlink == 1


async def test_a_tree_with_a_link_that_climbs_out(tmp_path: Path, images: Path) -> None:
    source = tmp_path / "tree"
    (source / "a").mkdir(parents=True)
    (source / "a" / "b").symlink_to("../../etc/passwd")
    driver = driver_of(images)
    assert "/a/b -> ../../etc/passwd leads out of the image's root" in await problem(driver, f"file://{source}")
    assert leftovers(images) == []


async def test_what_is_no_image(tmp_path: Path, images: Path) -> None:
    driver = driver_of(images)
    noise = tmp_path / "noise"
    noise.write_bytes(b"no tar at all" * 1000)
    assert "it is neither a tar archive nor a disk image" in await problem(driver, f"file://{noise}")
    assert f"there is no {tmp_path}/absent" in await problem(driver, f"file://{tmp_path}/absent")
    cut = tar(tmp_path / "cut.tar")
    cut.write_bytes(cut.read_bytes()[:100_000])
    assert "broken" in await problem(driver, f"file://{cut}")
    for name, cut_short in (("cut.gz", ["gzip"]), ("cut.xz", ["xz"]), ("cut.bz2", ["bzip2"]), ("cut.zst", ["zstd", "-q"])):
        packed = subprocess.run([*cut_short, "-c", cut], check=True, capture_output=True).stdout
        (tmp_path / name).write_bytes(packed[: len(packed) // 2])
        assert "broken" in await problem(driver, f"file://{tmp_path}/{name}")
    (tmp_path / "zeros").write_bytes(bytes(1 << 20))
    assert "nothing but zeros" in await problem(driver, f"file://{tmp_path}/zeros")
    (tmp_path / "empty").mkdir()
    assert "empty" in await problem(driver, f"file://{tmp_path}/empty")
    assert leftovers(images) == []


async def test_mending_heals(tmp_path: Path, images: Path) -> None:
    driver, path = driver_of(images), tmp_path / "late.tar"
    await problem(driver, f"file://{path}")
    tar(path)
    await converge(driver, f"file://{path}")
    assert fact(driver, f"file://{path}").digest


@pytest.mark.parametrize("there", [True, False])
async def test_how_far_it_is_is_told_until_it_is_over(tmp_path: Path, images: Path, there: bool) -> None:
    driver, path, said = driver_of(images), tmp_path / "root.tar", list[str]()
    ref = f"file://{path}"
    driver.watch(lambda: said.append(driver.progress(f"image/{ref}")))
    if there:
        tar(path, entry("etc/motd", b"hello"))
        await converge(driver, ref)
        assert any(said)
    else:
        await problem(driver, ref)
    assert driver.progress(f"image/{ref}") == ""


async def test_unwanted_images_go_after_a_while_and_not_under_a_guest(tmp_path: Path, images: Path) -> None:
    used: set[str] = set()
    driver = driver_of(images, in_use=lambda: frozenset(used), keep=3600)

    def age() -> None:
        """As if nobody had wanted anything for an hour."""
        for card in (images / "refs").iterdir():
            os.utime(card, (0, time.time() - 3601))

    one, two = (f"file://{tar(tmp_path / f'{name}.tar', entry(name))}" for name in ("one", "two"))
    await converge(driver, one, two)
    used.add(fact(driver, two).digest)
    digests = [fact(driver, ref).digest for ref in (one, two)]
    assert await converge(driver) == []  # still warm
    age()
    assert await converge(driver, one) == [f"remove image/{two}"]
    assert directory_of(images, digests[1]).exists()
    assert await converge(driver) == []  # wanted a moment ago
    age()
    assert await converge(driver) == [f"remove image/{one}"]
    assert not directory_of(images, digests[0]).exists()
    assert set(leftovers(images)) == {directory_of(images, digests[1]).name}


async def test_what_a_killed_agent_left_is_cleared(tmp_path: Path, images: Path) -> None:
    (images / ".new-abc" / "rootfs").mkdir(parents=True)
    (images / "refs").mkdir()
    (images / "refs" / "x.json").write_text('{"ref": "oci')
    driver = driver_of(images)
    assert leftovers(images) == []
    assert await driver.observe([]) == {}


async def test_a_cancelled_pull_leaves_nothing(tmp_path: Path, images: Path) -> None:
    driver = driver_of(images)
    big = tar(tmp_path / "big.tar", *(entry(f"file{i}", os.urandom(1 << 20)) for i in range(64)))
    pull = asyncio.create_task(converge(driver, f"file://{big}"))
    await until(lambda: any(images.glob(".new-*/rootfs/file*")))
    pull.cancel()
    await asyncio.gather(pull, return_exceptions=True)
    assert leftovers(images) == []


# --- a registry


async def test_an_image_from_a_registry(tmp_path: Path, images: Path, registry: str) -> None:
    first = tar(tmp_path / "one.tar", entry("etc/old", b"1"), entry("etc/gone", b"1"))
    second = tar(tmp_path / "two.tar", entry("etc/old", b"2"), entry("etc/.wh.gone"), base=False)
    options = {
        "entrypoint": ["/bin/sh", "-c"],
        "cmd": "id",
        "env": ["A=1 2", "B=x"],
        "workingdir": "/srv",
        "user": "7:8",
        "stopsignal": "SIGQUIT",
    }
    digest = push(tmp_path, f"{registry}/app:1", [first, second], **options)
    driver, ref = driver_of(images), f"oci://{registry}/app:1"
    await converge(driver, ref)
    found = fact(driver, ref)
    assert found.digest == digest
    assert (found.entrypoint, found.command) == (("/bin/sh", "-c"), ("id",))
    assert {"A=1 2", "B=x"} <= set(found.environment)
    assert (found.working_dir, found.user, found.stop_signal) == ("/srv", "7:8", 3)
    root = directory_of(images, digest) / "rootfs"
    assert (root / "etc/old").read_bytes() == b"2"
    assert not (root / "etc/gone").exists()
    assert sorted(path.name for path in (images / directory_of(images, digest).name).iterdir()) == [
        "image.json",
        "rootfs",
        "size",
    ]
    # An agent of before knows no other words, and would find no image here.
    assert set(json.loads((directory_of(images, digest) / "image.json").read_text())) == {
        *("digest", "entrypoint", "command", "environment", "working_dir", "user", "stop_signal"),
        *("executables", "links", "has_kernel"),
    }
    # The same content by another name costs no second copy.
    others = [f"oci://{registry}/app{name}@{digest}" for name in ("", ":1", ":moved")]
    await converge(driver, ref, *others)
    assert {fact(driver, other).digest for other in others} == {digest}
    assert len(leftovers(images)) == 1


async def test_many_ask_for_the_same_at_once(tmp_path: Path, images: Path, registry: str) -> None:
    digest = push(tmp_path, f"{registry}/app:1", [tar(tmp_path / "one.tar")])
    plain = ["--src-tls-verify=false", "--dest-tls-verify=false"]
    for tag in ("2", "3"):
        subprocess.run(
            ["skopeo", "copy", "-q", *plain, f"docker://{registry}/app:1", f"docker://{registry}/app:{tag}"],
            check=True,
        )
    driver = driver_of(images)
    refs = [f"oci://{registry}/app:{tag}" for tag in "123"]
    await converge(driver, *refs)
    assert {fact(driver, ref).digest for ref in refs} == {digest}
    assert len(leftovers(images)) == 1


async def test_a_hostile_layer_stays_inside(tmp_path: Path, images: Path, registry: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    layers = [
        tar(tmp_path / "one.tar", entry("door", link=str(outside), type=tarfile.SYMTYPE)),
        tar(tmp_path / "two.tar", entry("door/secret", b"x"), entry("../../../escaped", b"x"), base=False),
    ]
    push(tmp_path, f"{registry}/bad:1", layers)
    driver, ref = driver_of(images), f"oci://{registry}/bad:1"
    try:
        await converge(driver, ref)
    except DriverError:
        assert leftovers(images) == []
    assert list(outside.iterdir()) == []
    assert not list(tmp_path.glob("**/escaped")) or all("rootfs" in str(path) for path in tmp_path.glob("**/escaped"))


async def test_a_registry_image_with_a_link_out_of_its_root(tmp_path: Path, images: Path, registry: str) -> None:
    push(tmp_path, f"{registry}/bad:1", [tar(tmp_path / "one.tar", entry("a", link="../etc", type=tarfile.SYMTYPE))])
    assert "/a -> ../etc leads out of the image's root" in await problem(driver_of(images), f"oci://{registry}/bad:1")
    assert leftovers(images) == []


async def test_what_a_registry_refuses(tmp_path: Path, images: Path, registry: str) -> None:
    driver = driver_of(images)
    push(tmp_path, f"{registry}/app:1", [tar(tmp_path / "one.tar")])
    assert "does not exist there; check name and tag" in await problem(driver, f"oci://{registry}/app:2")
    assert "does not exist there; check name and tag" in await problem(driver, f"oci://{registry}/nothing:1")
    assert "can't be reached" in await problem(driver, "oci://127.0.0.1:1/app:1", passing=True)
    # Pushed later: found by the next try, without a restart of anything.
    push(tmp_path, f"{registry}/app:2", [tar(tmp_path / "two.tar", entry("two"))])
    await converge(driver, f"oci://{registry}/app:2")
    assert fact(driver, f"oci://{registry}/app:2")


async def test_an_image_for_other_machines_is_refused(tmp_path: Path, images: Path, registry: str) -> None:
    """Whether there is nothing else, or a list without a variant for this node."""
    digest = push(tmp_path, f"{registry}/arm:1", [tar(tmp_path / "one.tar")], architecture="arm64")
    driver = driver_of(images)
    words = "it is for linux/arm64, this node is linux/amd64"
    assert words in await problem(driver, f"oci://{registry}/arm:1")
    assert words in await problem(driver, f"oci://{registry}/arm@{digest}")
    listed(registry, "arm", "2", {"arm64": digest})
    assert "it has no variant for linux/amd64" in await problem(driver, f"oci://{registry}/arm:2")
    assert leftovers(images) == []


async def test_of_a_list_this_nodes_variant_is_taken(tmp_path: Path, images: Path, registry: str) -> None:
    variants = {
        architecture: push(tmp_path, f"{registry}/app:{architecture}", [path], architecture=architecture)
        for architecture in ("arm64", "amd64")
        for path in (tar(tmp_path / f"{architecture}.tar", entry("etc/built-for", architecture.encode())),)
    }
    listed(registry, "app", "1", variants)
    driver, ref = driver_of(images), f"oci://{registry}/app:1"
    await converge(driver, ref)
    root = directory_of(images, fact(driver, ref).digest) / "rootfs"
    assert (root / "etc/built-for").read_text() == "amd64"


def test_plain_http_only_where_it_may() -> None:
    registries = Registries(insecure=("registry.lab:5000", "10.0.0.1"))
    assert [name for name in ("registry.lab:5000", "10.0.0.1", "10.0.0.1:5000") if not registries.plain(name)] == []
    secure = ("docker.io", "198.51.100.9:5000", "[2001:db8::1]:5000", "localhost:5000", "registry.lab")
    assert [name for name in secure if registries.plain(name)] == []
