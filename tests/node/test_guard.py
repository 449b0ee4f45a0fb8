"""What a machine's guard lets out, frame by frame, in the real kernel: an attacker and its neighbours at one bridge."""

from __future__ import annotations

import asyncio
import json
import os
import select
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from ipaddress import IPv6Network
from pathlib import Path
from typing import TypeVar

import pytest

import frames
from frames import BROADCAST, Party
from harness import until
from zos.api.publicip import slaac
from zos.drivers import netns
from zos.drivers.devices import GROUP_FORWARD
from zos.plan import guard

T = TypeVar("T")
Wires = tuple[socket.socket, socket.socket]
NODE, OWN, OTHER, HOST = (f"zos-guard-{os.getpid()}-{part}" for part in ("node", "own", "other", "host"))
PREFIX = IPv6Network("2001:db8:77::/64")
LINK = IPv6Network("fe80::/64")
MAC, NEIGHBOUR_MAC, HOST_MAC = "02:00:00:00:00:0a", "02:00:00:00:00:0b", "02:00:00:00:00:0c"
IP, NEIGHBOUR, HOST_IP = "203.0.113.18", "203.0.113.19", "203.0.113.17"
IP6, NEIGHBOUR6, HOST6 = (str(slaac(PREFIX, mac)) for mac in (MAC, NEIGHBOUR_MAC, HOST_MAC))
LL, NEIGHBOUR_LL = str(slaac(LINK, MAC)), str(slaac(LINK, NEIGHBOUR_MAC))
LLDP = "01:80:c2:00:00:0e"
#: IPv6 of a public tap; a private one has none.
PUBLIC, PRIVATE = IP6, None


def sh(command: str) -> str:
    done = subprocess.run(["sh", "-ec", command], capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stderr}"
    return done.stdout


def inside(space: str, call: Callable[[], T]) -> T:
    return asyncio.run(netns.inside(space, call))


def protect(ipv4: str | None, ipv6: str | None) -> None:
    table = f"table bridge zos-guard {{{guard.body('tap', MAC, ipv4, ipv6)}\n}}\n"
    script = f"table bridge zos-guard\ndelete table bridge zos-guard\n{table}"
    subprocess.run(["ip", "netns", "exec", NODE, "nft", "-f", "-"], input=script, text=True, check=True)


def unprotect() -> None:
    sh(f"ip netns exec {NODE} nft flush ruleset; ip -n {NODE} link set br0 type bridge fdb_flush")


@pytest.fixture(scope="module")
def wires() -> Iterator[Wires]:
    """The attacker's and the neighbour's raw socket; neither kernel says anything by itself. A third one is a host as any
    other, the segment's router for example."""
    for space in (NODE, OWN, OTHER, HOST):
        sh(f"ip netns add {space}; ip netns exec {space} sysctl -qw net.ipv6.conf.default.disable_ipv6=1")
    sh(
        f"ip -n {NODE} link add br0 type bridge mcast_snooping 0; ip -n {NODE} link set br0 up; "
        f"ip -n {NODE} link add tap type veth peer name eth0 netns {OWN}; "
        f"ip -n {NODE} link add tap2 type veth peer name eth0 netns {OTHER}; "
        f"ip -n {NODE} link add tap3 type veth peer name eth0 netns {HOST}; "
        f"for tap in tap tap2 tap3; do ip -n {NODE} link set $tap master br0 up; done; "
        f"ip -n {OWN} link set eth0 address {MAC} up; ip -n {OTHER} link set eth0 up; "
        f"ip -n {HOST} link set eth0 address {HOST_MAC} up; ip -n {HOST} addr add {HOST_IP}/28 dev eth0; "
        f"ip netns exec {HOST} sysctl -qw net.ipv6.conf.eth0.disable_ipv6=0 net.ipv6.conf.eth0.accept_ra=1"
    )
    until(lambda: "tentative" not in sh(f"ip -n {HOST} -6 addr show dev eth0 scope link"), 10)
    sh(f"ip -n {HOST} addr add {HOST6}/64 dev eth0 nodad")

    def open_() -> socket.socket:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**22)
        sock.bind(("eth0", 0))
        return sock

    own, other = inside(OWN, open_), inside(OTHER, open_)
    yield own, other
    own.close()
    other.close()
    for space in (NODE, OWN, OTHER, HOST):
        sh(f"ip netns del {space}")


@pytest.fixture(params=[False, True], ids=["", "br_netfilter"])
def br_netfilter(request: pytest.FixtureRequest, wires: Wires) -> Iterator[None]:
    """With and without the kernel's IP hooks on bridges (and defragmentation there)."""
    if request.param and not Path("/proc/sys/net/bridge").exists():
        pytest.fail("no br_netfilter in this kernel: modprobe br_netfilter")
    for family in ("iptables", "ip6tables"):
        sh(f"ip netns exec {NODE} sysctl -qw net.bridge.bridge-nf-call-{family}={int(request.param)}")
    yield
    for family in ("iptables", "ip6tables"):
        sh(f"ip netns exec {NODE} sysctl -qw net.bridge.bridge-nf-call-{family}=0")


OWN_SIDE, OTHER_SIDE = Party(MAC, IP, IP6, LL), Party(NEIGHBOUR_MAC, NEIGHBOUR, NEIGHBOUR6, NEIGHBOUR_LL)
HONEST, FORGED = frames.honest(OWN_SIDE, OTHER_SIDE), frames.forged(OWN_SIDE, OTHER_SIDE)


def heard(wires: Wires, sent: Mapping[str, bytes]) -> set[str]:
    """Which of some frames the neighbour gets, before a frame that it gets for sure."""
    own, other = wires
    end = frames.udp4(MAC, BROADCAST, IP, NEIGHBOUR, 9, 9, os.urandom(40))
    for frame in sent.values():
        foreign = frame[6:12] != end[6:12]  # a bridge that learned the neighbour's MAC here sends nothing to the neighbour
        own.send(frame)
        if foreign:
            sh(f"ip -n {NODE} link set br0 type bridge fdb_flush")
    own.send(end)
    other.settimeout(2)
    got: set[bytes] = set()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        seen = other.recv(2048)
        if seen == end:
            untagged = {what: frame[:12] + frame[16:] for what, frame in sent.items()}  # the kernel shows a VLAN's tag apart
            return {what for what, frame in sent.items() if frames.trimmed(frame) in got or untagged[what] in got}
        got |= {seen, frames.trimmed(seen)}
    raise AssertionError("the last frame did not arrive")


@pytest.mark.usefixtures("br_netfilter")
def test_its_own_goes_out(wires: Wires) -> None:
    protect(IP, PUBLIC)
    assert heard(wires, HONEST) == set(HONEST)


@pytest.mark.usefixtures("br_netfilter")
@pytest.mark.parametrize("ipv6", [PUBLIC, PRIVATE], ids=["public", "private"])
def test_nothing_forged_goes_out(wires: Wires, ipv6: str | None) -> None:
    protect(IP, ipv6)
    assert heard(wires, FORGED) == set()


def test_without_a_guard_all_of_it_would_be_heard(wires: Wires) -> None:
    unprotect()
    assert set(FORGED) - heard(wires, FORGED) == set()


def test_without_an_address_of_a_family_nothing_of_that_family(wires: Wires) -> None:
    protect(IP, None)
    assert heard(wires, HONEST) == set(frames.honest4(OWN_SIDE, OTHER_SIDE))
    protect(None, IP6)
    own = frames.honest6(OWN_SIDE, OTHER_SIDE)
    sh(f"ip netns exec {NODE} nft insert rule bridge zos-guard machine udp dport 9 accept")  # the last frame, which is IPv4
    assert heard(wires, own | {"": HONEST["answers for itself"]}) == set(own)


def beliefs() -> object:
    """What the host thinks of its segment: where others are, who routes, which addresses are its own."""
    known = {
        entry["dst"]: entry.get("lladdr")
        for entry in json.loads(sh(f"ip -n {HOST} -json neigh show dev eth0"))
        if entry["dst"] not in (IP, IP6, LL) and not entry["dst"].startswith("ff")
    }
    addresses = sorted(
        info["local"] for info in json.loads(sh(f"ip -n {HOST} -json addr show dev eth0"))[0]["addr_info"] if "local" in info
    )
    return known, addresses, sh(f"ip -n {HOST} -6 route show proto ra").splitlines()


@pytest.mark.parametrize("ipv6", [PUBLIC, PRIVATE], ids=["public", "private"])
def test_a_host_believes_nothing_of_it(wires: Wires, ipv6: str | None) -> None:
    own, _ = wires
    for address in (NEIGHBOUR, NEIGHBOUR6, NEIGHBOUR_LL):
        sh(f"ip -n {HOST} neigh replace {address} lladdr {NEIGHBOUR_MAC} dev eth0 nud reachable")
    sh(f"ip -n {HOST} -6 route flush proto ra")
    before = beliefs()
    protect(IP, ipv6)
    heard(wires, FORGED)
    assert beliefs() == before
    unprotect()
    for what in ("an advertisement of a neighbour", "a router advertisement"):
        own.send(FORGED[what])
    known, _, routes = until(lambda: now if (now := beliefs()) != before and now[2] else None, 10, "it believes")
    assert (known[NEIGHBOUR6], bool(routes)) == (MAC, True), "the test proves nothing: it believes nothing anyway"
    sh(f"ip -n {HOST} addr flush dev eth0 dynamic")


def test_a_real_machine_is_not_hindered(wires: Wires) -> None:
    """Its kernel speaks by itself: duplicate address detection, a router's advertisement, resolving both ways, connections."""
    _, other = wires
    protect(IP, IP6)
    while _readable(other):
        other.recv(2048)
    settings = "accept_ra=1 autoconf=1 router_solicitation_delay=0"
    sh(
        f"ip -n {OWN} addr add {IP}/28 dev eth0; ip netns exec {OWN} sysctl -qw "
        + " ".join(f"net.ipv6.conf.eth0.{setting}" for setting in settings.split())
        + "; "
        f"ip netns exec {OWN} sysctl -qw net.ipv6.conf.eth0.disable_ipv6=0"
    )
    try:
        said = set()

        def solicited() -> bool:
            while _readable(other):
                frame = other.recv(2048)
                if frame[6:12] == bytes.fromhex(MAC.replace(":", "")) and frame[12:14] == b"\x86\xdd":
                    said.add(frame[62] if frame[20] == 0 else frame[54])
            return {133, 135, 143} <= said

        until(solicited, 15, "router solicitation, detection of duplicates, report of listening")
        other.send(frames.router_advert(NEIGHBOUR_MAC, "33:33:00:00:00:01", NEIGHBOUR_LL, str(PREFIX.network_address)))
        shown = f"ip -n {OWN} -6 addr show dev eth0 -tentative"
        until(lambda: IP6 in sh(shown) and LL in sh(shown), 10, "it takes its address")
        for target in (HOST_IP, HOST6):
            sh(f"ip netns exec {OWN} ping -c 1 -W 2 {target}")
        sh(f"ip -n {HOST} neigh flush dev eth0; ip netns exec {OWN} ping -c 1 -W 2 -s 4000 {HOST_IP}")
        for target in (IP, IP6):
            sh(f"ip -n {HOST} neigh flush dev eth0; ip netns exec {HOST} ping -c 1 -W 2 {target}")
        for target in (HOST_IP, HOST6):
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                _exchange(target, kind)
    finally:
        sh(f"ip netns exec {OWN} sysctl -qw net.ipv6.conf.eth0.disable_ipv6=1; ip -n {OWN} addr flush dev eth0")


def _readable(sock: socket.socket) -> bool:
    return bool(select.select([sock], [], [], 0)[0])


def _exchange(target: str, kind: socket.SocketKind) -> None:
    """A word from the machine to the host and back."""
    family = socket.AF_INET6 if ":" in target else socket.AF_INET
    serving, calling = inside(HOST, lambda: socket.socket(family, kind)), inside(OWN, lambda: socket.socket(family, kind))
    with serving, calling:
        serving.settimeout(3)
        calling.settimeout(3)
        serving.bind((target, 7000))
        if kind is socket.SOCK_DGRAM:
            calling.sendto(b"word", (target, 7000))
            word, sender = serving.recvfrom(100)
            serving.sendto(word, sender)
            assert calling.recv(100) == b"word"
            return
        serving.listen()
        calling.connect((target, 7000))
        with serving.accept()[0] as connection:
            calling.sendall(b"word")
            connection.sendall(connection.recv(100))
            assert calling.recv(100) == b"word"


def test_a_bridge_does_not_learn_a_neighbours_mac_from_a_forged_frame(wires: Wires) -> None:
    """The bridge keeps LLDP frames, but learns from them."""
    own, _ = wires

    def port() -> str:
        own.send(frames.ethernet(NEIGHBOUR_MAC, LLDP, 0x88CC, b"x" * 46))
        time.sleep(0.1)
        found = [line for line in sh(f"bridge -n {NODE} fdb show br br0").splitlines() if line.startswith(NEIGHBOUR_MAC)]
        sh(f"ip -n {NODE} link set br0 type bridge fdb_flush")
        return " ".join(found)

    unprotect()
    sh(f"ip -n {NODE} link set tap type bridge_slave group_fwd_mask {GROUP_FORWARD:#x}")  # as the link driver does
    assert "dev tap " in port(), "the test proves nothing: without a guard it learns nothing either"
    protect(IP, IP6)
    assert port() == ""
