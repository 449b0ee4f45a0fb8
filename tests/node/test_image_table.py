"""What becomes of an image is decided by what is in it: one of each sort, built here, and the bad ones with what they say."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from imageworks import converge, driver_of, entry, fact, leftovers, listed, problem, push, tar
from zos.drivers.imagecache import directory_of
from zos.drivers.meter import Limits

MIB = 1 << 20
SMALL = Limits(size=8 * MIB, entries=100)


class Builder:
    """Images in a directory of the test's own."""

    def __init__(self, place: Path, registry: str) -> None:
        self.place, self.registry = place, registry

    def disk(self, *, uefi: bool = False) -> Path:
        path = self.place / "disk.raw"
        with open(path, "wb") as file:
            file.truncate(4 * MIB)
        table = "label: gpt\nsize=1M, type=uefi\n" if uefi else "label: dos\nsize=1M\n"
        subprocess.run(["/usr/sbin/sfdisk", "-q", path], input=table, text=True, check=True)
        if not uefi:
            with open(path, "r+b") as file:
                file.write(b"\xeb\x63")
        return path

    def qcow2(self) -> Path:
        path = self.place / "disk.qcow2"
        subprocess.run(["qemu-img", "convert", "-O", "qcow2", self.disk(), path], check=True)
        return path

    def plain(self, format: str, *options: str) -> Path:
        """A disk that is a file system as a whole."""
        path = self.place / f"{format}.raw"
        with open(path, "wb") as file:
            file.truncate(128 * MIB)
        subprocess.run([f"mkfs.{format}", "-q", *options, path], check=True)
        return path

    def root(self, *entries: tarfile.TarInfo) -> Path:
        return tar(self.place / "root.tar", *entries)

    def holding(self, *disks: tuple[str, Path]) -> Path:
        """An archive that has disks in it."""
        path = self.place / "holding.tar"
        with tarfile.open(path, "w") as archive:
            for name, disk in disks:
                archive.add(disk, name)
        return path

    def packed(self, path: Path, by: str) -> str:
        packed = path.with_name(f"{path.name}.{by}")
        with open(packed, "wb") as file:
            subprocess.run([by, "-q", "-c", path], stdout=file, check=True)
        return self.file(packed)

    def file(self, path: Path) -> str:
        return f"file://{path}"

    def oci(self, layer: Path, name: str = "app:1") -> str:
        self.digest = push(self.place, f"{self.registry}/{name}", [layer])
        return f"oci://{self.registry}/{name}"

    def pinned(self) -> str:
        return f"{self.oci(self.root())}@{self.digest}"

    def index(self) -> str:
        """Of which this node's variant is the second."""
        digests = {
            architecture: push(self.place, f"{self.registry}/many:{architecture}", [self.root()], architecture=architecture)
            for architecture in ("arm64", "amd64")
        }
        listed(self.registry, "many", "all", digests)
        return f"oci://{self.registry}/many:all"

    def directory(self) -> str:
        subprocess.run(["mkdir", "-p", self.place / "tree/bin"], check=True)
        shutil.copy("/bin/busybox", self.place / "tree/bin/sh")
        return self.file(self.place / "tree")


@pytest.fixture
def builder(tmp_path: Path, registry: str) -> Builder:
    return Builder(tmp_path, registry)


#: What it is, how it is made, and its mode with firmware; "container+": one that has a kernel in it.
MODES: dict[str, tuple[Callable[[Builder], str], str]] = {
    "OCI": (lambda b: b.oci(b.root()), "container"),
    "OCI, an index of several platforms": (Builder.index, "container"),
    "OCI, pinned beside its tag": (Builder.pinned, "container"),
    "OCI with /image.raw": (lambda b: b.oci(b.holding(("image.raw", b.disk()))), "vm bios"),
    "OCI with /disk/x.qcow2": (lambda b: b.oci(b.holding(("disk/x.qcow2", b.qcow2()))), "vm bios"),
    "raw": (lambda b: b.file(b.disk()), "vm bios"),
    "raw, gzip": (lambda b: b.packed(b.disk(), "gzip"), "vm bios"),
    "raw, for UEFI only": (lambda b: b.file(b.disk(uefi=True)), "vm uefi"),
    "raw, a btrfs": (lambda b: b.file(b.plain("btrfs")), "vm bios"),
    "raw, a packed ext4": (lambda b: b.packed(b.plain("ext4"), "zstd"), "vm bios"),
    "qcow2": (lambda b: b.file(b.qcow2()), "vm bios"),
    "qcow2, xz": (lambda b: b.packed(b.qcow2(), "xz"), "vm bios"),
    "qcow2, zstd": (lambda b: b.packed(b.qcow2(), "zstd"), "vm bios"),
    "tar": (lambda b: b.file(b.root()), "container"),
    "tar, gzip": (lambda b: b.packed(b.root(), "gzip"), "container"),
    "tar, zstd": (lambda b: b.packed(b.root(), "zstd"), "container"),
    "tar with /image.qcow2": (lambda b: b.file(b.holding(("image.qcow2", b.qcow2()))), "vm bios"),
    "tar with a kernel": (lambda b: b.file(b.root(entry("boot/vmlinuz", b"kernel"))), "container+"),
    "directory": (Builder.directory, "container"),
}


@pytest.mark.parametrize("what", MODES)
async def test_what_is_in_an_image_decides_what_it_is(builder: Builder, images: Path, what: str) -> None:
    make, expected = MODES[what]
    driver, ref = driver_of(images), make(builder)
    await converge(driver, ref)
    found = fact(driver, ref)
    mode = f"vm {found.disk.firmware}" if found.disk is not None else f"container{'+' * found.has_kernel}"
    assert mode == expected
    content = "disk.raw" if found.disk is not None else "rootfs"
    assert (directory_of(images, found.digest) / content).exists()


def _written(builder: Builder, content: bytes) -> str:
    (builder.place / "bad").write_bytes(content)
    return builder.file(builder.place / "bad")


def _bomb(builder: Builder, by: str) -> str:
    path = builder.place / "bomb"
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo("zeros")
        info.size = 16 * MIB
        archive.addfile(info, io.BytesIO(bytes(16 * MIB)))
    return builder.packed(path, by)


def _huge(builder: Builder) -> str:
    path = builder.place / "huge.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "100T"], check=True)
    return builder.file(path)


TOO_BIG = "it unpacks to more than the 8.0 MiB that this node takes"
BAD: dict[str, tuple[Callable[[Builder], str], str]] = {
    "two disks": (
        lambda b: b.file(b.holding(("disk/a.img", b.disk()), ("disk/b.qcow2", b.disk()))),
        "it has more than one disk image (/disk/a.img, /disk/b.qcow2), and a machine boots from one: leave one in it",
    ),
    "a bomb of gzip": (lambda b: _bomb(b, "gzip"), TOO_BIG),
    "a bomb of xz": (lambda b: _bomb(b, "xz"), TOO_BIG),
    "a bomb of zstd": (lambda b: _bomb(b, "zstd"), TOO_BIG),
    "a bomb of entries": (
        lambda b: b.file(b.root(*(entry(f"f{number}") for number in range(120)))),
        "it unpacks to more than the 100 files",
    ),
    "a bomb of directories that no entry names": (
        lambda b: b.file(b.root(*(entry(f"{number}/" + "d/" * 50 + "f") for number in range(5)))),
        "it unpacks to more than the 100 files",
    ),
    "a bomb of a qcow2": (_huge, "its disk has more than the 8.0 MiB that this node takes"),
    "a way out in a layer": (lambda b: b.oci(b.root(entry("../x", b"x"))), "leads out of the archive's root"),
    "a link out of a layer": (
        lambda b: b.oci(b.root(entry("a/b", link="../../x", type=tarfile.SYMTYPE))),
        "the symlink /a/b -> ../../x leads out of the image's root; make it absolute or relative to a path inside",
    ),
    "through a link out": (
        lambda b: b.file(b.root(entry("door", link="/srv/victim", type=tarfile.SYMTYPE), entry("door/x", b"x"))),
        "the entry /door/x is below /door, a link to what the archive has not",
    ),
    "a hard link out": (
        lambda b: b.file(b.root(entry("x", link="/etc/shadow", type=tarfile.LNKTYPE))),
        "the hard link x in it leads to what it has not",
    ),
    "a layer that hides nothing": (lambda b: b.oci(b.root(entry("a/.wh..."))), "its layer hides what has no name"),
    "an owner that nobody is": (lambda b: b.file(_owned(b)), "nobody can own the entry"),
    "a page": (lambda b: _written(b, b"<!DOCTYPE html><html>" * 100), "neither a tar archive nor a disk image"),
    "nothing": (lambda b: _written(b, b""), "neither a tar archive nor a disk image"),
    "an empty archive": (lambda b: b.file(tar(b.place / "empty.tar", base=False)), "it is empty"),
    "cut off": (lambda b: _written(b, b.root().read_bytes()[:70_000]), "the archive is broken"),
    "no such file": (lambda b: b.file(b.place / "absent"), "on this node"),
    "no such tag": (lambda b: f"oci://{b.registry}/absent:1", "it does not exist there; check name and tag"),
}


def _owned(builder: Builder) -> Path:
    odd = entry("odd")
    odd.uid = (1 << 32) - 1
    return builder.root(odd)


@pytest.mark.parametrize("what", BAD)
async def test_what_is_wrong_with_an_image_is_said_and_nothing_stays(builder: Builder, images: Path, what: str) -> None:
    make, words = BAD[what]
    assert words in await problem(driver_of(images, limits=SMALL), make(builder))
    assert leftovers(images) == []
    assert list((images / "refs").iterdir()) == []


# --- a disk that gets full


@pytest.fixture
def full(images: Path) -> Iterator[Path]:
    """The images' own file system, of 64 MiB, of which 5 % are kept."""
    images.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64M", "tmpfs", images], check=True)
    yield images
    subprocess.run(["umount", "-l", images], check=True)


@pytest.mark.parametrize("kind", ["archive", "layer", "disk", "tree"])
async def test_what_does_not_fit_takes_nothing_of_what_stays_free(builder: Builder, full: Path, kind: str) -> None:
    """A little that becomes much: how much, nobody knows before."""
    content = (os.urandom(MIB) * 2)[: MIB + MIB // 2]
    match kind:
        case "disk":
            path = builder.place / "big.raw"
            path.write_bytes(bytes(510) + b"\x55\xaa" + content * 60)
            ref = builder.packed(path, "zstd")
        case "tree":
            (builder.place / "tree").mkdir()
            (builder.place / "tree/file").write_bytes(content * 60)
            ref = builder.file(builder.place / "tree")
        case _:
            path = builder.root(*(entry(f"f{number}", content) for number in range(60)))
            ref = builder.packed(path, "zstd") if kind == "archive" else builder.oci(path)
    if kind == "layer":
        path = builder.root(*(entry(f"f{number}", b"abcdefgh" * (MIB // 8)) for number in range(90)))
        ref = builder.oci(path)
    driver = driver_of(full)
    before = os.statvfs(full).f_bfree
    assert "the node's disk has no room" in (said := await problem(driver, ref, passing=True))
    assert "ask the node's owner, or name another node" in said
    assert leftovers(full) == []
    assert (before - os.statvfs(full).f_bfree) * 4096 < 4 * MIB, "but layers that may be gone on with"
