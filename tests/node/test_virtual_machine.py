"""Virtual machines: Debian from its packages, booted from a disk of its own, told by cloud-init."""

from __future__ import annotations

import asyncio
import subprocess
import uuid
from pathlib import Path
from typing import Literal

import pytest

from guestnode import VM_DIGEST, Node
from shares import Shares
from zos.drivers.diskimage import firmware_of
from zos.drivers.imagecache import directory_of
from zos.plan.facts import DiskImage, DomainFact
from zos.plan.guest import GuestMount, GuestShareMount
from zos.plan.items import Domain
from zos.plan.seed import Seed

pytestmark = pytest.mark.last
_BUILD = Path(__file__).parents[2] / "hack" / "images" / "debian-vm"
#: Seconds for a boot on a busy node, under emulation.
_LONG = 600.0


@pytest.fixture(scope="session")
def debian() -> Path:
    return Path(subprocess.run([_BUILD], check=True, stdout=subprocess.PIPE, text=True).stdout.strip())


def unpacked(node: Node, debian: Path, firmware: Literal["bios", "uefi"] = "bios") -> DiskImage:
    place = directory_of(node.state / "images", VM_DIGEST)
    place.mkdir(parents=True)
    raw = place / "disk.raw"
    subprocess.run(["cp", "--sparse=always", debian, raw], check=True)
    if firmware == "uefi":  # without what a BIOS would start, and where that would find more
        with open(raw, "r+b") as file:
            file.write(bytes(440))
        subprocess.run(["/usr/sbin/sfdisk", "-q", "--delete", raw, "1"], check=True)
    image = DiskImage(size=raw.stat().st_size, firmware=firmware_of(raw))
    assert image.firmware == firmware
    return image


async def told(node: Node, domain: Domain, *words: str) -> DomainFact:
    """Waits, by the driver's own word, until its cloud-init says so."""
    async with asyncio.timeout(_LONG):
        while True:
            node.dirty.clear()
            fact = await node.fact(domain)
            assert fact.running, node.console(domain)
            if fact.told in words:
                return fact
            await node.dirty.wait()


USER_DATA = """#cloud-config
write_files:
- path: /usr/local/bin/tell
  permissions: "0755"
  content: |
    #!/bin/sh
    exec >/dev/ttyS0 2>&1
    echo "I am $(hostname)"
    findmnt -no FSTYPE,SOURCE /data
    grep -c zos-test /root/.ssh/authorized_keys
    [ -e /data/kept ] && echo "kept: $(cat /data/kept)" || echo something > /data/kept
    ls /dev/disk/by-id
    sync
    echo said all
bootcmd:
- [ sh, -c, "[ -e /var/first ] || { touch /var/first; echo first boot >/dev/ttyS0; sync; reboot -f; }" ]
- [ sh, -c, "while sleep 1; do cat /it/words >/dev/ttyS0; done </dev/null >/dev/null 2>&1 &" ]
- [ sh, -c, "[ ! -x /usr/local/bin/tell ] || /usr/local/bin/tell" ]
runcmd:
- /usr/local/bin/tell
"""


@pytest.mark.timeout(3 * _LONG)
async def test_a_virtual_machines_life(node: Node, debian: Path, shares: Shares) -> None:
    image, it = unpacked(node, debian), shares.given["/it"]
    seed = Seed(
        instance_id=str(uuid.uuid4()),
        hostname="debian",
        ssh_authorized_keys=("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFakeFakeFakeFakeFakeFakeFakeFakeFakeFakeFake zos-test",),
        mounts=(GuestMount(serial="data", path="/data"), GuestShareMount(tag=it.tag, path="/it", inside=it.inside)),
        user_data=USER_DATA,
    )
    *_, domain = wanted = node.machine(image, seed, disks=("data",), shares=(it,))
    assert isinstance(domain, Domain)
    assert (await node.converge(*wanted))[-2:] == [f"create system/{domain.boot.root.disk}", f"create domain/{domain.name}"]
    pid = node.libvirt.qemu(domain.name)
    fact = await told(node, domain, "ready", "unready")
    assert (fact.told, fact.restarts) == ("ready", 0), node.console(domain)
    assert (node.libvirt.qemu(domain.name), node.console(domain).count("first boot")) == (pid, 1), "a reboot is no end"
    console = await node.says(domain, "said all", seconds=10)
    for words in ("I am debian", "btrfs  /dev/vdb", "\n1\n", "virtio-boot", "virtio-data"):
        assert words in console.replace("\t", " "), console
    assert await node.converge(*wanted) == [], "nothing is written again"
    assert "as first\n" in console
    shares.take()
    shares.put("mounted anew")
    await node.says(domain, "mounted anew\n")

    node.libvirt.run("virsh", "-c", node.libvirt.uri, "destroy", "--graceful", domain.name)
    fact = await node.ended(domain)
    assert (fact.ended, fact.exit_code) == ("crash", None), "that was not its own wish"
    await node.restart_agent()
    assert await node.converge(*wanted) == [f"update domain/{domain.name}"]
    console = await node.says(domain, "kept: something", seconds=_LONG)
    assert (await told(node, domain, "ready")).restarts == 1
    node.libvirt.run("virsh", "-c", node.libvirt.uri, "shutdown", domain.name, "--mode", "acpi")
    fact = await node.ended(domain, _LONG)
    assert (fact.ended, fact.exit_code) == ("exit", 0), "as if it had switched itself off"


@pytest.mark.timeout(2 * _LONG)
async def test_one_that_only_uefi_starts(node: Node, debian: Path) -> None:
    image = unpacked(node, debian, "uefi")
    *_, domain = wanted = node.machine(image, Seed(instance_id=str(uuid.uuid4()), hostname="debian"))
    assert isinstance(domain, Domain)
    await node.converge(*wanted)
    await told(node, domain, "booting")
    own = node.state / "machines" / domain.uuid
    assert (own / "nvram.fd").exists()
    assert await node.converge() == [f"remove domain/{domain.name}"]
    assert not own.exists() or [path.name for path in own.iterdir()] == ["config"]
