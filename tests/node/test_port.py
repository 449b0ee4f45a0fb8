"""Machines' ports in the real kernel: what guests say to each other and to their router is no affair of the node's firewall,
and never gets anywhere but through the guard, whatever is on its way to what."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import struct
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

import frames
from frames import BROADCAST
from harness import until
from known import facts
from zos.api import names
from zos.api.nodeworkload import Owner
from zos.drivers import Driver
from zos.drivers.firewall import FirewallDriver
from zos.drivers.link import LinkDriver
from zos.drivers.sysctl import SysctlDriver
from zos.kinds.kind import Here
from zos.kinds.network.lower import lower as network
from zos.kinds.network.part import NetworkOnNode
from zos.kinds.zmachine.lower import lower as machine
from zos.kinds.zmachine.part import MachineOnNode, Nic
from zos.plan import attachment, ownership
from zos.plan.diff import Op, diff
from zos.plan.facts import ImageFact
from zos.plan.items import Bridge, Firewall, Item, Netns, Sysctl, Tap, Veth
from zos.plan.order import schedule

UID = f"test-port-{os.getpid()}"
ROUTER, GATEWAY, NODE = names.router(UID), "10.20.4.1", "192.168.77.13"
#: What some kernels put into every namespace.
IDLE = {"ifb0", "ifb1", "tunl0", "sit0", "gre0", "gretap0", "erspan0", "ip6tnl0", "ip_vti0", "ip6_vti0"}
NOBODY = "02:00:00:00:00:ff"
#: As Docker, ufw and kubelets leave a node, in every family that can say it; and the kernel's switch for bridges on.
BLOCKED = "".join(
    f"table {family} theirs {{ chain forward {{ type filter hook forward priority 0; policy drop; }}; }}\n"
    for family in ("ip", "ip6", "inet", "bridge")
)


def sh(command: str) -> str:
    done = subprocess.run(["sh", "-ec", command], capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stderr}"
    return done.stdout


@dataclass
class Guest:
    """A machine's tap, held open as QEMU holds it, and what the machine says and hears there."""

    number: int
    fd: int = -1
    heard: list[bytes] = field(default_factory=list)

    @property
    def uid(self) -> str:
        return f"{UID}-vm{self.number}"

    @property
    def tap(self) -> str:
        return names.tap(self.uid)

    @property
    def mac(self) -> str:
        return f"02:00:00:00:00:0{self.number}"

    @property
    def ip(self) -> str:
        return f"10.20.4.{self.number + 1}"

    def hold(self) -> None:
        """Tap, no packet information, header of virtio (linux/if_tun.h), as libvirt opens it."""
        self.fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.ioctl(self.fd, 0x400454CA, struct.pack("16sH22x", self.tap.encode(), 0x0002 | 0x1000 | 0x4000))
        until(lambda: "LOWER_UP" in sh(f"ip link show {self.tap}") and "noop" not in sh(f"ip link show {self.tap}"), 5)

    def say(self, frame: bytes) -> None:
        with contextlib.suppress(OSError):  # the tap is down for a moment
            os.write(self.fd, bytes(10) + frame)

    def hears(self, words: bytes, seconds: float = 0.7) -> bytes | None:
        """The first frame with these bytes in it; what came before is in ``heard``."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if select.select([self.fd], [], [], left)[0]:
                with contextlib.suppress(BlockingIOError):
                    frame = os.read(self.fd, 4096)[10:]
                    self.heard.append(frame)
                    if words in frame:
                        return frame
        return None

    def tells(self, other: Guest) -> bool:
        words = os.urandom(20)
        self.say(frames.udp4(self.mac, other.mac, self.ip, other.ip, 5000, 5000, words))
        return other.hears(words) is not None

    def asks(self, address: str) -> str | None:
        """Whose address it is: the MAC that answers."""
        self.say(frames.arp(self.mac, 1, (self.mac, self.ip), ("00:00:00:00:00:00", address)))
        deadline = time.monotonic() + 0.7
        while (left := deadline - time.monotonic()) > 0:
            frame = self.hears(b"\x08\x06\x00\x01\x08\x00\x06\x04\x00\x02", left)
            if frame is not None and frame[28:32] == bytes(map(int, address.split("."))):
                return frame[6:12].hex(":")
        return None

    def reaches_router(self) -> bool:
        mac, words = self.asks(GATEWAY), os.urandom(20)
        if mac is None:
            return False
        self.say(frames.icmp4(self.mac, mac, self.ip, GATEWAY, 8, b"\0\0\0\1" + words))
        self.say(frames.arp(self.mac, 2, (self.mac, self.ip), (mac, GATEWAY), mac))
        return self.hears(words) is not None

    def forges(self) -> bytes:
        """Says what its guard must keep; the bytes to look for."""
        words = b"forged" + os.urandom(20)
        self.say(frames.udp4(NOBODY, BROADCAST, self.ip, "10.20.4.255", 5000, 5000, words))
        return words


GUESTS = Guest(1), Guest(2)


def network_items() -> list[Item]:
    part = NetworkOnNode(
        ip_range="10.20.0.0/16", mtu=1420, subnet="10.20.4.0/24", wireguard_address="100.64.20.4", listen_port=52007,
        public_key="k",
    )  # fmt: skip
    owner = Owner(kind="Network", namespace="default", name="net", uid=UID)
    items = network(Here(owner, "w-net", part, facts(prefixes=()))).items
    return [item for item in items if isinstance(item, Netns | Sysctl | Bridge | Veth | Firewall)]


def machine_items(guest: Guest) -> list[Item]:
    nic = Nic(network_uid=UID, ip=guest.ip, prefixlen=24, mac=guest.mac, mtu=1420, gateway=GATEWAY, ip_range="10.20.0.0/16")
    part = MachineOnNode(hostname="vm", image="oci://r/i:1", cpu=1, memory=2**28, root_size=2**29, nics=(nic,))
    owner = Owner(kind="ZMachine", namespace="default", name="vm", uid=guest.uid)
    image = ImageFact(digest="sha256:1", entrypoint=("/bin/app",))
    known = facts(images={"oci://r/i:1": image})
    items = machine(Here(owner, f"w-vm{guest.number}", part, known)).items
    return [item for item in items if isinstance(item, Tap | Veth | Firewall)]


def former_network() -> list[Item]:
    """As agents made it before: the bridge in the node's namespace."""
    kept = [item for item in network_items() if not (isinstance(item, Bridge) or item.key.startswith(f"sysctl/{ROUTER}/"))]
    switch = Bridge(owner="w-net", name=names.bridge(UID), mtu=1420)
    lan = Veth(
        owner="w-net", needs=(switch.key, f"netns/{ROUTER}"), name=names.way_in(switch.name), bridge=switch.name,
        peer_netns=ROUTER, peer_name="lan", mtu=1420, peer_addresses=(f"{GATEWAY}/24",),
    )  # fmt: skip
    return [*kept, switch, lan]


def former_machine(guest: Guest) -> list[Item]:
    bridge = names.bridge(UID)
    (rules,) = [item for item in machine_items(guest) if isinstance(item, Firewall)]
    rules = replace(rules, netns="", needs=())
    return [rules, Tap(owner=rules.owner, needs=(rules.key, f"link//{bridge}"), name=guest.tap, bridge=bridge, mtu=1420)]


class Node:
    """The test's own thread is on the node: what drivers do here, they do there."""

    def __init__(self, run: Path) -> None:
        self._drivers: tuple[Driver, ...] = (LinkDriver(), SysctlDriver(), FirewallDriver(run))
        self._of = dict(zip(("link", "sysctl", "firewall"), self._drivers, strict=True))

    async def converge(self, wanted: Sequence[Item], kept: Sequence[str] = ()) -> AsyncIterator[Op]:
        """One pass as the agent makes it, and each operation when it is done."""
        seen = {}
        for driver in self._drivers:
            seen |= await driver.observe([item for item in wanted if isinstance(item, driver.ITEMS)])
        ops = diff(wanted, seen, kept=lambda owner: owner in kept)
        spared, _ = ownership.spared(ops, seen)
        by_key = {op.key: op for op in spared}
        plan = schedule(spared, {item.key: item for item in wanted}, seen)
        assert not plan.blocked, plan.blocked
        assert not plan.cycles, plan.cycles
        done: set[str] = set()
        while ready := sorted(key for key, needs in plan.after.items() if key not in done and needs <= done):
            for key in ready:
                op = by_key[key]
                await self._of.get(key.partition("/")[0], self._drivers[0]).apply(op)
                yield op
            done |= set(ready)

    async def settle(self, wanted: Sequence[Item], kept: Sequence[str] = ()) -> None:
        for _ in range(4):
            if not [op async for op in self.converge(wanted, kept)]:
                return
        raise AssertionError("it never settles")

    async def close(self) -> None:
        for driver in self._drivers:
            await driver.close()


@pytest.fixture
async def node(tmp_path: Path, elsewhere: None) -> AsyncIterator[Node]:
    made = Node(tmp_path)
    try:
        sh(f"ip link set lo up; ip addr add {NODE}/32 dev lo; ip link add up0 type veth peer name up1; ip link set up0 up")
        sh("ip route add default dev up0; sysctl -qw net.ipv4.conf.all.rp_filter=0")  # as lax as can be
        yield made
    finally:
        await made.close()
        for guest in GUESTS:
            if guest.fd >= 0:
                os.close(guest.fd)
                guest.fd = -1
            guest.heard.clear()
        subprocess.run(["ip", "netns", "del", ROUTER], stderr=subprocess.DEVNULL)


@pytest.fixture
def everything() -> list[Item]:
    return [*network_items(), *(item for guest in GUESTS for item in machine_items(guest))]


def block() -> None:
    subprocess.run(["nft", "-f", "-"], input=BLOCKED, text=True, check=True)
    if Path("/proc/sys/net/bridge").exists():
        sh("sysctl -qw net.bridge.bridge-nf-call-iptables=1 net.bridge.bridge-nf-call-ip6tables=1")


def links() -> set[str]:
    return {name for line in sh("ip -br link").splitlines() if (name := line.split()[0].partition("@")[0]) not in IDLE}


def all_works() -> bool:
    one, two = GUESTS
    return one.reaches_router() and two.reaches_router() and one.tells(two) and two.tells(one)


async def test_the_nodes_firewall_is_not_asked(node: Node, everything: list[Item]) -> None:
    await node.settle(everything)
    for guest in GUESTS:
        guest.hold()
    assert all_works()
    block()
    assert all_works()
    assert sh(f"ip netns exec {ROUTER} sh -c 'cat /proc/sys/net/bridge/bridge-nf-call-iptables 2>/dev/null || echo 0'") == "0\n"


async def test_on_a_bridge_of_the_nodes_it_would_be(node: Node) -> None:
    await node.settle([*former_network(), *(item for guest in GUESTS for item in former_machine(guest))])
    for guest in GUESTS:
        guest.hold()
    assert all_works()
    block()
    assert not any((GUESTS[0].reaches_router(), GUESTS[0].tells(GUESTS[1])))


@contextlib.contextmanager
def talking(guest: Guest) -> Iterator[list[bytes]]:
    """A guest that says one thing all the time that its guard must keep."""
    words: list[bytes] = []
    over = threading.Event()

    def talk() -> None:
        while not over.wait(0.0005):
            words.append(guest.forges())

    thread = threading.Thread(target=talk)
    thread.start()
    try:
        yield words
    finally:
        over.set()
        thread.join()


async def test_guests_of_an_older_agent_are_taken_over_as_they_run(node: Node, everything: list[Item]) -> None:
    one, two = GUESTS
    await node.settle([*former_network(), *(item for guest in GUESTS for item in former_machine(guest))])
    for guest in GUESTS:
        guest.hold()
    assert all_works()
    gateway = one.asks(GATEWAY)
    two.heard.clear()
    with talking(one) as forged:
        async for _ in node.converge(everything):
            if names.bridge(UID) not in links():  # where the node itself hears guests
                assert one.asks(NODE) is None, "the node's own stack heard a guest"
            two.hears(b"nothing", 0.02)
        await node.settle(everything)
        two.hears(b"nothing", 0.1)
    assert len(forged) > 100
    assert not [frame for frame in two.heard if b"forged" in frame]
    assert one.asks(GATEWAY) == two.asks(GATEWAY) == gateway, "guests know the router by another MAC"
    block()
    assert all_works()
    assert not [name for name in links() if name.startswith(("b-", "l-"))]
    assert "lan-former" not in sh(f"ip -n {ROUTER} link")
    assert "table bridge zos-" not in sh("nft list tables")


async def test_where_a_pass_breaks_off_nothing_is_unguarded_and_most_works(node: Node, everything: list[Item]) -> None:
    one, two = GUESTS
    await node.settle([*former_network(), *(item for guest in GUESTS for item in former_machine(guest))])
    for guest in GUESTS:
        guest.hold()
    seen: set[tuple[bool, ...]] = set()
    while await _one(node.converge(everything)):
        assert two.hears(one.forges(), 0.05) is None
        assert all_works()
        seen.add(tuple(name in links() for name in (names.bridge(UID), names.wire(one.uid), names.wire(two.uid))))
    assert len(seen) > 3
    assert one.asks(NODE) is None


async def _one(ops: AsyncIterator[Op]) -> bool:
    async for _ in ops:
        return True
    return False


async def test_a_machine_that_is_not_taken_over_yet_goes_on_among_the_others(node: Node, everything: list[Item]) -> None:
    """Nobody can tell what it wants: its image can't be looked at, say."""
    one, two = GUESTS
    await node.settle([*former_network(), *(item for guest in GUESTS for item in former_machine(guest))])
    for guest in GUESTS:
        guest.hold()
    gateway = one.asks(GATEWAY)
    known = [*network_items(), *machine_items(one)]
    await node.settle(known, kept=["w-vm2"])
    assert all_works()
    assert one.asks(GATEWAY) == two.asks(GATEWAY) == gateway
    words = two.forges()
    assert one.hears(words) is None
    await node.settle(everything)
    assert all_works()


@pytest.mark.parametrize(
    "harm",
    [
        "ip link del {wire}",
        "ip -n {router} link del {tap}",
        "ip -n {router} link del lan",
        "ip -n {router} link set {tap} nomaster",
        "ip -n {router} link set {tap} type bridge_slave group_fwd_mask 0",
        "ip netns del {router}",
        "ip link set {tap} down",
        "ip link set {wire} down",
        "ip link set {tap} mtu 1300",
        "ip link add other type bridge; ip link set other up; ip link set {tap} master other",
        "tc qdisc del dev {tap} ingress",
        "tc qdisc del dev {wire} ingress",
        "tc filter del dev {tap} ingress",
        "tc filter del dev {tap} ingress; tc filter add dev {tap} ingress protocol all u32 match u8 0 0 flowid 1:1",
        "nft flush ruleset",
    ],
)
async def test_each_part_heals_under_a_guest_that_runs(node: Node, everything: list[Item], harm: str) -> None:
    one, two = GUESTS
    await node.settle(everything)
    for guest in GUESTS:
        guest.hold()
    block()
    gateway = one.asks(GATEWAY)
    sh(harm.format(router=ROUTER, tap=one.tap, wire=names.wire(one.uid)))
    if "netns" in harm:
        wires = {names.wire(guest.uid) for guest in GUESTS}
        until(lambda: not wires & links(), 5)  # a deleted namespace dies a moment later, and its pairs with it
    for _ in range(3):
        assert one.asks(NODE) is None, "the node's own stack heard a guest"
        assert two.hears(one.forges(), 0.05) is None
    with talking(one):
        await node.settle(everything)
    until(all_works, 5)
    assert one.asks(GATEWAY) == gateway, "guests know the router by another MAC"
    assert not [frame for frame in two.heard if b"forged" in frame]


async def test_nothing_is_left_of_a_machine_and_of_its_network(node: Node, everything: list[Item]) -> None:
    await node.settle(everything)
    await node.settle([*network_items(), *machine_items(GUESTS[0])])
    assert GUESTS[1].tap not in sh(f"ip link; ip -n {ROUTER} link; ip netns exec {ROUTER} nft list tables")
    await node.settle([])
    assert links() == {"lo", "up0", "up1"}
    assert ROUTER not in sh("ip netns")


RESIDENT = Nic(
    network_uid=UID, ip="10.20.4.9", prefixlen=24, mac=names.mac("uid-resident"), mtu=1420, gateway=GATEWAY,
    ip_range="10.20.0.0/16",
)  # fmt: skip
ITS_SPACE = names.resident("uid-resident")


#: Accepts at ports, and sends back what comes there by UDP, until its standard input ends.
ANSWERING = """
import select, socket, sys
ports = [int(port) for port in sys.argv[1:]]
accepting = [socket.create_server(("0.0.0.0", port)) for port in ports]
heard = [socket.socket(type=socket.SOCK_DGRAM) for _ in ports]
for one, port in zip(heard, ports):
    one.bind(("0.0.0.0", port))
print("up", flush=True)
while sys.stdin not in (ready := select.select([sys.stdin, *heard], [], [])[0]):
    for one in ready:
        one.sendto(*one.recvfrom(100))
"""
#: Ends well when somebody answers.
ASKING = {
    "tcp": "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=1)",
    "udp": "import socket, sys; one = socket.socket(type=socket.SOCK_DGRAM); one.settimeout(1); "
    "one.sendto(b'?', (sys.argv[1], int(sys.argv[2]))); one.recv(100)",
}


@contextlib.contextmanager
def serving(*ports: int) -> Iterator[None]:
    """Somebody answers at these ports in the resident's namespace, by TCP and by UDP."""
    command = ["ip", "netns", "exec", ITS_SPACE, sys.executable, "-c", ANSWERING, *map(str, ports)]
    program = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert program.stdout is not None
    assert program.stdout.readline() == b"up\n"
    try:
        yield
    finally:
        program.communicate()


def reached(port: int, protocol: str = "tcp") -> bool:
    """From the network's router."""
    command = ["ip", "netns", "exec", ROUTER, sys.executable, "-c", ASKING[protocol], RESIDENT.ip, str(port)]
    return subprocess.run(command, capture_output=True).returncode == 0


async def test_a_program_with_an_address_of_its_own_is_reached_at_what_it_serves(node: Node, everything: list[Item]) -> None:
    one = GUESTS[0]
    home = attachment.attached("uid-resident", "w-resident", RESIDENT, tcp=(9900, 9902), udp=(9901, 9902))
    await node.settle([*everything, *home])
    one.hold()
    with serving(9900, 9901, 9902):
        assert one.asks(RESIDENT.ip) == RESIDENT.mac
        found = {(port, protocol) for port in (9900, 9901, 9902) for protocol in ASKING if reached(port, protocol)}
        assert found == {(9900, "tcp"), (9901, "udp"), (9902, "tcp"), (9902, "udp")}, "what it serves, and no more"
    for harm in (
        f"ip -n {ITS_SPACE} link del eth0",
        f"ip -n {ITS_SPACE} link set eth0 address 02:00:00:00:00:99",
        f"ip -n {ITS_SPACE} addr flush dev eth0",
        f"ip netns exec {ITS_SPACE} nft flush ruleset",
        f"ip -n {ROUTER} link set {names.tap('uid-resident')} nomaster",
        f"ip netns del {ITS_SPACE}",
    ):
        sh(harm)
        if "netns del" in harm:
            until(lambda: names.tap("uid-resident") not in sh(f"ip -n {ROUTER} -br link"), 5)
        await node.settle([*everything, *home])
        with serving(9900, 9901):
            until(lambda: reached(9900), 5)
            assert not reached(9901), harm
    seen = [thing.item for thing in (await LinkDriver().observe(())).values() if isinstance(thing.item, Veth)]
    assert [(link.netns, link.held.macs) for link in seen if link.held.macs] == [(ITS_SPACE, (RESIDENT.mac,))], "unwanted, too"
    await node.settle(everything)
    assert names.tap("uid-resident") not in sh(f"ip -n {ROUTER} link; ip netns exec {ROUTER} nft list tables")
    assert ITS_SPACE not in sh("ip netns list")
