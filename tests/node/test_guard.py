"""What a machine's guard lets out, frame by frame, in the real kernel: an attacker and a neighbour at one bridge."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv6Network
from typing import TypeVar

import pytest

import frames
from frames import BROADCAST, Party
from zos.api.publicip import slaac
from zos.drivers import netns
from zos.drivers.link import GROUP_FORWARD
from zos.kinds.zmachine import guard

T = TypeVar("T")
NODE, OWN, OTHER = (f"zos-guard-{os.getpid()}-{part}" for part in ("node", "own", "other"))
PREFIX = IPv6Network("2001:db8:77::/64")
LINK = IPv6Network("fe80::/64")
MAC, NEIGHBOUR_MAC = "02:00:00:00:00:0a", "02:00:00:00:00:0b"
IP, NEIGHBOUR = "203.0.113.18", "203.0.113.19"
IP6, NEIGHBOUR6 = str(slaac(PREFIX, MAC)), str(slaac(PREFIX, NEIGHBOUR_MAC))
LL, NEIGHBOUR_LL = str(slaac(LINK, MAC)), str(slaac(LINK, NEIGHBOUR_MAC))
LLDP = "01:80:c2:00:00:0e"


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


@pytest.fixture(scope="module")
def wires() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The attacker's and the neighbour's raw socket; neither kernel says anything by itself."""
    for space in (NODE, OWN, OTHER):
        sh(f"ip netns add {space}; ip netns exec {space} sysctl -qw net.ipv6.conf.default.disable_ipv6=1")
    sh(
        f"ip -n {NODE} link add br0 type bridge mcast_snooping 0; ip -n {NODE} link set br0 up; "
        f"ip -n {NODE} link add tap type veth peer name eth0 netns {OWN}; "
        f"ip -n {NODE} link add tap2 type veth peer name eth0 netns {OTHER}; "
        f"ip -n {NODE} link set tap master br0 up; ip -n {NODE} link set tap2 master br0 up; "
        f"ip -n {OWN} link set eth0 up; ip -n {OTHER} link set eth0 up"
    )

    def open_() -> socket.socket:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        sock.bind(("eth0", 0))
        return sock

    own, other = inside(OWN, open_), inside(OTHER, open_)
    yield own, other
    own.close()
    other.close()
    for space in (NODE, OWN, OTHER):
        sh(f"ip netns del {space}")


OWN_SIDE, OTHER_SIDE = Party(MAC, IP, IP6, LL), Party(NEIGHBOUR_MAC, NEIGHBOUR, NEIGHBOUR6, NEIGHBOUR_LL)
HONEST, FORGED = frames.honest(OWN_SIDE, OTHER_SIDE), frames.forged(OWN_SIDE, OTHER_SIDE)


def heard(wires: tuple[socket.socket, socket.socket], frame: bytes) -> bool:
    """Whether the neighbour gets the frame, before a frame that it gets for sure."""
    own, other = wires
    sh(f"ip -n {NODE} link set br0 type bridge fdb_flush")
    end = frames.udp4(MAC, BROADCAST, IP, NEIGHBOUR, 9, 9, os.urandom(40))
    own.send(frame)
    own.send(end)
    other.settimeout(2)
    got = False
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        seen = other.recv(2048)
        if seen == end:
            return got
        got = got or seen in (frame, frame[:12] + frame[16:])  # the kernel shows a VLAN's tag apart
    raise AssertionError("the last frame did not arrive")


@pytest.mark.parametrize("what", HONEST)
def test_its_own_goes_out(wires: tuple[socket.socket, socket.socket], what: str) -> None:
    protect(IP, IP6)
    assert heard(wires, HONEST[what])


@pytest.mark.parametrize("what", FORGED)
def test_nothing_forged_goes_out(wires: tuple[socket.socket, socket.socket], what: str) -> None:
    sh(f"ip netns exec {NODE} nft flush ruleset")
    unguarded = heard(wires, FORGED[what])
    protect(IP, IP6)
    assert not heard(wires, FORGED[what])
    assert unguarded, "the test proves nothing: without a guard it is not heard either"


def test_without_an_address_of_a_family_nothing_of_that_family(wires: tuple[socket.socket, socket.socket]) -> None:
    protect(IP, None)
    assert heard(wires, HONEST["answers for itself"])
    for what in ("sends UDP over IPv6", "sends UDP on the link", "advertises itself", "solicits a router"):
        assert not heard(wires, HONEST[what])


def test_a_bridge_does_not_learn_a_neighbours_mac_from_a_forged_frame(wires: tuple[socket.socket, socket.socket]) -> None:
    """The bridge keeps LLDP frames, but learns from them."""
    own, _ = wires

    def port() -> str:
        own.send(frames.ethernet(NEIGHBOUR_MAC, LLDP, 0x88CC, b"x" * 46))
        time.sleep(0.1)
        found = [line for line in sh(f"bridge -n {NODE} fdb show br br0").splitlines() if line.startswith(NEIGHBOUR_MAC)]
        sh(f"ip -n {NODE} link set br0 type bridge fdb_flush")
        return " ".join(found)

    sh(f"ip netns exec {NODE} nft flush ruleset; ip -n {NODE} link set br0 type bridge fdb_flush")
    sh(f"ip -n {NODE} link set tap type bridge_slave group_fwd_mask {GROUP_FORWARD:#x}")  # as the link driver does
    assert "dev tap " in port(), "the test proves nothing: without a guard it learns nothing either"
    protect(IP, IP6)
    assert port() == ""
