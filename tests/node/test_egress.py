"""Where a guest gets to through its node, in the real kernel: a node between a LAN, a farm's segment and the internet."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from zos.api import names
from zos.drivers import Driver, netns, wayout
from zos.drivers.firewall import FirewallDriver
from zos.drivers.link import LinkDriver
from zos.drivers.prefixes import PrefixDriver
from zos.drivers.sysctl import SysctlDriver
from zos.drivers.wayout import WayOutDriver
from zos.kinds.kind import Here
from zos.kinds.network.lower import lower
from zos.kinds.network.part import EgressOnNode, NetworkOnNode
from zos.kinds.registry import KINDS
from zos.plan.diff import diff
from zos.plan.facts import ConnectedFact, Facts, ShutFact
from zos.plan.items import WireGuard
from zos.plan.order import schedule

T = TypeVar("T")
UID, OTHER = f"test-egress-{os.getpid()}", f"test-egress-{os.getpid()}-other"
GUEST, HOME, SEGMENT, WORLD = (f"eg-{os.getpid()}-{part}" for part in ("guest", "home", "seg", "world"))
NODE_LAN, NODE_PUBLIC, ROUTER = "192.168.77.13", "203.0.113.20", "192.168.77.1"
#: What stands where: the LAN with the home router, in which a metadata server and a pod answer as well; a farm's segment with
#: its router, a machine and another node; the internet behind the home router.
PLACES = {
    HOME: (ROUTER, "192.168.77.99", "169.254.169.254", "10.244.1.5"),
    SEGMENT: ("203.0.113.17", "203.0.113.18", "203.0.113.21"),
    WORLD: ("192.0.2.10", "198.51.100.7"),
}
SAID = EgressOnNode(public=("203.0.113.18-203.0.113.19", "203.0.113.22-203.0.113.30"))


def sh(command: str) -> str:
    done = subprocess.run(["sh", "-ec", command], capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stderr}"
    return done.stdout


def networks(driver: PrefixDriver) -> tuple[str, ...]:
    return driver.facts()[ConnectedFact][""].networks  # type: ignore[no-any-return]


def shut_by(driver: WayOutDriver) -> dict[str, str]:
    return {name: fact.by for name, fact in driver.facts()[ShutFact].items()}


class Node:
    """The test's own thread is on the node: what drivers do here, they do there."""

    def __init__(self, run: Path) -> None:
        self.prefixes = PrefixDriver()
        self.way_out = WayOutDriver()
        self._drivers: tuple[Driver, ...] = (LinkDriver(), SysctlDriver(), FirewallDriver(run))

    async def facts(self, **more: tuple[str, ...]) -> Facts:
        await self.prefixes.observe([])
        return Facts(node="n", now=0.0, known=self.prefixes.facts(), **more)

    async def network(self, said: EgressOnNode, facts: Facts, uid: str = UID, port: int = 52007) -> None:
        workload = KINDS.workload.model_validate(
            {
                "metadata": {"name": f"network-{uid}", "uid": "w"},
                "spec": {
                    "owner": {"kind": "Network", "namespace": "default", "name": "net", "uid": uid},
                    "part": {"network": NetworkOnNode(
                        ip_range="10.20.0.0/16", mtu=1420, subnet="10.20.4.0/24", wireguard_address="100.64.20.4",
                        listen_port=port, public_key="k", egress=said,
                    ).wire()},
                },
            }
        )  # fmt: skip
        items = [item for item in lower(Here.of(workload, workload.spec.part, facts)).items if not isinstance(item, WireGuard)]
        of = {item.key: next(driver for driver in self._drivers if isinstance(item, driver.ITEMS)) for item in items}
        seen = {
            key: thing
            for driver in self._drivers
            for key, thing in (await driver.observe([item for item in items if isinstance(item, driver.ITEMS)])).items()
            if key in of
        }
        ops = {op.key: op for op in diff(items, seen)}
        plan = schedule(ops.values(), {item.key: item for item in items}, seen)
        done: set[str] = set()
        while ready := [key for key, needs in plan.after.items() if key not in done and needs <= done]:
            for key in ready:
                await of[key].apply(ops[key])
            done |= set(ready)
        assert done == ops.keys()

    async def close(self) -> None:
        for driver in (*self._drivers, self.prefixes, self.way_out):
            await driver.close()


async def at(space: str, call: Callable[[], T]) -> T:
    return await netns.inside(space, call)


async def listening(space: str, address: str, port: int, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
    sock = await at(space, lambda: socket.socket(socket.AF_INET, kind))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((address, port))
    if kind is socket.SOCK_STREAM:
        sock.listen()
    sock.settimeout(2)
    return sock


async def connect(address: str, port: int = 80) -> socket.socket | str:
    """A connection of the guest, or why there is none: ``rejected`` or ``silence``."""

    def call() -> socket.socket | str:
        sock = socket.socket()
        sock.settimeout(1.5)  # a SYN that was lost on a busy machine is sent again after a second
        try:
            sock.connect((address, port))
        except TimeoutError:
            sock.close()
            return "silence"
        except OSError as error:
            sock.close()
            return "rejected" if error.errno in (errno.EHOSTUNREACH, errno.EACCES) else errno.errorcode[error.errno or 0]
        return sock

    return await at(GUEST, call)


async def reached(*addresses: str, port: int = 80) -> dict[str, str]:
    found: dict[str, str] = {}
    for address in addresses:
        answer = await connect(address, port)
        found[address] = "closed" if isinstance(answer, str) else "open"
        if not isinstance(answer, str):
            answer.close()
    return found


@pytest.fixture
async def node(tmp_path: Path, elsewhere: None) -> AsyncIterator[Node]:
    for space in (GUEST, *PLACES):
        sh(f"ip netns add {space}; ip -n {space} link set lo up")
    made = Node(tmp_path)
    opened: list[socket.socket] = []
    try:
        sh(
            "ip link set lo up; "
            f"ip link add lan0 type veth peer name eth0 netns {HOME}; ip link add br-public type bridge; "
            f"ip link add pub0 type veth peer name eth0 netns {SEGMENT}; ip link set pub0 master br-public up; "
            f"ip link set lan0 up; ip addr add {NODE_LAN}/24 dev lan0; ip -6 addr add 2001:db8:77::13/64 dev lan0 nodad; "
            f"ip link set br-public up; ip addr add {NODE_PUBLIC}/28 dev br-public; "
            f"ip route add default via {ROUTER}; ip route add 169.254.169.254 dev lan0; "
            f"ip -n {HOME} link add far type veth peer name eth0 netns {WORLD}; ip -n {HOME} addr add 192.0.2.1/24 dev far; "
            f"ip -n {HOME} link set far up; ip netns exec {HOME} sysctl -qw net.ipv4.ip_forward=1; "
            f"ip -n {HOME} route add 198.51.100.0/24 via 192.0.2.10 onlink dev far"
        )
        for space, addresses in PLACES.items():
            sh(f"ip -n {space} link set eth0 up")
            for number, address in enumerate(addresses):
                length = {HOME: 24, SEGMENT: 28, WORLD: 24}[space] if number == 0 else 32
                sh(f"ip -n {space} addr add {address}/{length} dev eth0")
                opened.append(await listening(space, address, 80))
        sh(f"ip -n {WORLD} route add default via 192.0.2.1")
        for space in (GUEST, *PLACES):
            sh(f"ip netns exec {space} sysctl -qw net.ipv4.conf.all.rp_filter=0")
        await made.network(SAID, await made.facts())
        router = names.router(UID)
        sh(
            f"ip -n {router} link add t0 type veth peer name eth0 netns {GUEST}; ip -n {router} link set t0 master lan up; "
            f"ip -n {GUEST} addr add 10.20.4.2/24 dev eth0; ip -n {GUEST} link set eth0 up; "
            f"ip -n {GUEST} route add default via 10.20.4.1"
        )
        yield made
    finally:
        for sock in opened:
            sock.close()
        await made.close()
        for space in (GUEST, *PLACES, names.router(UID), names.router(OTHER)):
            subprocess.run(["ip", "netns", "del", space], stderr=subprocess.DEVNULL)


async def test_closed_is_what_only_the_node_should_reach(node: Node) -> None:
    assert set(networks(node.prefixes) or ()) == {"192.168.77.0/24", "203.0.113.16/28"}  # no uplinks, no single hosts
    assert await reached("192.0.2.10", "198.51.100.7", "203.0.113.18") == {
        "192.0.2.10": "open",
        "198.51.100.7": "open",  # the internet
        "203.0.113.18": "open",  # a machine of the farm on whose segment the node has an address
    }
    closed = (ROUTER, "192.168.77.99", "169.254.169.254", "203.0.113.17", "203.0.113.21", NODE_LAN, NODE_PUBLIC)
    assert await connect(ROUTER) == "rejected"  # it is told, as often as the kernel's limit on such answers lets
    assert set((await reached(*closed)).values()) == {"closed"}
    # As the node everything is reached: it is the guest that is held.
    for address in closed[:3]:
        with socket.create_connection((address, 80), timeout=2):
            pass


async def test_what_the_guest_sends_comes_from_the_node(node: Node) -> None:
    world = await listening(WORLD, "192.0.2.10", 81)
    connection = await connect("192.0.2.10", 81)
    assert not isinstance(connection, str)
    with world, connection:
        peer, (source, _) = world.accept()
        peer.close()
        assert source == NODE_LAN


async def test_nothing_comes_into_the_node_itself(node: Node) -> None:
    """Whatever address it is asked at, those of other routers' uplinks and IPv6 included."""
    facts = await node.facts()
    await node.network(EgressOnNode(), facts, OTHER, port=52008)
    near = {line.split()[3].split("/")[0] for line in sh("ip -o -4 addr show").splitlines() if " u-" in line}
    assert len(near) == 2
    wide = EgressOnNode(allow=("0.0.0.0/0",))  # even so
    await node.network(wide, facts)
    listening_everywhere = await listening("", "0.0.0.0", 80)
    with listening_everywhere:
        assert set((await reached(NODE_LAN, NODE_PUBLIC, *near)).values()) == {"closed"}
    router = names.router(UID)
    link = sh(f"ip -o -6 addr show dev {names.uplink(UID)}").split()[3].split("/")[0]
    sh(
        f"ip netns exec {router} nft flush ruleset; ip -n {router} -6 route add default via {link} dev wan"
    )  # somebody else's router

    def call(target: str) -> str:
        try:
            socket.create_connection((target, 80), timeout=0.7).close()
        except OSError as error:
            return type(error).__name__
        return "open"

    targets = (f"{link}%wan", "2001:db8:77::13")
    with socket.create_server(("::", 80), family=socket.AF_INET6):
        for target in targets:
            assert await at(router, lambda target=target: call(target)) != "open"  # type: ignore[misc]
        sh("nft flush ruleset")
        found = [await at(router, lambda target=target: call(target)) for target in targets]  # type: ignore[misc]
        assert found[0] == "open", "the test proves nothing: without the rules it is not reached either"


async def test_an_administrator_closes_and_opens_while_it_runs(node: Node) -> None:
    facts = await node.facts(egress_deny=("10.244.0.0/16",))
    world = await listening(WORLD, "192.0.2.10", 81)
    connection = await connect("192.0.2.10", 81)
    assert not isinstance(connection, str)
    assert await reached("10.244.1.5") == {"10.244.1.5": "open"}
    said = SAID.model_copy(update={"deny": ("192.0.2.0/24",), "allow": ("192.168.77.99/32", "10.244.1.5/32", "192.0.2.77/32")})
    with world, connection:
        peer, _ = world.accept()
        with peer:
            peer.settimeout(0.5)
            await node.network(said.model_copy(update={"allow": ("192.168.77.99/32",)}), facts)
            assert await reached("192.0.2.10", "198.51.100.7", "192.168.77.99", ROUTER, "10.244.1.5") == {
                "192.0.2.10": "closed",
                "198.51.100.7": "open",
                "192.168.77.99": "open",
                ROUTER: "closed",
                "10.244.1.5": "closed",
            }
            with contextlib.suppress(OSError):
                connection.send(b"late")
            with pytest.raises(TimeoutError):  # closed for those who were connected, too
                peer.recv(10)
            await node.network(said, facts)
            assert await reached("10.244.1.5", "192.0.2.10") == {"10.244.1.5": "open", "192.0.2.10": "closed"}
            await node.network(SAID, facts)
            peer.settimeout(5)
            assert peer.recv(10) == b"late"


async def test_a_name_server_in_a_closed_range_answers_and_does_nothing_else(node: Node) -> None:
    facts = await node.facts(nameservers=(ROUTER, NODE_LAN))
    await node.network(SAID, facts)
    stream = await listening(HOME, ROUTER, 53)
    datagram = await listening(HOME, ROUTER, 53, socket.SOCK_DGRAM)
    own, other = await listening("", NODE_LAN, 53), await listening("", NODE_LAN, 80)
    asking = await at(GUEST, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with stream, datagram, own, other, asking:
        assert await reached(ROUTER, NODE_LAN, port=53) == {ROUTER: "open", NODE_LAN: "open"}
        assert await reached(ROUTER, NODE_LAN, "192.168.77.99") == dict.fromkeys((ROUTER, NODE_LAN, "192.168.77.99"), "closed")
        asking.settimeout(2)
        asking.sendto(b"name?", (ROUTER, 53))
        question, who = datagram.recvfrom(100)
        datagram.sendto(question, who)
        assert asking.recv(100) == b"name?"


async def test_what_runs_in_the_network_itself_is_held_the_same(node: Node) -> None:
    """In the router, where services of the network are."""
    router = names.router(UID)

    def call(address: str) -> str:
        try:
            socket.create_connection((address, 80), timeout=0.7).close()
        except OSError as error:
            return type(error).__name__
        return "open"

    assert await at(router, lambda: call("192.0.2.10")) == "open"
    for address in (ROUTER, "169.254.169.254", NODE_LAN):
        assert await at(router, lambda address=address: call(address)) != "open"  # type: ignore[misc]


async def test_the_node_gets_another_network(node: Node) -> None:
    told = asyncio.Event()
    node.prefixes.watch(told.set)
    before = networks(node.prefixes)
    sh("ip addr add 192.0.2.99/28 dev lan0")
    async with asyncio.timeout(5):
        await told.wait()
    facts = await node.facts()
    assert facts.connected() == ("192.0.2.96/28", *(before or ()))
    sh(f"ip -n {HOME} addr add 192.0.2.100/32 dev eth0; ip -n {HOME} route add 192.0.2.99 dev eth0")
    with await listening(HOME, "192.0.2.100", 80):
        assert await reached("192.0.2.100") == {"192.0.2.100": "open"}  # the rules don't know yet
        await node.network(SAID, facts)
        assert await reached("192.0.2.100", "192.0.2.10") == {"192.0.2.100": "closed", "192.0.2.10": "open"}
    sh(
        "ip addr add 10.9.9.9 peer 10.9.8.8/32 dev lan0; ip route add 10.7.0.0/16 dev lan0; ip route add 10.8.0.0/16 via "
        + ROUTER
    )
    sh("ip route add 0.0.0.0/1 dev lan0")  # a way to the world
    assert (await node.facts()).connected() == ("10.7.0.0/16", "10.9.8.8/32", "10.9.9.9/32", *facts.connected())


def forward(*rules: str, family: str = "inet", policy: str = "drop") -> None:
    chain = f"chain FORWARD {{ type filter hook forward priority 0; policy {policy}; {'; '.join(rules)}; }};"
    subprocess.run(["nft", "-f", "-"], input=f"table {family} theirs {{ {chain} }}\n", text=True, check=True)


@pytest.mark.parametrize(
    ("family", "policy", "rules", "told"),
    [
        ("inet", "drop", (), "inet theirs FORWARD (policy drop)"),
        ("ip", "drop", (), "ip theirs FORWARD (policy drop)"),
        ("inet", "accept", ('iifname "u-*" drop',), "a rule of it"),
        ("inet", "accept", ('iifname "u-*" reject',), "a rule of it"),
        ("inet", "drop", ('iifname "u-*" accept', 'oifname "u-*" ct state established,related accept'), None),
        ("inet", "drop", ("tcp dport { 80, 443 } accept", "ct state established accept"), None),
        ("ip6", "drop", (), None),
        ("bridge", "drop", (), None),
    ],
)
async def test_what_stops_guests_in_the_nodes_own_firewall_is_told(
    node: Node, family: str, policy: str, rules: tuple[str, ...], told: str | None
) -> None:
    router = names.router(UID)
    await node.way_out.look()
    assert shut_by(node.way_out) == {}
    forward(*rules, family=family, policy=policy)
    assert await reached("192.0.2.10") == {"192.0.2.10": "closed" if told else "open"}
    await node.way_out.look()
    assert shut_by(node.way_out) == ({router: told} if told else {})
    sh(f"nft delete table {family} theirs")
    await node.way_out.look()
    assert shut_by(node.way_out) == {}


async def test_the_question_never_leaves_the_node(node: Node) -> None:
    """Nor is it asked where it is closed, or where there is no way."""
    heard = await at(HOME, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800)))
    heard.settimeout(0.5)
    with heard:
        await node.way_out.look()
        with contextlib.suppress(TimeoutError):
            while True:
                assert b"\x01\x01\x01\x01" not in heard.recv(2048)
    forward()
    await node.network(SAID.model_copy(update={"deny": ("0.0.0.0/0",)}), await node.facts())
    await node.way_out.look()
    assert shut_by(node.way_out) == {}
    await node.network(SAID, await node.facts())
    sh("ip route del default")
    await node.way_out.look()
    assert shut_by(node.way_out) == {}


def questions() -> int:
    """How often it was asked so far."""
    listed = json.loads(sh("nft -j list counters"))["nftables"]
    return int(sum(one["counter"]["packets"] for one in listed if one.get("counter", {}).get("name") == "probe-sent"))


async def test_a_firewall_that_changes_is_asked_soon_and_not_for_each_change(node: Node) -> None:
    changed = asyncio.Event()
    node.way_out.watch(changed.set)
    forward()
    async with asyncio.timeout(30):
        await changed.wait()
    assert names.router(UID) in shut_by(node.way_out)
    changed.clear()
    before, began = questions(), time.monotonic()
    for number in range(50):
        sh(f"nft add table inet more{number}")
        await asyncio.sleep(0.05)
    sh("nft delete table inet theirs")
    async with asyncio.timeout(30):  # one that asked before it is told of too, if it got another answer than the last
        while shut_by(node.way_out):
            changed.clear()
            await changed.wait()
    assert 0 < questions() - before <= 2 + (time.monotonic() - began) / wayout.PAUSE


async def test_a_change_that_nobody_tells_of_is_found_at_the_resync(node: Node) -> None:
    changed = asyncio.Event()
    node.way_out.watch(changed.set)
    for forwards, shut in (("0", True), ("1", False)):
        await node.way_out.observe([])
        await asyncio.sleep(3)
        assert not changed.is_set()
        sh(f"sysctl -qw net.ipv4.ip_forward={forwards}")
        await node.way_out.observe([])
        async with asyncio.timeout(30):
            await changed.wait()
        assert (names.router(UID) in shut_by(node.way_out)) == shut
        changed.clear()
