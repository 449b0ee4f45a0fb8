"""News from the real kernel: what is ours is heard, wherever it happens, and what is others' is not."""

from __future__ import annotations

import asyncio
import functools
import os
import socket
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from zos.api import names
from zos.drivers import Driver, netns, news
from zos.drivers.firewall import FirewallDriver
from zos.drivers.keyring import Keyring
from zos.drivers.link import LinkDriver
from zos.drivers.news import News, Watch
from zos.drivers.prefixes import PrefixDriver
from zos.drivers.segment import SegmentDriver
from zos.drivers.wireguard import WireGuardDriver
from zos.plan.items import Bridge, Firewall, Segment

UID = f"test-news-{os.getpid()}"
NUMBER = os.getpid() % 10**6
ROUTER, OTHER = names.router(UID), names.router(f"{UID}-other")
STRANGER = f"stranger-{NUMBER}"
NIC, FAR, FOREIGN = f"nn{NUMBER}", f"nf{NUMBER}", f"nx{NUMBER}"
LAN, TABLE = names.bridge(UID), names.table(UID)
BODY = "chain c { type filter hook input priority 0; policy accept; }"
WANTED = (Segment(interface=NIC), Bridge(name=LAN, mtu=1500), Firewall(name=TABLE, body=BODY))


def sh(command: str) -> str:
    done = subprocess.run(["sh", "-ec", command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def clear() -> None:
    for command in (
        *(f"ip netns del {space}" for space in (ROUTER, OTHER, STRANGER)),
        *(f"ip link del {link}" for link in (NIC, LAN, FOREIGN, names.segment(NIC))),
        *(f"nft delete table inet {table}" for table in (TABLE, FOREIGN)),
    ):
        subprocess.run(command.split(), capture_output=True, check=False)


class Ears:
    """Drivers that watch, and how often each was told."""

    def __init__(self, *drivers: Driver) -> None:
        self.drivers = drivers
        self.told = dict.fromkeys((type(driver).__name__ for driver in drivers), 0)

    def watch(self) -> None:
        for driver in self.drivers:
            driver.watch(functools.partial(self.tell, type(driver).__name__))

    def tell(self, name: str) -> None:
        self.told[name] += 1

    async def look(self) -> None:
        for driver in self.drivers:
            await driver.observe([item for item in WANTED if isinstance(item, driver.ITEMS)])
        await self.quiet()

    async def quiet(self) -> None:
        """Until what was said is heard; then nobody has heard anything yet."""
        await asyncio.sleep(0.2)
        self.told = dict.fromkeys(self.told, 0)

    async def heard(self) -> list[str]:
        """Whoever hears of something by now."""
        for _ in range(20):
            await asyncio.sleep(0.05)
        return sorted(name.removesuffix("Driver") for name, times in self.told.items() if times)


@pytest.fixture
async def ears(tmp_path: Path) -> AsyncIterator[Ears]:
    clear()
    sh(f"ip netns add {ROUTER}; ip link add {NIC} type veth peer {FAR}; ip link add {LAN} type bridge")
    sh(f"nft 'add table inet {TABLE}'")
    (tmp_path / "scan").mkdir()
    wireguard = WireGuardDriver(
        tmp_path / "state", Keyring(tmp_path / "keys"), tmp_path / "scan", tmp_path / "logs", "wireguard-go", "userspace"
    )
    ears = Ears(LinkDriver(), SegmentDriver(), PrefixDriver(), FirewallDriver(tmp_path), wireguard)
    ears.watch()
    await ears.look()
    yield ears
    for driver in ears.drivers:
        await driver.close()
    clear()


@pytest.mark.parametrize(
    "stir",
    [
        pytest.param(
            f"for i in $(seq 100); do nft -f - <<'END'\ntable inet {FOREIGN}\ndelete table inet {FOREIGN}\n"
            f"table inet {FOREIGN} {{\nset s {{ type ipv4_addr; elements = {{ 192.0.2.1 }}; }}\n"
            f"chain c {{ type filter hook input priority 5; ip saddr @s accept; }}\n}}\nEND\ndone",
            id="tables",
        ),
        pytest.param(
            f"for i in $(seq 100); do ip link add {FOREIGN} type veth peer {FOREIGN}p; ip link set {FOREIGN} up;"
            f" ip link set {FOREIGN}p up; ip link del {FOREIGN}; done",
            id="interfaces",
        ),
        # As those of containers: with a number in the node's own, too, so that the kernel tells what happens there.
        pytest.param(
            f"for i in $(seq 10); do ip netns add {STRANGER}; ip netns set {STRANGER} auto; ip -n {STRANGER} link set lo up;"
            f" ip netns exec {STRANGER} nft add table inet {TABLE}; ip netns del {STRANGER}; done",
            id="namespaces",
        ),
    ],
)
async def test_what_is_others_tells_nobody(ears: Ears, stir: str) -> None:
    for _ in range(3):  # somebody else on this machine may make a namespace by a name like ours in this moment
        await ears.quiet()
        await asyncio.to_thread(sh, stir)
        if not (heard := await ears.heard()):
            return
    pytest.fail(f"told: {heard}")


@pytest.mark.parametrize(
    ("change", "who"),
    [
        (f"nft add chain inet {TABLE} another", ["Firewall"]),
        (f"nft delete table inet {TABLE}", ["Firewall"]),
        (f"ip netns exec {ROUTER} nft add table inet {TABLE}", ["Firewall"]),
        (f"ip link set {LAN} mtu 1400", ["Link"]),
        (f"ip link set {LAN} name {FOREIGN}", ["Link"]),
        (f"ip address add 192.0.2.1/24 dev {LAN}", ["Link"]),
        (f"ip link set {NIC} up", ["Segment"]),
        (f"ip address add 198.51.100.1/24 dev {NIC}", ["Prefix"]),
        (f"ip -n {ROUTER} link set lo up", ["Link", "WireGuard"]),
        (f"ip -n {ROUTER} link add x type bridge", ["Link", "WireGuard"]),
        (f"ip netns add {OTHER}", ["Firewall", "Link", "WireGuard"]),
        (f"ip netns del {ROUTER}", ["Firewall", "Link", "WireGuard"]),
    ],
)
async def test_what_is_ours_is_heard_by_those_who_look_after_it(ears: Ears, change: str, who: list[str]) -> None:
    await asyncio.to_thread(sh, change)
    assert await ears.heard() == who


async def test_networks_of_the_node_are_heard_of_when_they_go(ears: Ears) -> None:
    await asyncio.to_thread(sh, f"ip link set {NIC} up; ip link set {FAR} up; ip address add 198.51.100.1/24 dev {NIC}")
    await asyncio.to_thread(sh, f"ip route add 203.0.113.0/24 dev {NIC}")
    await ears.look()
    await asyncio.to_thread(sh, f"ip link set {NIC} down")
    assert "Prefix" in await ears.heard()
    await ears.look()
    await asyncio.to_thread(sh, "ip route add 203.0.113.7 dev lo; ip route del 203.0.113.7 dev lo")
    assert await ears.heard() == []  # a host's, as containers have them


async def test_a_namespace_made_anew_under_the_same_name_is_heard(ears: Ears) -> None:
    for _ in range(3):
        await asyncio.to_thread(sh, f"ip netns del {ROUTER}; ip netns add {ROUTER}")
        await ears.look()
        await asyncio.to_thread(sh, f"ip -n {ROUTER} link set lo up")
        assert "Link" in await ears.heard()


async def test_lost_news_may_be_about_anything() -> None:
    stirred: list[str | None] = []
    dirty: list[bool] = []
    watch = Watch(netns.ROUTE, (news.LINKS,), lambda said: False, lambda: dirty.append(True), stirred.append, follows=False)
    try:
        watch.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        subprocess.run(["sh", "-c", f"for i in 1 2 3 4; do ip link add {FOREIGN} type bridge; ip link del {FOREIGN}; done"])
        await asyncio.sleep(0.3)
        assert (dirty, stirred) == ([True], [None])
    finally:
        watch.close()
        clear()


async def test_one_socket_hears_all(tmp_path: Path) -> None:
    """However many namespaces it follows."""
    heard: list[str | None] = []
    spaces = [names.router(f"{UID}-{number}") for number in range(20)]
    await asyncio.to_thread(sh, "".join(f"ip netns add {space};" for space in spaces))
    before = len(os.listdir("/proc/self/fd"))
    watch = Watch(netns.NETFILTER, (news.NFTABLES,), _any, lambda: None, heard.append)
    try:
        watch.follow(spaces)
        assert len(os.listdir("/proc/self/fd")) <= before + 2
        heard.clear()
        await asyncio.to_thread(sh, "".join(f"ip netns exec {space} nft add table inet {TABLE};" for space in spaces))
        await asyncio.sleep(0.3)
        assert heard == spaces
    finally:
        watch.close()
        await asyncio.to_thread(sh, "".join(f"ip netns del {space};" for space in spaces))


def _any(said: News) -> bool:
    return True
