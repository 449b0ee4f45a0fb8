"""Machines that run the kernel of their image."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import kernelimages
from guestnode import MiB, Node
from zos.drivers.imagecache import tree_of
from zos.drivers.kernels import KernelDriver
from zos.plan.diff import Op
from zos.plan.guest import GuestMount
from zos.plan.items import ContainerBoot, Disk, Domain, Kernel

DIGEST = "sha256:" + hashlib.sha256(b"with a kernel").hexdigest()
TOOLS = (
    "sh",
    "cat",
    "echo",
    "uname",
    "id",
    "ls",
    "init",
    "modprobe",
    "mount",
    "sleep",
    "poweroff",
    "reboot",
    "halt",
    "lsmod",
    "sync",
    "ps",
    "df",
    "grep",
    "touch",
    "mkdir",
    "dd",
    "true",
)
INITTAB = """::sysinit:/etc/rc
::shutdown:/bin/echo shuts down
"""
RC = """#!/bin/sh
exec >/dev/console 2>&1
echo "kernel $(uname -r), first process $$ of $(cat /proc/1/comm)"
modprobe dummy && echo "dummy: $(grep -c ^dummy /proc/modules)"
[ -e /booted ] && echo "booted again" || { touch /booted; sync; echo "reboots itself"; reboot; }
"""


@pytest.fixture
def image(node: Node) -> Path:
    root = tree_of(node.state / "images", DIGEST)
    for name in ("bin", "etc", "sbin"):
        (root / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    for tool in TOOLS:
        (root / "bin" / tool).symlink_to("busybox")
    (root / "sbin/init").symlink_to("../bin/init")
    (root / "sbin/modprobe").symlink_to("../bin/modprobe")
    (root / "etc/inittab").write_text(INITTAB)
    (root / "etc/rc").write_text(RC)
    (root / "etc/rc").chmod(0o755)
    (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    kernelimages.put(root, "dummy")
    return root


async def own(node: Node, domain: Domain, init: bool = False) -> Domain:
    """The same, on its image's kernel, which is made ready."""
    item = Kernel(image=DIGEST, owner="w-1")
    driver = KernelDriver(node.state / "images", node.guest / "init")
    await driver.apply(Op("create", item.key, item))
    assert isinstance(domain.boot, ContainerBoot)
    return replace(domain, boot=replace(domain.boot, image=DIGEST, kernel=kernelimages.release(), init=init))


@pytest.mark.timeout(300)
async def test_an_entrypoint_runs_under_the_images_kernel(node: Node, image: Path) -> None:
    script = "echo kernel $(uname -r), process $$; modprobe dummy && grep ^dummy /proc/modules; df -T /data; exit 7"
    domain = await own(node, node.domain("/bin/sh", "-c", script, mounts=(GuestMount(serial="data", path="/data"),)))
    data = Disk(name="mount-data", size=128 * MiB, format="btrfs", owner="w-2")
    await node.converge(node.root(domain), data, domain)
    fact = await node.ended(domain)
    console = node.console(domain)
    assert f"kernel {kernelimages.release()}, process" in console
    assert "dummy" in console
    assert "btrfs" in console
    assert (fact.ended, fact.exit_code) == ("exit", 7), console


@pytest.mark.timeout(300)
async def test_the_images_own_init_takes_over(node: Node, image: Path) -> None:
    mounts = (GuestMount(serial="data", path="/data"),)
    domain = await own(node, node.domain("/sbin/init", init=True, mounts=mounts), init=True)
    data = Disk(name="mount-data", size=128 * MiB, format="btrfs", owner="w-2")
    wanted = (node.root(domain), data, domain)
    await node.converge(*wanted)
    pid = node.libvirt.qemu(domain.name)
    console = await node.says(domain, "booted again", 200)
    assert node.libvirt.qemu(domain.name) == pid, "a reboot is no end"
    assert f"kernel {kernelimages.release()}, first process" in console
    assert "of init" in console
    assert console.count("dummy: 1") == 2, console
    assert (await node.fact(domain)).booted

    await node.converge(*wanted[:2], replace(domain, running=False, stop_seconds=60))
    fact = await node.ended(domain)
    assert (fact.ended, fact.exit_code) == ("stopped", 0), node.console(domain)
    assert "shuts down" in node.console(domain)


@pytest.mark.timeout(300)
async def test_a_panic_under_the_images_own_init_is_a_crash(node: Node, image: Path) -> None:
    """Though a reset is none: what came up again had not been told to end."""
    panic = "#!/bin/sh\necho 1 >/proc/sys/kernel/sysrq\necho c >/proc/sysrq-trigger\n"
    (image / "etc/rc").write_text(panic)
    domain = await own(node, node.domain("/sbin/init", init=True), init=True)
    await node.converge(node.root(domain), domain)
    fact = await node.ended(domain, 250)
    assert fact.problem.startswith("the system was reset without having ended"), node.console(domain)
    assert len(fact.crashes) == 1
