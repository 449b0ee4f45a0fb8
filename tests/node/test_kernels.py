"""Images' own kernels, made ready by the driver: what strangers put into an image is read, bounded, or refused."""

from __future__ import annotations

import gzip
import lzma
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import kernelimages
from zos.drivers import DriverError
from zos.drivers.imagecache import Cache, directory_of, tree_of
from zos.drivers.kernels import KernelDriver, files
from zos.plan.diff import diff
from zos.plan.facts import KernelFact, KernelProblem
from zos.plan.items import Kernel

DIGEST = "sha256:" + "ab" * 32
ITEM = Kernel(image=DIGEST, owner="w-1")


class Images:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.init = directory.parent / "init"
        self.root = tree_of(directory, DIGEST)
        self.root.mkdir(parents=True)
        (self.root.parent / "size").write_text("1000")
        self.modules = kernelimages.put(self.root)
        self.set_init("our init")

    def set_init(self, content: str) -> None:
        self.init.write_text(content)
        self.driver = KernelDriver(self.directory, self.init)

    async def converge(self, *wanted: Kernel) -> list[str]:
        ops = diff(wanted, await self.driver.observe(wanted))
        for op in ops:
            await self.driver.apply(op)
        await self.driver.observe(wanted)
        return [f"{op.verb} {op.key}" for op in ops]

    async def refused(self) -> str:
        with pytest.raises(DriverError) as caught:
            await self.converge(ITEM)
        await self.driver.observe([ITEM])
        assert self.driver.facts()[KernelProblem] == {DIGEST: KernelProblem(str(caught.value))}
        assert not self.driver.facts()[KernelFact]
        assert self.left() == []
        return str(caught.value)

    def left(self) -> list[str]:
        return sorted(path.name for path in self.root.parent.iterdir() if path.name not in ("rootfs", "size"))

    def module(self, name: str) -> Path:
        (found,) = self.modules.rglob(f"{name}.ko*")
        return found

    def pack(self, module: Path, how: str) -> None:
        content = module.read_bytes()
        packed = module.with_name(f"{module.name}.{how}")
        if how == "zst":
            subprocess.run(["zstd", "-q", "--rm", module], check=True)
        else:
            packed.write_bytes({"xz": lzma.compress, "gz": gzip.compress}[how](content))
            module.unlink()
        table = self.modules / "modules.dep"
        table.write_text(re.sub(rf"/{re.escape(module.name)}(?=[:\s])", f"/{packed.name}", table.read_text()))

    def table(self, old: str, new: str) -> None:
        table = self.modules / "modules.dep"
        text = table.read_text()
        assert old in text
        table.write_text(text.replace(old, new))


@pytest.fixture
def images(tmp_path: Path) -> Images:
    return Images(tmp_path / "images")


def inside(initramfs: Path) -> list[str]:
    done = subprocess.run(["cpio", "-t", "--quiet"], input=initramfs.read_bytes(), capture_output=True, check=True)
    return done.stdout.decode().split()


async def test_one_is_made_ready_once_and_goes_with_its_image(images: Images, tmp_path: Path) -> None:
    assert await images.converge(ITEM) == [f"create kernel/{DIGEST}"]
    fact = images.driver.facts()[KernelFact][DIGEST]
    assert fact == KernelFact(kernelimages.release(), frozenset({"ext4", "btrfs"}))
    kernel, initramfs = files(images.directory, DIGEST, images.init)
    assert kernel.name == f"vmlinuz-{kernelimages.release()}"
    assert kernel.read_bytes() == (kernelimages.debian() / "vmlinuz").read_bytes()
    names = inside(initramfs)
    assert {"init", "modules/always", "modules/btrfs", "modules/overlay.ko", "modules/btrfs.ko", "dev/console"} <= set(names)
    assert names.index("modules/virtio.ko") < names.index("modules/virtio_blk.ko") < names.index("modules/virtio_pci.ko")
    assert int((images.root.parent / "size").read_text()) > 1000 + len(kernel.read_bytes()), "the cache's bound counts it"
    assert await images.converge(ITEM) == []

    images.set_init("the init of another release")
    assert await images.converge(ITEM) == [f"create kernel/{DIGEST}"]
    assert len(images.left()) == 1
    assert not initramfs.exists(), "the old one is gone"
    (place,) = (path for path in images.root.parent.glob("kernel-*"))
    (place / "initramfs").unlink()
    assert await images.converge(ITEM) == [f"create kernel/{DIGEST}"], "what is not whole is none"

    assert await images.converge() == [], "nobody wants it, and it stays as long as the image does"
    Cache(images.directory, frozenset).bury(directory_of(images.directory, DIGEST))
    assert not list(images.directory.glob("sha256-*"))
    with pytest.raises(DriverError, match="is not on this node any more"):
        await images.converge(ITEM)
    assert images.driver.facts()[KernelProblem][DIGEST].passing


@pytest.mark.parametrize("how", ["xz", "gz", "zst"])
async def test_packed_modules(images: Images, how: str) -> None:
    plain = images.module("overlay").read_bytes()
    for name in ("overlay", "fuse", "btrfs"):
        images.pack(images.module(name), how)
    await images.converge(ITEM)
    _, initramfs = files(images.directory, DIGEST, images.init)
    assert plain in initramfs.read_bytes()
    assert "modules/fuse.ko" in inside(initramfs)


@pytest.mark.parametrize("target", ["/vmlinuz", "../../../../vmlinuz", "/boot/../vmlinuz"])
async def test_links_lead_where_they_would_in_the_guest(images: Images, target: str) -> None:
    (images.root / "vmlinuz").symlink_to(f"boot/vmlinuz-{kernelimages.release()}")
    (images.root / "boot/vmlinuz").unlink()
    (images.root / "boot/vmlinuz").symlink_to(target)
    (images.root / "usr").mkdir()
    (images.root / "lib").rename(images.root / "usr/lib")
    (images.root / "lib").symlink_to("usr/lib")
    await images.converge(ITEM)
    assert files(images.directory, DIGEST, images.init)[0].exists()


async def test_the_nodes_own_files_are_out_of_reach(images: Images) -> None:
    (images.root / "boot/vmlinuz").unlink()
    (images.root / "boot/vmlinuz").symlink_to(images.init)
    assert "its /boot/vmlinuz leads to what is not there" in await images.refused()
    (images.root / "boot/vmlinuz").unlink()
    (images.root / "boot/vmlinuz").symlink_to(f"vmlinuz-{kernelimages.release()}")
    (images.root.parent.parent / "secret.ko").write_bytes(b"\x7fELF secret")
    images.table(
        "kernel/fs/overlayfs/overlay.ko:",
        "kernel/../../../../../../../secret.ko:\nkernel/fs/overlayfs/overlay.ko: kernel/../../../../../../../secret.ko",
    )
    images.set_init("our init")
    assert "secret.ko is missing" in await images.refused()


def _kernel(images: Images, at: int, content: bytes) -> None:
    with open(images.root / f"boot/vmlinuz-{kernelimages.release()}", "r+b") as file:
        file.seek(at)
        file.write(content)


async def test_what_is_no_kernel(images: Images) -> None:
    kernel = images.root / f"boot/vmlinuz-{kernelimages.release()}"
    whole = kernel.read_bytes()
    for change, words in (
        (lambda: kernel.write_bytes(b"#!/bin/sh\n"), "no Linux kernel for x86"),
        (lambda: kernel.write_bytes(b"\x7fELF" + bytes(4096)), "no Linux kernel for x86"),
        (lambda: _kernel(images, 0x236, b"\0\0"), "no kernel for x86-64"),
        (lambda: _kernel(images, 0x20E, b"\xff\xff"), "does not tell its version"),
        (lambda: _kernel(images, 0x20E, b"\0\0"), "does not tell its version"),
        (lambda: kernel.write_bytes(whole[:1024]), "is not complete"),
        (lambda: kernel.write_bytes(whole[:-4096]), "is not complete"),
        (lambda: os.truncate(kernel, 100 << 20), "is the most"),
        (lambda: (kernel.unlink(), os.mkfifo(kernel)), "is no file"),
        (lambda: (kernel.unlink(), kernel.mkdir()), "is no file"),
    ):
        shutil.rmtree(kernel) if kernel.is_dir() else kernel.unlink()
        kernel.write_bytes(whole)
        change()
        images.set_init("our init")
        assert words in await images.refused()


async def test_a_version_is_no_path(images: Images) -> None:
    kernel = (images.root / "boot/vmlinuz").read_bytes()
    at = int.from_bytes(kernel[0x20E:0x210], "little") + 512
    for name in (b"../../../etc", b"/etc", b"6.1\nx", b"." * 70, b""):
        _kernel(images, at, name + b"\0")
        images.set_init("our init")
        assert "does not tell its version" in await images.refused()
    _kernel(images, at, b"6.6.6-other\0")
    images.set_init("our init")
    assert "the image's kernel 6.6.6-other has no /lib/modules/6.6.6-other" in await images.refused()


async def test_modules_that_are_not_there_or_none(images: Images) -> None:
    overlay = images.module("overlay")
    whole = overlay.read_bytes()
    for content, words in (
        (None, "overlay.ko is missing"),
        (b"no module", "overlay.ko is no module"),
        (b"\xfd7zXZ\0 broken", "can't be unpacked"),
        (lzma.compress(bytes(20 << 20)), "unpacks to more than 16 MiB"),
        (gzip.compress(bytes(20 << 20), 1), "unpacks to more than 16 MiB"),
        (lzma.compress(b"x", filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 30}]), "want more memory"),
        (b"\x28\xb5\x2f\xfd broken", "can't be unpacked"),
    ):
        overlay.unlink(missing_ok=True)
        if content is not None:
            overlay.write_bytes(content)
        images.set_init("our init")
        assert words in await images.refused()
    overlay.write_bytes(whole)
    table = (images.modules / "modules.dep").read_text()
    images.table("kernel/fs/overlayfs/overlay.ko:", "nonsense\0\xff::: ::\n:")
    images.set_init("our init")
    said = await images.refused()
    assert f"its kernel {kernelimages.release()} has no overlay, neither as a module nor built in" in said
    hostile = "kernel/fs/overlayfs/overlay.ko: " + " ".join(f"kernel/m{n}.ko" for n in range(100))
    (images.modules / "modules.dep").write_text(table.replace("kernel/fs/overlayfs/overlay.ko:", hostile))
    for n in range(100):
        (images.modules / f"kernel/m{n}.ko").write_bytes(b"\x7fELF")
    images.set_init("our init")
    assert "needs more than 64 modules" in await images.refused()
    (images.modules / "modules.dep").unlink()
    images.set_init("our init")
    assert f"has no modules.dep: run depmod -a {kernelimages.release()} in the image" in await images.refused()


async def test_a_kernel_without_btrfs_is_one(images: Images) -> None:
    images.table("kernel/fs/btrfs/btrfs.ko:", "kernel/fs/btrfs/other.ko:")
    await images.converge(ITEM)
    assert images.driver.facts()[KernelFact][DIGEST].formats == {"ext4"}


async def test_what_was_refused_is_not_read_again(images: Images) -> None:
    images.module("overlay").unlink()
    said = await images.refused()
    shutil.rmtree(images.root)
    with pytest.raises(DriverError) as caught:
        await images.driver.apply(*diff([ITEM], await images.driver.observe([ITEM])))
    assert str(caught.value) == said


async def test_half_of_one_is_swept_up(images: Images) -> None:
    half = images.root.parent / ".new-kernel-x"
    half.mkdir()
    (half / "vmlinuz").write_bytes(b"half")
    images.set_init("our init")
    assert images.left() == []
