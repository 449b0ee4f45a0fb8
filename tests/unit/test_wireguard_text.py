"""WireGuard in text: what wg(8) is told, and what it and wireguard-go tell."""

from __future__ import annotations

import base64
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from nacl.public import PrivateKey

from zos.drivers.wgtext import (
    LAUNCHER,
    Live,
    call,
    callable_peers,
    configuration,
    hang_up,
    parse_dump,
    parse_uapi,
    same_peers,
    setup,
    with_endpoints,
)
from zos.plan.items import WireGuard, WireGuardPeer


def key(letter: str) -> str:
    return base64.b64encode(letter.encode() * 32).decode()


def hexadecimal(letter: str) -> str:
    return (letter.encode() * 32).hex()


#: One that is called, one that calls us and has several ranges, one without any.
NAMED = WireGuardPeer(public_key=key("b"), endpoint="192.0.2.7:52000", allowed_ips=("10.1.2.0/24",), keepalive=20)
HIDDEN = WireGuardPeer(public_key=key("c"), allowed_ips=("10.1.3.0/24", "100.64.1.3/32"))
BARE = WireGuardPeer(public_key=key("d"))
ITEM = WireGuard(
    netns="r", name="w-1", public_key=key("a"), listen_port=52001, mtu=1420,
    addresses=("100.64.1.1/16", "fd00::1/64"), routes=("10.1.0.0/16", "10.9.0.0/24"), peers=(NAMED, HIDDEN, BARE),
)  # fmt: skip
LEARNED = {HIDDEN.public_key: "[2001:db8::9]:40000", NAMED.public_key: "203.0.113.9:1"}


def test_the_configuration() -> None:
    private = base64.b64encode(bytes(range(32))).decode()
    lines = configuration(ITEM, private, LEARNED).splitlines()
    assert lines[0] == "[Interface]"
    assert lines[2:] == [
        "ListenPort = 52001",
        "",
        "[Peer]",
        f"PublicKey = {NAMED.public_key}",
        "AllowedIPs = 10.1.2.0/24",
        "Endpoint = 192.0.2.7:52000",  # its own stands before what was learned
        "PersistentKeepalive = 20",
        "",
        "[Peer]",
        f"PublicKey = {HIDDEN.public_key}",
        "AllowedIPs = 10.1.3.0/24, 100.64.1.3/32",
        "Endpoint = [2001:db8::9]:40000",
        "PersistentKeepalive = 0",
        "",
        "[Peer]",
        f"PublicKey = {BARE.public_key}",
        "PersistentKeepalive = 0",
    ]


@pytest.mark.parametrize("raw", [bytes(32), b"\xff" * 32, bytes(range(32)), bytes(range(224, 256))])
def test_a_key_is_told_as_the_kernel_keeps_it(raw: bytes) -> None:
    told = configuration(ITEM, base64.b64encode(raw).decode(), {}).splitlines()[1].removeprefix("PrivateKey = ")
    clamped = base64.b64decode(told)
    # RFC 7748, section 5: the bits that don't count, and those that are set.
    assert (clamped[0] & 7, clamped[31] >> 6, clamped[1:31]) == (0, 1, raw[1:31])
    assert (clamped[0] ^ raw[0]) & 248 == (clamped[31] ^ raw[31]) & 63 == 0
    assert bytes(PrivateKey(clamped).public_key) == bytes(PrivateKey(raw).public_key)


def test_what_ip_is_told() -> None:
    assert setup(ITEM).splitlines() == [
        "address replace 100.64.1.1/16 dev w-1",
        "address replace fd00::1/64 dev w-1",
        "link set w-1 mtu 1420 up",
        "route replace 10.1.0.0/16 dev w-1 proto 123",
        "route replace 10.9.0.0/24 dev w-1 proto 123",
    ]


def test_who_can_be_called_and_where() -> None:
    assert callable_peers(ITEM, {}) == (NAMED,)
    assert callable_peers(ITEM, LEARNED) == (NAMED, replace(HIDDEN, endpoint="[2001:db8::9]:40000"))


def test_a_call_and_its_end() -> None:
    start = [
        "peer", NAMED.public_key, "endpoint", "192.0.2.7:52000", "persistent-keepalive", "1", "allowed-ips", "10.1.2.0/24",
    ]  # fmt: skip
    assert call(NAMED, again=False) == start
    assert call(NAMED, again=True) == ["peer", NAMED.public_key, "remove", *start]
    assert call(replace(HIDDEN, endpoint="x:1"), again=False)[-1] == "10.1.3.0/24,100.64.1.3/32"
    assert hang_up(NAMED) == ["peer", NAMED.public_key, "persistent-keepalive", "20"]


#: What both say of the same interface: HIDDEN was met, NAMED is only called, BARE has called and was answered.
LIVE = Live(
    public_key=base64.b64encode(bytes(PrivateKey(b"a" * 32).public_key)).decode(),
    listen_port=52001,
    peers=(HIDDEN, replace(NAMED, endpoint=None), BARE),  # by key, as text
    endpoints={NAMED.public_key: "192.0.2.7:52000", HIDDEN.public_key: "198.51.100.3:7"},
    met=frozenset({HIDDEN.public_key}),
    heard=frozenset({HIDDEN.public_key, BARE.public_key}),
)
UAPI = f"""private_key={hexadecimal("a")}
listen_port=52001
public_key={hexadecimal("c")}
preshared_key={"0" * 64}
protocol_version=1
endpoint=198.51.100.3:7
last_handshake_time_sec=1700000000
last_handshake_time_nsec=5
tx_bytes=1
rx_bytes=1
persistent_keepalive_interval=0
allowed_ip=100.64.1.3/32
allowed_ip=10.1.3.0/24
public_key={hexadecimal("b")}
endpoint=192.0.2.7:52000
last_handshake_time_sec=0
persistent_keepalive_interval=20
allowed_ip=10.1.2.0/24
public_key={hexadecimal("d")}
last_handshake_time_sec=0
rx_bytes=148
errno=0

"""
DUMP = f"""secret\t{LIVE.public_key}\t52001\toff
{key("c")}\t(none)\t198.51.100.3:7\t100.64.1.3/32,10.1.3.0/24\t1700000000\t1\t1\toff
{key("b")}\t(none)\t192.0.2.7:52000\t10.1.2.0/24\t0\t0\t0\t20
{key("d")}\t(none)\t(none)\t(none)\t0\t148\t92\toff
"""


def test_what_wireguard_go_tells() -> None:
    assert parse_uapi(UAPI) == LIVE


def test_what_the_kernel_tells() -> None:
    assert parse_dump(DUMP) == LIVE


def test_one_that_has_no_key_and_no_port_yet() -> None:
    assert parse_uapi("errno=0\n\n") == Live("", 0, (), {}, frozenset(), frozenset())


@pytest.mark.parametrize(
    "text", ["errno=-98\n\n", f"listen_port=1\npublic_key={hexadecimal('b')}\nerrno=5\n", "listen_port=x\n"]
)
def test_what_wireguard_go_refuses_is_no_interface(text: str) -> None:
    with pytest.raises(ValueError, match=r"errno|invalid literal"):
        parse_uapi(text)


@pytest.mark.parametrize("text", ["", "one\ttwo\n", f"s\t{key('a')}\t1\toff\n{key('b')}\t(none)\n"])
def test_what_is_no_dump(text: str) -> None:
    with pytest.raises((ValueError, IndexError)):
        parse_dump(text)


WANTED = (NAMED, HIDDEN, BARE)


def test_peers_are_the_same_wherever_they_are() -> None:
    assert same_peers(LIVE.peers, WANTED, frozenset())
    assert same_peers(tuple(reversed(LIVE.peers)), WANTED, frozenset())
    turned = replace(HIDDEN, allowed_ips=tuple(reversed(HIDDEN.allowed_ips)))
    assert same_peers((NAMED, turned, BARE), WANTED, frozenset())


@pytest.mark.parametrize(
    "live",
    [
        (NAMED, HIDDEN),
        (NAMED, HIDDEN, BARE, replace(BARE, public_key=key("e"))),
        (NAMED, HIDDEN, replace(BARE, public_key=key("e"))),
        (replace(NAMED, keepalive=0), HIDDEN, BARE),
        (replace(NAMED, keepalive=1), HIDDEN, BARE),
        (NAMED, replace(HIDDEN, allowed_ips=HIDDEN.allowed_ips[:1]), BARE),
        (NAMED, HIDDEN, replace(BARE, allowed_ips=("0.0.0.0/0",))),
    ],
)
def test_peers_that_are_not_the_same(live: tuple[WireGuardPeer, ...]) -> None:
    assert not same_peers(live, WANTED, frozenset())


def test_a_peer_that_is_being_called_has_a_keepalive_of_its_own() -> None:
    called = frozenset({NAMED.public_key})
    assert same_peers((replace(NAMED, keepalive=1), HIDDEN, BARE), WANTED, called)
    assert not same_peers((replace(NAMED, keepalive=2), HIDDEN, BARE), WANTED, called)
    assert not same_peers((NAMED, replace(HIDDEN, keepalive=1), BARE), WANTED, called)
    wrong = replace(NAMED, keepalive=1, allowed_ips=())
    assert not same_peers((wrong, HIDDEN, BARE), WANTED, called)


def test_what_was_learned_late_is_put_into_the_configuration() -> None:
    private = base64.b64encode(bytes(range(32))).decode()
    before = configuration(ITEM, private, {})
    learned = {HIDDEN.public_key: "198.51.100.3:7"}
    after = with_endpoints(before, learned)
    assert sorted(after.splitlines()) == sorted(configuration(ITEM, private, learned).splitlines())
    assert with_endpoints(after, learned) == after
    moved = with_endpoints(after, {HIDDEN.public_key: "198.51.100.4:8"})
    assert "198.51.100.3:7" not in moved
    assert [line for line in moved.splitlines() if line.startswith("Endpoint")] == [
        "Endpoint = 192.0.2.7:52000", "Endpoint = 198.51.100.4:8",
    ]  # fmt: skip
    assert with_endpoints(before, {}) == before


def test_the_launcher_is_a_program(tmp_path: Path) -> None:
    file = tmp_path / "launcher"
    file.write_text(LAUNCHER)
    assert subprocess.run(["sh", "-n", str(file)], capture_output=True, text=True).stderr == ""
