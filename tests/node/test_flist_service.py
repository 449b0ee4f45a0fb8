"""An flist on a node: fetched, judged, mounted by a service of its own, looked through, and there again when its program was
killed."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from ipaddress import ip_network
from pathlib import Path

import pytest

import needs
from blockserver import Store
from imageworks import driver_of, problem
from services import Bench
from zos.drivers import DriverError
from zos.drivers.fences import FenceDriver
from zos.drivers.imagecache import has_tree
from zos.drivers.service import ServiceDriver
from zos.kinds.zmachine.flist import serving
from zos.plan.diff import diff
from zos.plan.facts import FlistFact, ImageFact, ServiceFact
from zos.plan.items import Fence, Flist, Image, Item, Service
from zos.plan.items.flist import FLISTS
from zos.programs.flist.pack import pack
from zos.programs.flist.sealing import BLOCK

pytestmark = needs.FUSE


class Node:
    """Drivers of a node, a tree, and who serves its blocks."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.state = bench, bench.state
        self.dirty = asyncio.Event()
        (self.state / "images").mkdir(exist_ok=True)
        self.tree, self.store, self.ref = self.state / "tree", self.state / "store", f"file://{self.state}/image.fl"
        self.fences = FenceDriver((FLISTS,), bench.accounts.uid, [ip_network("127.0.0.0/30")])
        self.images = driver_of(self.state / "images")
        self.services = bench.driver = ServiceDriver(bench.scan, bench.logs, bench.accounts, meaning=self.fences.meaning)
        self.drivers = (self.images, self.fences, self.services)
        self.server: Store | None = None
        self.port = 0
        self.image = Image(ref=self.ref, owner="w")
        for driver in self.drivers:
            driver.watch(self.dirty.set)

    def serve(self) -> None:
        self.server = Store(self.store, ("127.0.0.1", self.port)).begin()
        self.port = self.server.server_port

    def hush(self) -> None:
        if self.server is not None:
            self.server.end()
            self.server = None

    def pack(self, url: str = "") -> None:
        pack(self.tree, self.state / "image.fl", self.store, url or f"http://127.0.0.1:{self.port}")

    async def converge(self, *wanted: Item) -> None:
        for driver in self.drivers:
            mine = [item for item in wanted if isinstance(item, driver.ITEMS)]
            for op in diff(mine, await driver.observe(mine)):
                await driver.apply(op)
            await driver.observe(mine)

    @property
    def flist(self) -> FlistFact:
        found = self.images.facts()[FlistFact][self.ref]
        assert isinstance(found, FlistFact)
        return found

    async def mounted(self, name: str) -> ServiceFact:
        return await self.until(name, lambda fact: fact.ready)

    async def until(self, name: str, what: Callable[[ServiceFact], bool]) -> ServiceFact:
        """By notification."""
        async with asyncio.timeout(30):
            while True:
                self.dirty.clear()
                await self.services.observe([])
                fact = self.services.facts()[ServiceFact].get(name)
                if isinstance(fact, ServiceFact) and what(fact):
                    return fact
                await self.dirty.wait()

    async def up(self) -> tuple[Fence, Service, Flist]:
        """As lowering asks for one after the other."""
        await self.converge(self.image)
        fence, service = serving("w", self.image, self.flist)
        await self.converge(self.image, fence, service)
        await self.mounted(service.name)
        tree = Flist(digest=self.flist.digest, owner="w")
        await self.converge(self.image, fence, service, tree)
        return fence, service, tree


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    bench = Bench()
    await bench.start_svscan()
    node = Node(bench)
    (node.tree / "bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", node.tree / "bin/busybox")
    (node.tree / "bin/sh").symlink_to("busybox")
    (node.tree / "big").write_bytes(os.urandom(4 * BLOCK))
    (node.tree / "other").write_bytes(os.urandom(2 * BLOCK))
    (node.tree / ".startup.toml").write_text('[startup.entry]\nname = "core.system"\n[startup.entry.args]\nname = "/bin/sh"\n')
    node.serve()
    node.pack()
    try:
        yield node
    finally:
        node.hush()
        with contextlib.suppress(DriverError):
            await node.converge()
        await node.images.close()
        await node.fences.close()
        await bench.close()
        for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
            if str(bench.directory) in line:
                subprocess.run(["umount", "-l", line.split()[4]], check=False)


async def test_it_is_an_image_like_others_once_it_is_mounted(node: Node) -> None:
    _, service, tree = await node.up()
    fact = node.images.facts()[ImageFact][node.ref]
    assert isinstance(fact, ImageFact)
    assert (fact.entrypoint, fact.provides("/bin/sh", ""), fact.disk, fact.digest) == (("/bin/sh",), True, None, tree.digest)
    mount = Path(node.flist.mount)
    assert (mount / "big").read_bytes() == (node.tree / "big").read_bytes()
    assert has_tree(node.state / "images", tree.digest)
    # A user of its own, in everybody's group, and nothing of that is anybody's but root's.
    held = list((node.state / "blocks").iterdir())
    assert len(held) > 4
    gid = node.bench.accounts.uid(FLISTS)
    assert {file.stat().st_gid for file in held} == {gid}
    assert {file.stat().st_uid for file in held} == {node.bench.uid(service.name)}
    # It is wanted by nobody any more: all of it goes but the image.
    await node.converge(node.image)
    assert not os.path.ismount(mount)
    assert "zos-flists" not in subprocess.run(["nft", "list", "tables"], capture_output=True, text=True).stdout
    assert not has_tree(node.state / "images", tree.digest)
    assert node.flist.mount == str(mount)


async def test_a_program_that_was_killed_comes_back_under_who_has_it(node: Node) -> None:
    _, service, _ = await node.up()
    mount = Path(node.flist.mount)
    device, working = mount.stat().st_dev, os.open(mount, os.O_RDONLY)
    with (mount / "big").open("rb") as file:
        assert file.read(100) == (node.tree / "big").read_bytes()[:100]
        for _ in range(2):
            pid = int((node.bench.scan / f"zos-svc-{service.name}/history.json").read_text().split('"pid": ')[1].split(",")[0])
            process = os.pidfd_open(pid)
            os.kill(pid, signal.SIGKILL)
            began = time.monotonic()
            select.select([process], [], [])  # what it had been asked and had not answered would be an error
            os.close(process)
            other = await asyncio.to_thread(lambda: os.open("other", os.O_RDONLY, dir_fd=working))
            assert await asyncio.to_thread(os.read, other, 100) == (node.tree / "other").read_bytes()[:100]
            print(f"read again {time.monotonic() - began:.1f} s after the kill")
            os.close(other)
            file.seek(2 * BLOCK)
            assert await asyncio.to_thread(file.read) == (node.tree / "big").read_bytes()[2 * BLOCK :]
            await node.mounted(service.name)
            subprocess.run(["sh", "-c", "echo 3 >/proc/sys/vm/drop_caches"], check=True)
    assert mount.stat().st_dev == device
    os.close(working)


async def test_blocks_that_can_not_be_had_are_told_by_notification_until_they_can(node: Node) -> None:
    _, service, _ = await node.up()
    node.hush()
    began = time.monotonic()
    with pytest.raises(OSError, match="Input/output error"):
        await asyncio.to_thread((Path(node.flist.mount) / "big").read_bytes)
    assert time.monotonic() - began < 10
    fact = await node.until(service.name, lambda fact: fact.trouble)
    assert fact.trouble == f"127.0.0.1:{node.port}: dial tcp 127.0.0.1:{node.port}: Connection refused"
    node.serve()
    await node.until(service.name, lambda fact: not fact.trouble)
    assert (Path(node.flist.mount) / "big").read_bytes() == (node.tree / "big").read_bytes()


async def test_what_is_closed_to_images_is_closed_to_flists(node: Node) -> None:
    with Store(node.store, ("127.0.0.9", 0)).begin() as server:
        node.pack(f"http://127.0.0.9:{server.server_port}")
        assert "its blocks are at 127.0.0.9: it is at an address that this node closes to images" in await problem(
            node.images, node.ref
        )
        # A name may lead anywhere by the time it is asked, and some are addresses in other words.
        node.pack(f"http://127.0.9:{server.server_port}")
        await node.converge(node.image)
        fence, service = serving("w", node.image, node.flist)
        await node.converge(node.image, fence, service)
        await node.mounted(service.name)
        with pytest.raises(OSError, match="Input/output error"):
            await asyncio.to_thread((Path(node.flist.mount) / "big").read_bytes)
        fact = await node.until(service.name, lambda fact: fact.trouble)
        assert "this node closes to images" in fact.trouble
        server.shutdown()


async def test_one_that_can_not_be_mounted_is_refused_before_anything_is_started(node: Node) -> None:
    flist = node.state / "image.fl"
    node.pack("zdb://10.1.1.1:9900/blocks")
    assert "leads to a 0-db, which can't be asked yet: publish its blocks over https" in await problem(node.images, node.ref)
    node.pack("dir:///etc")
    assert "is not below an --image-dir of the node" in await problem(node.images, node.ref)
    node.pack()
    whole = flist.read_bytes()
    flist.write_bytes(whole[:8192])
    assert "broken" in await problem(node.images, node.ref)
    flist.write_bytes(b"\x1f\x8b" + whole)
    assert "it is no flist of rfs v2" in await problem(node.images, node.ref)
    assert [path.name for path in (node.state / "images").iterdir()] in (["refs", "fetched"], ["fetched", "refs"])
    flist.write_bytes(whole)
    await node.up()


async def test_one_whose_program_does_not_stay_up_keeps_nobody_waiting(node: Node) -> None:
    """And it is taken from nobody who has it, whoever wants it gone."""
    fence, service, _ = await node.up()
    mount = Path(node.flist.mount)
    broken = dataclasses.replace(service, argv=("--nonsense", *service.argv))
    await node.converge(node.image, fence, broken)
    for _ in range(2):
        began = time.monotonic()
        with pytest.raises(OSError, match="Input/output error"):
            await asyncio.to_thread((mount / "other").read_bytes)
        assert time.monotonic() - began < 30, "it would be a minute until the next try"
    await node.converge(node.image, fence, service)
    assert await asyncio.to_thread((mount / "other").read_bytes) == (node.tree / "other").read_bytes()
    shared = subprocess.Popen(["unshare", "--mount", "sh", "-c", "echo virtiofsd >/proc/self/comm; echo; exec 3<&0; read x"],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    assert shared.stdout is not None
    shared.stdout.readline()
    with pytest.raises(DriverError, match=f"guests have what it has mounted \\(virtiofsd {shared.pid}\\)"):
        await node.converge(node.image, fence)
    assert await asyncio.to_thread((mount / "other").read_bytes) == (node.tree / "other").read_bytes()
    shared.communicate(b"\n")
    await node.converge(node.image)
    assert not os.path.ismount(mount)
    assert not [line for line in _commands() if str(mount) in line], "somebody still holds it"


def _commands() -> Iterator[str]:
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            yield place.read_bytes().replace(b"\0", b" ").decode(errors="replace")


async def test_a_disk_image_in_it_is_copied_and_found(node: Node) -> None:
    (node.tree / "disk").mkdir()
    raw = bytes(440) + bytes(6) + bytes(64) + b"\x55\xaa" + bytes(3 * BLOCK) + os.urandom(BLOCK)
    (node.tree / "disk/system.img").write_bytes(raw + bytes(-len(raw) % 512))
    node.pack()
    await node.up()
    fact = node.images.facts()[ImageFact][node.ref]
    assert isinstance(fact, ImageFact)
    assert fact.disk is not None
    assert fact.disk.size == len(raw)
    copy = Path(node.flist.file).with_name("disk.raw")
    assert copy.read_bytes() == raw
    assert copy.stat().st_blocks * 512 < len(raw), "holes are holes"
    # A kernel of its own is told by its name alone.
    (node.tree / "disk/system.img").unlink()
    (node.tree / "boot").mkdir()
    (node.tree / "boot/vmlinuz").write_bytes(b"kernel")
    node.pack()
    await node.converge()
    await node.up()
    fact = node.images.facts()[ImageFact][node.ref]
    assert isinstance(fact, ImageFact)
    assert fact.has_kernel
    assert fact.disk is None
