"""Where fetchers may go: decided by values, written as nftables."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from zos.drivers.fencerules import Ground, closed_in, connected_of, nameservers_of, rules

GROUND = Ground(
    nameservers=(ip_address("10.0.0.53"), ip_address("fe80::53")),
    connected=(ip_network("203.0.113.0/24"), ip_network("2001:db8:1::/64")),
    opened=(ip_network("10.7.0.0/16"), ip_network("203.0.113.9/32")),
)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "0.0.0.0", "10.0.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254", "100.64.0.1", "198.18.0.1",
        "224.0.0.251", "255.255.255.255", "203.0.113.7", "::1", "fe80::1", "fd00::1", "ff02::1", "2001:db8:1::7",
        "::ffff:10.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b::203.0.113.7", "2002:a00:1::1",
        "10.0.0.53",
    ],
)  # fmt: skip
def test_closed(address: str) -> None:
    assert GROUND.closes(ip_address(address))


@pytest.mark.parametrize(
    "address",
    ["1.1.1.1", "198.51.100.2", "172.32.0.1", "2606:4700::1", "2001:db8:2::1", "64:ff9b::1.1.1.1", "10.7.1.2", "203.0.113.9",
     "::ffff:10.7.1.2"],
)  # fmt: skip
def test_open(address: str) -> None:
    assert not GROUND.closes(ip_address(address))


def test_the_tables_text() -> None:
    text = rules(GROUND, "skuid 12345")
    assert text.count("meta skuid 12345 jump judge") == 2
    assert "set names4 { type ipv4_addr; flags interval; auto-merge; elements = { 10.0.0.53 }; }" in text
    assert "set names6 { type ipv6_addr; flags interval; auto-merge; elements = { fe80::53 }; }" in text
    assert "set open4 { type ipv4_addr; flags interval; auto-merge; elements = { 10.7.0.0/16, 203.0.113.9/32 }; }" in text
    assert "set open6 { type ipv6_addr; flags interval; auto-merge; }" in text
    judge = text[text.index("chain judge") :]
    assert (
        judge.index("@names4 accept") < judge.index("@open4 accept") < judge.index("fib daddr type") < judge.index("@closed4")
    )
    assert "203.0.113.0/24" in text
    assert "64:ff9b::cb00:7100/120" in text  # the same through a translator


def test_name_servers_of_the_node_itself() -> None:
    lines = ("# nameserver 9.9.9.9", "nameserver 127.0.0.53", "search x", " nameserver fe80::1%eth0", "nameserver oops")
    text = "\n".join((*lines, "nameserver 127.0.0.53", ""))
    assert nameservers_of(text) == (ip_address("127.0.0.53"), ip_address("fe80::1"))


def test_what_is_on_the_nodes_links() -> None:
    links = [{"addr_info": [{"local": "192.0.2.7", "prefixlen": 24}, {"local": "2001:db8::7", "prefixlen": 64}, {}]}, {}]
    links.append({"addr_info": [{"local": "203.0.113.8"}, {"prefixlen": 24}]})
    routes = [
        {"dst": "default", "gateway": "192.0.2.1", "dev": "eth0"},
        {"dst": "default", "dev": "ppp0"},
        {"dst": "0.0.0.0/1", "dev": "tunnel"},  # half of the Internet is on no link
        {"dst": "10.9.0.0/16", "dev": "eth1", "scope": "link"},
        {"dst": "10.8.0.0/16", "gateway": "10.9.0.1", "dev": "eth1"},
        {"dst": "192.0.2.200", "dev": "tap0"},
        {"type": "blackhole", "dst": "10.6.0.0/16"},
        {"dst": "16.0.0.0/8", "dev": "eth2"},
        {"dst": "16.0.0.0/7", "dev": "tunnel"},
        {"dst": "2a00::/32", "dev": "eth2"},
        {"dst": "2a00::/31", "dev": "tunnel"},
    ]
    found = {str(block) for block in connected_of(links, routes)}
    assert found == {
        "192.0.2.0/24", "192.0.2.7/32", "2001:db8::/64", "2001:db8::7/128", "10.9.0.0/16", "192.0.2.200/32",
        "16.0.0.0/8", "2a00::/32",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("said", "closed"),
    [
        ('Get "https://r.example/v2/": dial tcp 10.0.0.9:443: connect: no route to host', True),
        ("dial tcp [fd00::1]:443: connect: permission denied", True),
        ("dial tcp [fe80::1%eth0]:443: connect: permission denied", True),
        ("dial tcp 1.1.1.1:443: connect: connection refused", False),
        ("dial tcp 10.7.1.2:5000: connect: connection refused", False),
        ("dial tcp: lookup r.example on 10.0.0.53:53: no such host", False),
        ("dial tcp 999.1.1.1:443: what", False),
    ],
)
def test_what_a_fetcher_says_of_a_closed_way(said: str, closed: bool) -> None:
    assert closed_in(said, GROUND) is closed
