"""WireGuard between two router namespaces of this machine: real interfaces, real handshakes, real kills."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from bound import TOLD
from gridlib.tools import program
from zos.api import names
from zos.drivers import DriverError
from zos.drivers.keyring import Keyring
from zos.drivers.wgprobe import Kind, probe
from zos.drivers.wgtext import Live
from zos.drivers.wireguard import WireGuardDriver
from zos.plan.diff import Op, diff
from zos.plan.facts import SilentFact
from zos.plan.items import WireGuard, WireGuardPeer

UIDS = [f"test-wireguard-{n}-{os.getpid()}" for n in (1, 2)]
A, B = (names.router(uid) for uid in UIDS)
WG_A, WG_B = (names.wireguard(uid) for uid in UIDS)


def sh(command: str) -> str:
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True).stdout


#: How much slower this machine is than one with a processor of its own.
SLOWNESS = float(os.environ.get("ZOS_TEST_SLOWNESS", "1"))
#: Seconds after which peers that can be reached are called no more.
CALLED = 1.5 * min(SLOWNESS, 4)
#: Of the two, what this kernel has. Debian's has both: see `test_kernel_wireguard`.
KINDS: tuple[Kind, ...] = (
    ("userspace", "kernel") if "yes" in sh("unshare --net ip link add wg type wireguard && echo yes") else ("userspace",)
)
userspace = pytest.mark.parametrize("kind", ["userspace"], indirect=True)
kernel = pytest.mark.parametrize("kind", [kind for kind in KINDS if kind == "kernel"], indirect=True)


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("0.0.0.0", 0))
        return int(probe.getsockname()[1])


async def until(condition: Callable[[], object], seconds: float = 30) -> float:
    began = time.monotonic()
    while not await asyncio.to_thread(condition):
        assert time.monotonic() - began < seconds * SLOWNESS, "not within the time"
        await asyncio.sleep(0.05)
    return time.monotonic() - began


#: Prints all that A's interface is to be.
SHAPE = f"""
ip -n {A} -4 -br address show dev {WG_A}; ip -n {A} route show dev {WG_A}; ip -n {A} -o link show {WG_A} | grep -o 'mtu [0-9]*'
ip -n {A} -br link show {WG_A} | grep -o 'LOWER_UP\\|,UP'
for what in listen-port peers allowed-ips; do ip netns exec {A} wg show {WG_A} $what; done"""


def settled() -> bool:
    """Whether A has a session with B that is not new any more, and does not call it."""
    keepalive = sh(f"ip netns exec {A} wg show {WG_A} persistent-keepalive").split()[1]
    since = int(sh(f"ip netns exec {A} wg show {WG_A} latest-handshakes").split()[1])
    return keepalive == "20" and since > 0 and time.time() - since > CALLED


def has_bound(stranger: socket.socket, port: int) -> bool:
    with contextlib.suppress(OSError):
        stranger.bind(("0.0.0.0", port))
        return True
    return False


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
    new: Callable[..., WireGuardDriver]

    async def converge(self, *wanted: WireGuard, driver: WireGuardDriver | None = None) -> list[str]:
        driver = driver or self.driver
        ops = diff(wanted, await driver.observe(wanted))
        await asyncio.gather(*(driver.apply(op) for op in ops))
        return sorted(f"{op.verb} {op.key.rsplit('/', 1)[1]}" for op in ops)

    async def settle(self, driver: WireGuardDriver) -> None:
        """As the agent does: what fails is tried again."""
        async with asyncio.timeout(30 * SLOWNESS):
            while True:
                with contextlib.suppress(DriverError):
                    if await self.converge(self.a, self.b, driver=driver) == []:
                        return
                await asyncio.sleep(0.05 * SLOWNESS)  # what has been started needs the processor for itself

    def identity(self, name: str) -> str:
        """What is another one after the interface was made anew."""
        return sh(f"ip -n {A if name == WG_A else B} -o link show {name}").partition(":")[0] + f" {self.pids(name)}"

    def pids(self, name: str) -> list[int]:
        return [int(pid) for pid in sh(f"pgrep -f '^[^ ]*wireguard-go -f {name}$'").split()]

    def pid(self, name: str) -> int:
        return self.pids(name)[0]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param


@pytest.fixture
async def place(tmp_path: Path, kind: Kind) -> AsyncIterator[Place]:
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

    def new(kind: Kind = kind, **more: Any) -> WireGuardDriver:
        return WireGuardDriver(tmp_path, keyring, scan, tmp_path / "logs", program("wireguard-go"), kind, **more)

    def interface(n: int, space: str, name: str, peer: WireGuardPeer) -> WireGuard:
        return WireGuard(
            netns=space, name=name, public_key=keys[n], listen_port=ports[n], mtu=1420, owner=f"w-{n}",
            addresses=(f"100.64.98.{4 + n}/32",), routes=("10.98.0.0/16", "100.64.98.0/24"), peers=(peer,),
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
    assert took < 3 * SLOWNESS
    assert await place.converge(place.a, place.b) == []
    before = [place.identity(WG_A), place.identity(WG_B)]
    await until(settled)  # nobody calls any more: what calls leave behind would be seen now
    assert await place.converge(place.a, place.b) == []
    again = place.new()
    assert await place.converge(place.a, place.b, driver=again) == []
    await again.close()
    assert [place.identity(WG_A), place.identity(WG_B)] == before
    assert (await place.driver.observe([place.a]))[place.a.key].owner == "w-0"
    nobodys = (await place.driver.observe([]))[place.a.key].item  # its port and key stay taken
    assert isinstance(nobodys, WireGuard)
    assert (nobodys.public_key, nobodys.listen_port) == (place.a.public_key, place.a.listen_port)
    # Its socket is in the node's namespace, not in the router's.
    assert str(place.a.listen_port) in sh("ss -lun")
    assert str(place.a.listen_port) not in sh(f"ip netns exec {A} ss -lun")


@userspace
async def test_it_has_precedence_over_guests(place: Place) -> None:
    await place.converge(place.a)
    pid = place.pid(WG_A)
    assert os.getpriority(os.PRIO_PROCESS, pid) == -10
    autogroup = Path(f"/proc/{pid}/autogroup")
    assert not autogroup.exists() or autogroup.read_text().endswith(" nice -10\n")


@userspace
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
        f"ip -n {A} address add 100.64.98.4/24 dev {WG_A}",
        f"ip -n {A} link set {WG_A} mtu 1300",
        f"ip netns exec {A} wg set {WG_A} listen-port 0",
        f"ip netns exec {A} wg set {WG_A} peer $(ip netns exec {A} wg show {WG_A} peers) remove",
    ],
)
async def test_drift_heals(place: Place, harm: str) -> None:
    await place.converge(place.a, place.b)
    await until(lambda: ping(A, "10.98.5.1"))
    right = sh(SHAPE)
    assert sh(f"{harm}; {SHAPE}") != right, "no harm was done"
    async with asyncio.timeout(30 * SLOWNESS):
        while sh(SHAPE) != right:
            with contextlib.suppress(DriverError):
                await place.converge(place.a, place.b)
            await asyncio.sleep(0.05)
    await until(lambda: ping(A, "10.98.5.1") and ping(B, "10.98.4.1"), 12)  # a lost handshake is tried again after 5 s
    await place.converge(place.a, place.b)
    assert await place.converge(place.a, place.b) == []


async def test_changed_peers_change_in_place_without_a_break(place: Place) -> None:
    await place.converge(place.a, place.b)
    await until(lambda: ping(A, "10.98.5.1"))
    await until(settled)
    handshake = sh(f"ip netns exec {A} wg show {WG_A} latest-handshakes")
    before = place.identity(WG_A)
    other = WireGuardPeer(public_key=place.keyring.create(), endpoint="127.0.0.1:9", allowed_ips=("10.98.6.0/24",))
    peers = tuple(sorted((*place.a.peers, other), key=lambda peer: peer.public_key))
    assert await place.converge(replace(place.a, peers=peers), place.b) == [f"update {WG_A}"]
    assert ping(A, "10.98.5.1")
    assert place.identity(WG_A) == before
    assert handshake.split()[1] in sh(f"ip netns exec {A} wg show {WG_A} latest-handshakes")
    assert await place.converge(replace(place.a, peers=peers), place.b) == []
    assert await place.converge(place.a, place.b) == [f"update {WG_A}"]
    assert other.public_key not in sh(f"ip netns exec {A} wg show {WG_A} peers")


async def test_the_last_address_of_the_mesh_is_a_members_and_no_broadcast(place: Place) -> None:
    """Members' addresses were those of a whole network once, and the kernel kept the last of that for broadcasts."""
    peer = replace(place.a.peers[0], allowed_ips=("10.98.5.0/24", "100.64.98.5/32", "100.64.98.7/32"))
    whole = replace(place.a, addresses=("100.64.98.4/29",), routes=("10.98.0.0/16",), peers=(peer,))
    await place.converge(whole, place.b)
    sh(f"ip -n {B} address add 100.64.98.7/32 dev lo")
    await until(lambda: ping(A, "100.64.98.5"))
    before = place.identity(WG_A)
    assert not ping(A, "100.64.98.7")
    now = replace(place.a, routes=("10.98.0.0/16", "100.64.98.0/29"), peers=(peer,))
    assert await place.converge(now, place.b) == [f"update {WG_A}"]
    assert ping(A, "100.64.98.7")
    assert place.identity(WG_A) == before
    assert await place.converge(now, place.b) == []


async def test_calls_that_end_while_it_looks_are_no_change(place: Place) -> None:
    await place.converge(place.a, place.b)
    await until(settled)
    if (up := place.state / "wireguard" / WG_A / "up").exists():
        os.utime(up, (0, 0))  # its launcher greets nobody any more
    nobody = WireGuardPeer(public_key=place.keyring.create(), endpoint="127.0.0.1:9", allowed_ips=("10.98.6.0/24",))
    wanted = replace(place.a, peers=tuple(sorted((*place.a.peers, nobody), key=lambda peer: peer.public_key)))
    assert await place.converge(wanted, place.b) == [f"update {WG_A}"]
    keepalive = f"ip netns exec {A} wg show {WG_A} persistent-keepalive | grep {nobody.public_key} | cut -f 2"
    await until(lambda: sh(keepalive) == "1\n")
    told = place.driver.told

    async def told_long_ago(space: str, name: str, seconds: float) -> Live | None:
        live = await told(space, name, seconds)
        task = asyncio.current_task()
        if name == WG_A and task is not None and not task.get_name().startswith("calls"):
            await until(lambda: sh(keepalive) == "off\n")
        return live

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place.driver, "told", told_long_ago)
        assert await place.converge(wanted, place.b) == []


async def test_who_does_not_answer_is_told_and_called_again(place: Place) -> None:
    now = 0.0
    driver = place.new(clock=lambda: now)
    sh("ip link set lo up; nft add table inet theirs; nft 'add chain inet theirs input { type filter hook input priority 0; }'")
    sh(f"nft add rule inet theirs input udp dport {{ {place.a.listen_port}, {place.b.listen_port} }} drop")
    try:
        await place.settle(driver)
        async with asyncio.timeout(30 * SLOWNESS):
            while driver.being_called(WG_A):
                await asyncio.sleep(0.05)
        assert driver.facts() == {SilentFact: {}}
        await driver.observe([place.a, place.b])
        now = 30.0
        await driver.observe([place.a, place.b])
        (peer,) = place.a.peers
        assert driver.facts() == {SilentFact: {WG_A: SilentFact(frozenset({peer.public_key}))}}
        assert await place.converge(place.a, place.b, driver=driver) == []
    finally:
        sh("nft delete table inet theirs")
    async with asyncio.timeout(30 * SLOWNESS):
        while driver.facts()[SilentFact]:
            now += 10.0
            assert await place.converge(place.a, place.b, driver=driver) == []
            await asyncio.sleep(0.2)
    assert ping(A, "10.98.5.1")
    await driver.close()


async def test_a_call_does_not_forget_who_has_just_called(place: Place) -> None:
    """A calls B where it was heard last, while B, which is somewhere else by now, calls A. What B sends over the session that
    it has got takes its time: until then A has answered, and no more."""
    lost = replace(place.a, peers=(replace(place.a.peers[0], endpoint="127.0.0.1:9"),))
    caller = replace(place.b, peers=(replace(place.b.peers[0], endpoint=f"127.0.0.1:{place.a.listen_port}"),))
    sh("ip link set lo up; nft add table inet theirs; nft 'add chain inet theirs input { type filter hook input priority 0; }'")
    sh(f"nft add rule inet theirs input udp dport {place.a.listen_port} @th,64,8 4 drop")  # type 4: transport
    try:
        await place.converge(lost, caller)
        await until(lambda: sh(f"ip netns exec {B} wg show {WG_B} latest-handshakes").split()[1] != "0")
        assert place.driver.being_called(WG_A)
        await asyncio.sleep(0.6)  # A's next calls
        assert sh(f"ip netns exec {A} wg show {WG_A} latest-handshakes").split()[1] == "0"
    finally:
        sh("nft delete table inet theirs")
    await until(lambda: ping(B, "10.98.4.1"), 3)  # over the session that it has; to make another takes 15 s


@pytest.mark.parametrize("card", ["", "garbage", "[]"])
async def test_a_card_that_is_lost_stops_nothing(place: Place, card: str) -> None:
    await place.converge(place.a, place.b)
    before, file = place.identity(WG_A), place.state / "wireguard" / WG_A / "card"
    file.write_text(card)
    assert await place.converge(place.b) == []  # what it is nobody can tell: it is left alone
    assert await place.converge(place.a, place.b) == [f"create {WG_A}"]
    assert await place.converge(place.a, place.b) == []
    assert place.identity(WG_A) == before


async def test_removal_leaves_nothing(place: Place) -> None:
    await place.converge(place.a, place.b)
    assert await place.converge() == sorted([f"remove {WG_A}", f"remove {WG_B}"])
    assert await place.converge() == []
    assert list((place.state / "wireguard").iterdir()) == []
    assert list(place.state.glob("logs/*")) == []
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


@pytest.mark.parametrize("address", ["0.0.0.0", "127.0.0.1", "::"])
async def test_a_port_that_somebody_has_is_named_and_taken_once_it_is_free(place: Place, address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    words = rf"UDP port {place.a.listen_port}, .* is taken by \S+ \(process {os.getpid()}\): end it"
    with socket.socket(family, socket.SOCK_DGRAM) as stranger:
        stranger.bind((address, place.a.listen_port))
        for _ in range(2):
            with pytest.raises(DriverError, match=words):
                await place.converge(place.a)
        assert place.pids(WG_A) == []  # nothing begins again and again meanwhile
        assert WG_A not in sh(f"ip link; ip -n {A} link")
    assert len(await place.converge(place.a, place.b)) == 2
    await until(lambda: ping(A, "10.98.5.1"))
    assert await place.converge(place.a, place.b) == []


async def test_a_network_whose_new_port_somebody_has_stays_on_its_old_one(place: Place) -> None:
    await place.converge(place.a, place.b)
    await until(lambda: ping(A, "10.98.5.1"))
    before = place.identity(WG_A)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.bind(("0.0.0.0", 0))
        moved = replace(place.a, listen_port=stranger.getsockname()[1])
        with pytest.raises(DriverError, match=f"UDP port {moved.listen_port}, .* is taken by"):
            await place.converge(moved, place.b)
        assert ping(A, "10.98.5.1")
        assert ping(B, "10.98.4.1")
    assert await place.converge(moved, place.b) == [f"update {WG_A}"]
    assert await place.converge(moved, place.b) == []
    assert place.identity(WG_A) == before
    assert f":{moved.listen_port} " in sh("ss -lun")


@userspace
async def test_one_whose_port_was_taken_while_it_was_away_comes_back_by_itself(place: Place) -> None:
    await place.converge(place.a, place.b)
    await until(lambda: ping(A, "10.98.5.1"))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        os.kill(place.pid(WG_A), signal.SIGKILL)
        deadline = time.monotonic() + 10
        while not has_bound(stranger, place.a.listen_port):  # without a pause: sooner than the next one
            assert time.monotonic() < deadline
        with pytest.raises(DriverError, match=rf"is taken by \S+ \(process {os.getpid()}\)"):
            await place.converge(place.a, place.b)
    await until(lambda: ping(A, "10.98.5.1"))  # its launcher goes on trying, with the agent or without


@userspace
async def test_one_that_is_stopped_is_told_and_goes_on(place: Place) -> None:
    await place.converge(place.a, place.b)
    await until(lambda: ping(A, "10.98.5.1"))
    await until(settled)
    before, process = place.identity(WG_A), place.pid(WG_A)
    os.kill(process, signal.SIGSTOP)
    try:
        words = rf"wireguard-go \(process {process}\) has not answered for \d+ s: .*kill -CONT {process}"
        async with asyncio.timeout(20):
            with pytest.raises(DriverError, match=words):
                await place.converge(place.a, place.b)
    finally:
        os.kill(process, signal.SIGCONT)
    assert await place.converge(place.a, place.b) in ([], [f"update {WG_A}"])
    assert await place.converge(place.a, place.b) == []
    await until(lambda: ping(A, "10.98.5.1") and ping(B, "10.98.4.1"))
    assert place.identity(WG_A) == before


@userspace
async def test_one_that_is_stopped_can_be_removed(place: Place) -> None:
    await place.converge(place.a)
    os.kill(place.pid(WG_A), signal.SIGSTOP)
    async with asyncio.timeout(20):
        assert await place.converge() == [f"remove {WG_A}"]
    assert place.pids(WG_A) == []


async def test_a_peer_that_nobody_calls_any_more_gets_its_keepalive_back(place: Place) -> None:
    await place.converge(place.a, place.b)
    await until(lambda: ping(A, "10.98.5.1"))
    await place.driver.close()  # whoever called it may well have died meanwhile
    if (up := place.state / "wireguard" / WG_A / "up").exists():
        os.utime(up, (0, 0))
    sh(f"ip netns exec {A} wg set {WG_A} peer {place.b.public_key} persistent-keepalive 1")
    another = place.new()
    assert f"update {WG_A}" in await place.converge(place.a, place.b, driver=another)
    assert sh(f"ip netns exec {A} wg show {WG_A} persistent-keepalive").split()[1] == "20"
    await another.close()


@userspace
async def test_what_is_learned_late_does_not_undo_what_came_since(place: Place) -> None:
    await place.converge(place.a, place.b)
    await until(lambda: ping(A, "10.98.5.1"))
    real, late = Path(f"/run/wireguard/{WG_B}.sock"), Path(f"/run/wireguard/{WG_B}.real")
    asked, answer = asyncio.Event(), asyncio.Event()

    async def between(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """wireguard-go's answer, late for whoever asks first."""
        first = not asked.is_set()
        asked.set()
        there, to = await asyncio.open_unix_connection(str(late))
        to.write(await reader.readuntil(b"\n\n"))
        text = await there.readuntil(b"\n\n")
        if first:
            await answer.wait()
        writer.write(text)
        writer.close()
        to.close()

    real.rename(late)
    try:
        async with await asyncio.start_unix_server(between, str(real)):
            place.driver.watch(lambda: None)
            await asyncio.wait_for(asked.wait(), 10 * SLOWNESS)
            other = WireGuardPeer(public_key=place.keyring.create(), allowed_ips=("10.98.6.0/24",))
            wanted = replace(place.b, peers=tuple(sorted((*place.b.peers, other), key=lambda peer: peer.public_key)))
            made = asyncio.create_task(place.driver.apply(Op("update", wanted.key, wanted)))
            await asyncio.wait({made}, timeout=0.7)
            real.unlink()
            late.rename(real)  # what comes from here on meets wireguard-go itself
            answer.set()
            await made
            await asyncio.sleep(0.5)
        assert other.public_key in (place.state / "wireguard" / WG_B / "conf").read_text()
        assert await place.converge(place.a, wanted) == []
    finally:
        if late.exists():
            late.rename(real)


@kernel
async def test_a_kernel_that_got_wireguard_or_lost_it(place: Place) -> None:
    def kinds() -> set[str]:
        shown = sh(f"ip -n {A} -d link show {WG_A}; ip -n {B} -d link show {WG_B}")
        return {"wireguard", "tun"} & set(shown.split())

    old = place.new("userspace")
    await place.settle(old)
    await until(lambda: ping(A, "10.98.5.1"))
    assert kinds() == {"tun"}
    await old.close()
    assert await place.converge(place.a, place.b) == sorted([f"update {WG_A}", f"update {WG_B}"])
    await until(lambda: ping(A, "10.98.5.1") and ping(B, "10.98.4.1"))
    assert kinds() == {"wireguard"}
    assert not place.pids(WG_A)
    assert not place.pids(WG_B)
    assert await place.converge(place.a, place.b) == []
    back = place.new("userspace")
    await place.settle(back)
    await until(lambda: ping(A, "10.98.5.1") and ping(B, "10.98.4.1"))
    assert kinds() == {"tun"}
    await back.close()
    assert await place.converge() == sorted([f"remove {WG_A}", f"remove {WG_B}"])
    assert await place.converge() == []
    assert not list((place.state / "scan").glob("zos-wg-*"))
    assert not place.pids(WG_A)
    assert not place.pids(WG_B)


def test_a_probe_that_may_not_try_does_not_say_what_is_missing() -> None:
    program = "import asyncio; from zos.drivers.wgprobe import probe; print(asyncio.run(probe()))"
    powerless = ["setpriv", "--bounding-set=-net_admin,-sys_admin", "--inh-caps=-net_admin,-sys_admin", "--"]
    done = subprocess.run([*powerless, sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode != 0, done.stdout
    assert "Operation not permitted" in done.stderr


async def test_a_name_that_is_taken_is_no_answer_to_the_probe() -> None:
    sh("ip link add probe type bridge")  # as it calls its own
    try:
        assert await probe() == KINDS[-1]
        assert sh("ip -d link show probe").split().count("bridge")
    finally:
        sh("ip link del probe")
    assert await probe() == KINDS[-1]
    assert sh("ip link show probe") == ""
