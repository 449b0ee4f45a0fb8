"""Guests whose disks the node can't write to: a file system of the test's own gets full, and files refuse to be written."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from guestnode import MiB, Node
from hypervisor import Libvirt
from zos.drivers.diskfull import Full, Resumer
from zos.plan.facts import DomainFact
from zos.plan.guest import GuestMount
from zos.plan.items import Disk, Domain

_DATA = Disk(name="mount-disk1", size=64 * MiB, format="ext4", owner="w-2")
_MOUNT = GuestMount(serial="disk1", path="/data", format="ext4")


@pytest.fixture
def small(tmp_path: Path, libvirt: Libvirt) -> Iterator[Path]:
    """Where the node has its disks: a file system of 200 MiB."""
    image, mount = tmp_path / "small.img", tmp_path / "state" / "disks"
    mount.mkdir(parents=True)
    with open(image, "wb") as file:
        file.truncate(200 * MiB)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)  # with blocks that only root may have
    device = subprocess.check_output(["losetup", "--find", "--show", image], text=True).strip()
    subprocess.run(["mount", device, mount], check=True)
    libvirt.run("mount", device, str(mount))  # which has mounts of its own
    subprocess.run(["losetup", "--detach", device], check=True)  # when it is mounted no more
    yield mount
    libvirt.run("umount", "--lazy", str(mount))
    subprocess.run(["umount", "--lazy", mount], check=True)


async def becomes(node: Node, domain: Domain, so: Callable[[DomainFact], object], seconds: float = 40) -> DomainFact:
    """By the driver's own word."""
    async with asyncio.timeout(seconds):
        while True:
            node.dirty.clear()
            fact = await node.fact(domain)
            if so(fact):
                return fact
            await node.dirty.wait()


def fill(directory: Path) -> Path:
    path = directory / "fill"
    with contextlib.suppress(OSError), open(path, "wb", buffering=0) as file:
        while file.write(bytes(64 << 10)):
            pass
    return path


async def test_a_guest_waits_while_the_node_is_full_and_loses_nothing(small: Path, node: Node) -> None:
    script = (
        "echo before >/data/before; sync; echo ready; "
        "for i in 1 2 3 4 5 6 7 8 9; do dd if=/dev/urandom of=/data/$i bs=1M count=4 conv=fsync || exit 9; "
        "busybox md5sum /data/$i >>/sums; done; "
        "sync; echo 3 >/proc/sys/vm/drop_caches; busybox md5sum -c /sums && cat /data/before && echo all is well; sleep 1000"
    )
    domain = node.domain("sh", "-c", script, mounts=(_MOUNT,))
    path = node.disks.path(_DATA.name)
    await node.converge(node.root(domain), _DATA)
    subprocess.run(["fallocate", "--dig-holes", path], check=True)  # so nothing is reserved any more
    filled = fill(small)
    await node.converge(domain, node.root(domain), _DATA)
    fact = await becomes(node, domain, lambda fact: fact.full)
    assert (fact.running, fact.full, fact.faults) == (True, (_DATA.name,), ())
    pid = node.libvirt.qemu(domain.name)
    await node.restart_agent()
    assert (await node.fact(domain)).full == (_DATA.name,), "who comes later sees it too"
    await asyncio.sleep(3)
    assert (await node.fact(domain)).full == (_DATA.name,)
    assert "all is well" not in node.console(domain)
    filled.unlink()
    await becomes(node, domain, lambda fact: not fact.full)
    console = await node.says(domain, "all is well", 60)
    assert "FAILED" not in console
    assert "before\n" in console
    fact = await node.fact(domain)
    assert (fact.restarts, fact.faults, node.libvirt.qemu(domain.name)) == (0, (), pid)


async def test_what_a_disk_could_not_do_is_known_until_the_guest_is_restarted(small: Path, node: Node) -> None:
    script = "echo up; while sleep 0.2; do echo x >>/data/x; sync; done"
    domain = node.domain("sh", "-c", script, mounts=(_MOUNT,))
    await node.converge(domain, node.root(domain), _DATA)
    await node.says(domain, "up\n")
    path = node.disks.path(_DATA.name)
    subprocess.run(["chattr", "+i", path], check=True)  # as it is open, each write fails
    try:
        fact = await becomes(node, domain, lambda fact: fact.faults)
        assert (fact.faults, fact.full, fact.running) == ((_DATA.name,), (), True)
    finally:
        subprocess.run(["chattr", "-i", path], check=True)
    await node.restart_agent()
    assert (await node.fact(domain)).faults == (_DATA.name,)
    again = node.domain("sh", "-c", "echo again; sleep 1000", mounts=(_MOUNT,), identity=domain.uuid)
    os.kill(node.libvirt.qemu(domain.name), 9)
    assert (await node.ended(domain)).faults == ()
    await node.converge(again, node.root(domain), _DATA)
    await node.says(domain, "again\n")
    assert (await node.fact(again)).faults == ()


async def test_a_guest_goes_on_when_there_is_room_and_less_often_where_that_does_not_help(tmp_path: Path) -> None:
    asked: list[float] = []
    guest = Full("one", "u", (tmp_path / "disk", tmp_path / "absent"))
    guest.files[0].write_bytes(b"")
    resumer = Resumer(lambda *whom: asked.append(time.monotonic()) if whom == ("one", "u") else None, first=0.02)

    async def until_asked(times: int) -> None:
        async with asyncio.timeout(20):
            while len(asked) < times:
                resumer.watch([guest])
                await asyncio.sleep(0.01)

    began = time.monotonic()
    await until_asked(4)
    resumer.watch([])
    await until_asked(5)  # it went on for a moment only: no sooner again
    waits = [later - earlier for earlier, later in itertools.pairwise((began, *asked))]
    assert all(wait >= least for wait, least in zip(waits, (0.02, 0.04, 0.08, 0.16, 0.32), strict=True)), waits
    resumer.close()


async def test_a_disk_that_hangs_is_waited_for_by_nobody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = threading.Event()
    monkeypatch.setattr(Full, "has_room", lambda _: answers.wait(10))
    asked: list[str] = []
    resumer = Resumer(lambda name, _: asked.append(name), first=0.01)
    resumer.watch([Full("one", "u", (tmp_path,))])
    began = time.monotonic()
    await asyncio.sleep(0.2)
    assert time.monotonic() - began < 1
    assert asked == []
    answers.set()
    async with asyncio.timeout(5):
        while not asked:
            await asyncio.sleep(0.01)
    resumer.close()
