"""WireGuard between two router namespaces of this machine: real interfaces, real handshakes, real kills."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from bound import TOLD
from zos.api import names
from zos.drivers import DriverError, netns
from zos.drivers.keyring import Keyring
from zos.drivers.wireguard import WireGuardDriver, probe
from zos.plan.diff import diff
from zos.plan.items import WireGuard, WireGuardPeer

UIDS = [f"test-wireguard-{n}-{os.getpid()}" for n in (1, 2)]
A, B = (names.router(uid) for uid in UIDS)
WG_A, WG_B = (names.wireguard(uid) for uid in UIDS)


def sh(command: str) -> str:
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True).stdout


def program() -> str:
    cache = Path(os.environ.get("ZOS_CACHE", Path.home() / ".cache" / "zos")) / "bin"
    found = [shutil.which("wireguard-go"), *map(str, sorted(cache.glob("wireguard-go-*/wireguard-go"), reverse=True))]
    usable = [path for path in found if path]
    assert usable, f"no wireguard-go in PATH or {cache} (hack/minigrid builds it)"
    return usable[-1] if usable[0] is None else usable[0]


def free_port() -> int:
    import socket

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("0.0.0.0", 0))
        return int(probe.getsockname()[1])


async def until(condition: Callable[[], object], seconds: float = 30) -> float:
    began = time.monotonic()
    while not await asyncio.to_thread(condition):
        assert time.monotonic() - began < seconds, "not within the time"
        await asyncio.sleep(0.05)
    return time.monotonic() - began


def ping(space: str, to: str) -> bool:
    return "1 received" in sh(f"ip netns exec {space} ping -c1 -W0.3 {to}")


@dataclass
class Place:
    """One driver that serves two interfaces, each in a router of its own, as two nodes would."""

    driver: WireGuardDriver
    keyring: Keyring
    a: WireGuard
    b: WireGuard
    state: Path
    new: Callable[[], WireGuardDriver]

    async def converge(self, *wanted: WireGuard, driver: WireGuardDriver | None = None) -> list[str]:
        driver = driver or self.driver
        ops = diff(wanted, await driver.observe(wanted))
        await asyncio.gather(*(driver.apply(op) for op in ops))
        return sorted(f"{op.verb} {op.key.rsplit('/', 1)[1]}" for op in ops)

    def pid(self, name: str) -> int:
        return int(sh(f"pgrep -f '^[^ ]*wireguard-go -f {name}$'").split()[0])


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    scan = tmp_path / "scan"
    scan.mkdir()
    svscan = subprocess.Popen([*TOLD, "s6-svscan", str(scan)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (scan / ".s6-svscan" / "control").exists():
        await asyncio.sleep(0.02)
    for name in (A, B):
        sh(f"ip netns add {name}; ip -n {name} link set lo up")
        sh(f"ip -n {name} link add lan type bridge; ip -n {name} link set lan up")
    sh(f"ip -n {A} address add 10.98.4.1/24 dev lan; ip -n {B} address add 10.98.5.1/24 dev lan")
    keyring = Keyring(tmp_path / "keys")
    keys, ports = (keyring.create(), keyring.create()), (free_port(), free_port())

    def new() -> WireGuardDriver:
        return WireGuardDriver(tmp_path, keyring, scan, tmp_path / "logs", program(), "userspace")

    def interface(n: int, space: str, name: str, peer: WireGuardPeer) -> WireGuard:
        return WireGuard(
            netns=space, name=name, public_key=keys[n], listen_port=ports[n], mtu=1420, owner=f"w-{n}",
            addresses=(f"100.64.98.{4 + n}/16",), routes=("10.98.0.0/16",), peers=(peer,),
        )  # fmt: skip

    to_b = WireGuardPeer(
        public_key=keys[1], endpoint=f"127.0.0.1:{ports[1]}", allowed_ips=("10.98.5.0/24", "100.64.98.5/32"), keepalive=20
    )
    to_a = WireGuardPeer(public_key=keys[0], allowed_ips=("10.98.4.0/24", "100.64.98.4/32"))  # hidden: it calls us
    driver = new()
    yield Place(driver, keyring, interface(0, A, WG_A, to_b), interface(1, B, WG_B, to_a), tmp_path, new)
    await driver.close()
    subprocess.run(["s6-svscanctl", "-t", str(scan)], check=False)
    svscan.wait(20)
    for name in (A, B):
        sh(f"ip netns del {name}")
    for name in (WG_A, WG_B):
        (Path("/run/wireguard") / f"{name}.sock").unlink(missing_ok=True)


async def test_two_routers_reach_each_other_and_are_left_alone(place: Place) -> None:
    assert len(await place.converge(place.a, place.b)) == 2
    took = await until(lambda: ping(A, "10.98.5.1") and ping(B, "10.98.4.1"))
    assert took < 3
    assert await place.converge(place.a, place.b) == []
    pids = [place.pid(WG_A), place.pid(WG_B)]
    again = place.new()
    assert await place.converge(place.a, place.b, driver=again) == []
    await again.close()
    await asyncio.sleep(1.5)  # calls are over
    assert await place.converge(place.a, place.b) == []
    assert [place.pid(WG_A), place.pid(WG_B)] == pids
    assert (await place.driver.observe([place.a]))[place.a.key].owner == "w-0"
    nobodys = (await place.driver.observe([]))[place.a.key].item  # its port and key stay taken
    assert isinstance(nobodys, WireGuard)
    assert (nobodys.public_key, nobodys.listen_port) == (place.a.public_key, place.a.listen_port)
    # Its socket is in the node's namespace, not in the router's.
    assert str(place.a.listen_port) in sh("ss -lun")
    assert str(place.a.listen_port) not in sh(f"ip netns exec {A} ss -lun")


async def test_it_has_precedence_over_guests(place: Place) -> None:
    await place.converge(place.a)
    pid = place.pid(WG_A)
    assert os.getpriority(os.PRIO_PROCESS, pid) == -10
    autogroup = Path(f"/proc/{pid}/autogroup")
    assert not autogroup.exists() or autogroup.read_text().endswith(" nice -10\n")


async def test_a_killed_process_comes_back_with_what_it_had_learned(place: Place) -> None:
    await place.converge(place.a, place.b)
    place.driver.watch(lambda: None)
    await until(lambda: ping(A, "10.98.5.1"))
    await until(lambda: "127.0.0.1" in (place.state / "wireguard" / WG_B / "conf").read_text(), 8)
    await place.driver.close()  # and no agent from here on
    os.kill(place.pid(WG_B), signal.SIGKILL)
    await until(lambda: ping(B, "10.98.4.1"), 12)  # greeted; by themselves peers notice after 15 s
    assert ping(A, "10.98.5.1")
    os.kill(place.pid(WG_A), signal.SIGKILL)
    await until(lambda: ping(B, "10.98.4.1") and ping(A, "10.98.5.1"), 12)


@pytest.mark.parametrize(
    "harm",
    [
        f"ip -n {A} link del {WG_A}",
        f"ip -n {A} link set {WG_A} down",
        f"ip -n {A} route del 10.98.0.0/16",
        f"ip -n {A} route flush dev {WG_A}",
        f"ip -n {A} address flush dev {WG_A}",
        f"ip -n {A} address add 10.97.0.1/24 dev {WG_A}",
        f"ip -n {A} link set {WG_A} mtu 1300",
        f"wg set {WG_A} listen-port 0",
        f"wg set {WG_A} peer $(wg show {WG_A} peers) remove",
    ],
)
async def test_drift_heals(place: Place, harm: str) -> None:
    await place.converge(place.a, place.b)
    await until(lambda: ping(A, "10.98.5.1"))
    sh(harm)
    await asyncio.sleep(0.1)
    with contextlib.suppress(DriverError):
        await place.converge(place.a, place.b)
    await until(lambda: ping(A, "10.98.5.1") and ping(B, "10.98.4.1"), 12)  # a lost handshake is tried again after 5 s
    await place.converge(place.a, place.b)
    assert await place.converge(place.a, place.b) == []


async def test_changed_peers_change_in_place_without_a_break(place: Place) -> None:
    await place.converge(place.a, place.b)
    await until(lambda: ping(A, "10.98.5.1"))
    handshake = sh(f"wg show {WG_A} latest-handshakes")
    pid = place.pid(WG_A)
    other = WireGuardPeer(public_key=place.keyring.create(), endpoint="127.0.0.1:9", allowed_ips=("10.98.6.0/24",))
    peers = tuple(sorted((*place.a.peers, other), key=lambda peer: peer.public_key))
    assert await place.converge(replace(place.a, peers=peers), place.b) == [f"update {WG_A}"]
    assert ping(A, "10.98.5.1")
    assert place.pid(WG_A) == pid
    assert handshake.split()[1] in sh(f"wg show {WG_A} latest-handshakes")
    assert await place.converge(replace(place.a, peers=peers), place.b) == []
    assert await place.converge(place.a, place.b) == [f"update {WG_A}"]
    assert other.public_key not in sh(f"wg show {WG_A} peers")


@pytest.mark.parametrize("card", ["", "garbage", "[]"])
async def test_a_card_that_is_lost_stops_nothing(place: Place, card: str) -> None:
    await place.converge(place.a, place.b)
    pid, file = place.pid(WG_A), place.state / "wireguard" / WG_A / "card"
    file.write_text(card)
    assert await place.converge(place.b) == []  # what it is nobody can tell: it is left alone
    assert await place.converge(place.a, place.b) == [f"create {WG_A}"]
    assert await place.converge(place.a, place.b) == []
    assert place.pid(WG_A) == pid


async def test_removal_leaves_nothing(place: Place) -> None:
    await place.converge(place.a, place.b)
    assert await place.converge() == sorted([f"remove {WG_A}", f"remove {WG_B}"])
    assert await place.converge() == []
    assert list((place.state / "wireguard").iterdir()) == []
    assert list((place.state / "logs").iterdir()) == []
    assert sh(f"pgrep -f 'wireguard-go -f ({WG_A}|{WG_B})'") == ""
    for name in (WG_A, WG_B):
        assert not (Path("/run/wireguard") / f"{name}.sock").exists()
        assert name not in sh(f"ip link; ip -n {A} link; ip -n {B} link")


async def test_a_key_that_is_not_here_is_named(place: Place) -> None:
    lost = place.keyring.create()
    place.keyring.forget(lost)
    stranger = replace(place.a, public_key=lost)
    with pytest.raises(DriverError, match="this node has no key"):
        await place.converge(stranger)


async def test_probe_leaves_nothing() -> None:
    assert await probe() in ("kernel", "userspace")
    assert "zosprobe" not in sh("ip link")
    assert A not in netns.ours()
