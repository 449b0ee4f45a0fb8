"""A node with real guests under emulation, for tests of what has to do with them."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from xml.etree import ElementTree

import libvirt as libvirt_api

from hypervisor import Libvirt
from zos.drivers.disk import DiskDriver
from zos.drivers.domain import DomainDriver
from zos.drivers.domainxml import NAMESPACE
from zos.drivers.imagecache import directory_of
from zos.drivers.systems import SystemDriver
from zos.plan.diff import diff
from zos.plan.facts import DiskImage, DomainFact
from zos.plan.guest import GuestConfig, GuestMount, GuestShareMount
from zos.plan.items import ContainerBoot, Disk, DiskBoot, Domain, GuestDisk, GuestNic, GuestShare, Item, System
from zos.plan.seed import Seed

MiB = 1 << 20
VM_DIGEST = "sha256:" + hashlib.sha256(b"debian").hexdigest()
DIGEST = "sha256:" + hashlib.sha256(b"busybox").hexdigest()
TOOLS = ("sh", "echo", "sleep", "cat", "ip", "mount", "df", "env", "hostname", "id", "dd", "ls", "rm", "reboot", "kill", "seq",
         "mknod", "chmod")  # fmt: skip


class Node:
    """The drivers of a node and a place for its state."""

    start_parallel = 4

    def __init__(self, state: Path, libvirt: Libvirt, guest: Path) -> None:
        self.state, self.libvirt, self.guest = state, libvirt, guest
        root = directory_of(state / "images", DIGEST) / "rootfs"
        for name in ("bin", "etc"):
            (root / name).mkdir(parents=True, exist_ok=True)
        if not (root / "bin/busybox").exists():
            shutil.copy("/bin/busybox", root / "bin/busybox")
            for tool in TOOLS:
                (root / "bin" / tool).symlink_to("busybox")
            (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nweb:x:33:34::/srv:/bin/sh\n")
        self.start_agent()

    def start_agent(self) -> None:
        self.dirty = asyncio.Event()
        self.domains = DomainDriver(
            self.state,
            self.state / "run",
            self.guest,
            uri=self.libvirt.uri,
            accelerator="tcg",
            libvirt_run=self.libvirt.base / "run" / "qemu",
            libvirt_logs=self.libvirt.base / "log" / "qemu",
            last=3,
            start_parallel=self.start_parallel,
        )
        self.disks = DiskDriver(self.state / "disks", self.domains.resize_disk)
        self.systems = SystemDriver(self.state / "disks", self.state / "images")
        self.domains.watch(self.dirty.set)

    async def restart_agent(self) -> None:
        await self.domains.close()
        self.start_agent()

    async def converge(self, *wanted: Item) -> list[str]:
        done = []
        for driver, kind in ((self.disks, Disk), (self.systems, System), (self.domains, Domain)):
            mine = [item for item in wanted if isinstance(item, kind)]
            ops = diff(mine, await driver.observe(mine))
            for op in ops:
                await driver.apply(op)
            done += [f"{op.verb} {op.key}" for op in ops]
            await driver.observe(mine)
        return done

    async def fact(self, domain: Domain) -> DomainFact:
        await self.domains.observe([domain])
        return self.domains.facts()[DomainFact][domain.name]

    async def ended(self, domain: Domain, seconds: float = 90) -> DomainFact:
        """Waits, by the driver's own word, until it does not run."""
        async with asyncio.timeout(seconds):
            while True:
                self.dirty.clear()
                fact = await self.fact(domain)
                if not fact.running:
                    return fact
                await self.dirty.wait()

    def console(self, domain: Domain) -> str:
        return (self.state / "machines" / domain.uuid / "console.log").read_text(errors="replace").replace("\r\n", "\n")

    async def says(self, domain: Domain, words: str, seconds: float = 90) -> str:
        deadline = time.monotonic() + seconds
        while True:
            try:
                console = self.console(domain)
            except FileNotFoundError:
                console = ""
            if words in console:
                return console
            assert time.monotonic() < deadline, console
            await asyncio.sleep(0.05)

    def domain(self, *argv: str, running: bool = True, mounts: tuple[GuestMount, ...] = (), taps: tuple[GuestNic, ...] = (),
               shares: Mapping[str, GuestShare] = MappingProxyType({}), identity: str = "",
               **config: object) -> Domain:  # fmt: skip
        """``shares`` by where they are mounted."""
        identity = identity or str(uuid.uuid4())
        given = tuple(
            GuestShareMount(tag=one.tag, path=path, read_only=one.read_only, inside=one.inside) for path, one in shares.items()
        )
        text = GuestConfig(hostname="web", argv=argv, mounts=(*mounts, *given), **config).render()  # type: ignore[arg-type]
        path = self.state / "machines" / identity / "config"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".new").write_text(text)
        path.with_suffix(".new").rename(path)
        return Domain(
            name=f"zos-{identity[:8]}",
            uuid=identity,
            owner="w-1",
            cpu=1,
            memory=256 * MiB,
            boot=ContainerBoot(
                image=DIGEST,
                root=GuestDisk(disk=f"root-{identity}", serial="zos-root"),
                config=f"machines/{identity}/config",
                config_digest=hashlib.sha256(text.encode()).hexdigest(),
            ),
            disks=tuple(GuestDisk(disk=f"mount-{mount.serial}", serial=mount.serial) for mount in mounts),
            nics=taps,
            shares=tuple(shares.values()),
            running=running,
        )

    def machine(
        self,
        image: DiskImage,
        seed: Seed,
        *,
        disks: tuple[str, ...] = (),
        shares: tuple[GuestShare, ...] = (),
        memory: int = 512 * MiB,
    ) -> tuple[Item, ...]:
        """A virtual machine, all of it, its domain last; ``disks`` are the serials of those beside the one that it boots from.
        The image is in the cache already."""
        identity, text = seed.instance_id, seed.render()
        path = self.state / "machines" / identity / "config"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        boot = GuestDisk(disk=f"mount-{identity[:8]}", serial="boot")
        others = tuple(GuestDisk(disk=f"mount-{serial}", serial=serial) for serial in disks)
        return (
            Disk(name=boot.disk, size=image.size + 64 * MiB, format="btrfs", owner="w-2"),
            *(Disk(name=disk.disk, size=64 * MiB, format="btrfs", owner="w-2") for disk in others),
            System(disk=boot.disk, image=VM_DIGEST, ref="file:///vm", firmware=image.firmware, owner="w-1"),
            Domain(
                name=f"zos-{identity[:8]}",
                uuid=identity,
                owner="w-1",
                cpu=1,
                memory=memory,
                boot=DiskBoot(
                    root=boot,
                    config=f"machines/{identity}/config",
                    config_digest=hashlib.sha256(text.encode()).hexdigest(),
                    firmware=image.firmware,
                ),
                disks=others,
                shares=shares,
                nics=(),
                running=True,
            ),
        )

    def root(self, domain: Domain, size: int = 64 * MiB) -> Disk:
        return Disk(name=domain.boot.root.disk, size=size, format="ext4", owner="w-1")


def metadata(node: Node, domain: Domain, change: Callable[[str], str]) -> None:
    """Rewrites what a running guest carries."""
    connection = libvirt_api.open(node.libvirt.uri)
    try:
        guest = connection.lookupByName(domain.name)
        kind, live = libvirt_api.VIR_DOMAIN_METADATA_ELEMENT, libvirt_api.VIR_DOMAIN_AFFECT_LIVE
        element = ElementTree.fromstring(guest.metadata(kind, NAMESPACE))
        new = ElementTree.Element("start")
        new.text = change(element.text or "")
        guest.setMetadata(kind, ElementTree.tostring(new, encoding="unicode"), "zos", NAMESPACE, live)
    finally:
        connection.close()
