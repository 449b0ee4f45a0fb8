"""These tests have a network and mounts of their own, so that whatever they make ends with them, and nothing else is met."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from guestnode import Node
from hypervisor import Libvirt
from imageworks import certified, serving
from services import Bench
from shares import Shares
from zos.drivers.fence import TABLE
from zos.plan.items import Domain
from zos.programs.guestbuild import build

_HERE = Path(__file__).parent
_NEWNS, _NEWNET = 0x00020000, 0x40000000  # linux/sched.h
_LIBC = ctypes.CDLL(None, use_errno=True)
_MACHINE = open("/proc/self/ns/net")  # noqa: SIM115
_OWN = """
set -e
mount --make-rprivate /
cgroups=$(mktemp -d)
mount --rbind /sys/fs/cgroup "$cgroups"
mount -t sysfs sysfs /sys
mount --move "$cgroups" /sys/fs/cgroup
rmdir "$cgroups"
for place in /run/netns /run/wireguard; do
  mkdir -p $place
  mount -t tmpfs tmpfs $place
done
ip link set lo up
"""


def pytest_configure(config: pytest.Config) -> None:
    """Only where nothing else is asked for: other parts' grids are to be reached from outside."""
    if not all(Path(word.partition("::")[0]).resolve().is_relative_to(_HERE) for word in config.args):
        return
    if _LIBC.unshare(_NEWNS | _NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "these tests need root: unshare")
    subprocess.run(["sh", "-c", _OWN], check=True)


@pytest.fixture
def machines_network() -> Iterator[None]:
    """That of the machine itself, for who needs Debian's servers."""
    with open("/proc/thread-self/ns/net") as own:
        _LIBC.setns(_MACHINE.fileno(), _NEWNET)
        yield
        _LIBC.setns(own.fileno(), _NEWNET)


@pytest.fixture
def elsewhere() -> Iterator[None]:
    """A network that has nothing else in it: what drivers do on the node's side, they do there."""
    with open("/proc/thread-self/ns/net") as own:
        assert _LIBC.unshare(_NEWNET) == 0
        yield
        assert _LIBC.setns(own.fileno(), _NEWNET) == 0


@pytest.fixture(scope="module")
def libvirt() -> Iterator[Libvirt]:
    libvirt = Libvirt()
    yield libvirt
    libvirt.close()


@pytest.fixture(scope="module")
def guest() -> Path:
    return build(Path(os.environ.get("ZOS_CACHE", Path.home() / ".cache" / "zos")) / "guest")


@pytest.fixture
async def node(tmp_path: Path, libvirt: Libvirt, guest: Path) -> AsyncIterator[Node]:
    node = Node(tmp_path / "state", libvirt, guest)
    yield node
    for key, seen in (await node.domains.observe([])).items():
        if isinstance(seen.item, Domain) and seen.item.running:
            os.kill(libvirt.qemu(key.removeprefix("domain/")), signal.SIGKILL)
    await node.domains.close()


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    """Services under a supervisor of the test's own. One at a time on a machine: accounts have numbers that are made of their
    names, and what ends a service ends all that runs under its account."""
    with open("/run/lock/zos-test-services", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made = Bench()
        await made.start_svscan()
        yield made
        await made.close()


@pytest.fixture(scope="session")
def certificate() -> Iterator[Path]:
    with certified() as directory:
        yield directory


@pytest.fixture
def images(tmp_path: Path) -> Iterator[Path]:
    """Where a node has its images."""
    yield tmp_path / "images"
    subprocess.run(["nft", "delete", "table", "inet", TABLE], stderr=subprocess.DEVNULL)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """Address of an empty one."""
    with serving(tmp_path) as address:
        yield address


@pytest.fixture
async def shares(node: Node) -> AsyncIterator[Shares]:
    shares = Shares(node)
    shares.put("as first")
    yield shares
    while subprocess.run(["umount", "-l", shares.mount], stderr=subprocess.DEVNULL).returncode == 0:
        pass
