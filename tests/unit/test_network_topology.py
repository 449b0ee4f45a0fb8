"""Who talks to whom: the worked example of the API's documentation, and routing through random networks."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

from hypothesis import given
from hypothesis import strategies as st

from zos.api.network import wireguard_range
from zos.kinds.network.topology import Caller, Member, laptop_file, subranges, topology, wireguard_address

RANGE = "10.20.0.0/16"


def example():
    n1 = Member("n1", "10.20.4.0/24", "key-n1", 5001, ipv4="1.1.1.1")
    n2 = Member("n2", "10.20.5.0/24", "key-n2", 5002, ipv4="2.2.2.2")
    n3 = Member("n3", "10.20.3.0/24", "key-n3", 5003)
    laptop = Caller("laptop", "10.20.2.0/24", "key-laptop", "n2")
    return topology(RANGE, [n1, n2, n3], [laptop], {"n3": "n2"})


def test_worked_example() -> None:
    peers = example().peers
    n1_n2 = ("10.20.5.0/24", "100.64.20.5/32", "10.20.3.0/24", "100.64.20.3/32", "10.20.2.0/24", "100.64.20.2/32")
    (only,) = peers["n1"]
    assert (only.public_key, only.endpoint, only.allowed_ips, only.keepalive) == ("key-n2", "2.2.2.2:5002", n1_n2, None)
    by_key = {peer.public_key: peer for peer in peers["n2"]}
    assert by_key["key-n1"].allowed_ips == ("10.20.4.0/24", "100.64.20.4/32")
    assert by_key["key-n1"].endpoint == "1.1.1.1:5001"
    assert by_key["key-n3"].allowed_ips == ("10.20.3.0/24", "100.64.20.3/32")
    assert by_key["key-n3"].endpoint is None
    assert by_key["key-laptop"].allowed_ips == ("10.20.2.0/24", "100.64.20.2/32")
    (relay,) = peers["n3"]
    assert (relay.endpoint, relay.allowed_ips, relay.keepalive) == ("2.2.2.2:5002", (RANGE, "100.64.20.0/24"), 20)
    assert sum(len(peer.allowed_ips) for node in peers.values() for peer in node) == 14


def test_laptop_file_is_a_complete_wg_quick_file() -> None:
    server = Member("n2", "10.20.5.0/24", "key-n2", 5002, ipv4="2.2.2.2")
    assert laptop_file(RANGE, "10.20.2.0/24", server, "secret", 1420) == (
        "[Interface]\nPrivateKey = secret\nAddress = 100.64.20.2/32\nMTU = 1420\n\n"
        "[Peer]\nPublicKey = key-n2\nEndpoint = 2.2.2.2:5002\nAllowedIPs = 10.20.0.0/16, 100.64.20.0/24\n"
        "PersistentKeepalive = 25\n"
    )


@st.composite
def ip_ranges(draw: st.DrawFn) -> IPv4Network:
    """Any that a Network may have."""
    block = IPv4Network(draw(st.sampled_from(["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"])))
    length = draw(st.integers(block.prefixlen, 20))
    number = draw(st.integers(0, 2 ** (length - block.prefixlen) - 1))
    return IPv4Network((int(block.network_address) + (number << (32 - length)), length))


@given(ip_ranges(), st.data())
def test_what_a_network_claims_has_all_its_members_and_nothing_else(ip_range: IPv4Network, data: st.DataObject) -> None:
    number = data.draw(st.integers(0, 2 ** (24 - ip_range.prefixlen) - 1))
    address = wireguard_address(f"{IPv4Address(int(ip_range.network_address) + (number << 8))}/24")
    assert address in wireguard_range(str(ip_range))
    assert wireguard_range(str(ip_range)).num_addresses == ip_range.num_addresses >> 8


@given(ip_ranges(), ip_ranges())
def test_files_of_networks_that_do_not_touch_claim_nothing_in_common(one: IPv4Network, other: IPv4Network) -> None:
    """But for those that are alike from the second number on, like 10.20.0.0/16 and 172.20.0.0/16."""
    server = Member("n1", "10.20.5.0/24", "key-n1", 5002, ipv4="2.2.2.2")

    def claims(network: IPv4Network) -> list[IPv4Network]:
        text = laptop_file(str(network), f"{network.network_address}/24", server, None, 1420)
        line = next(line for line in text.splitlines() if line.startswith("AllowedIPs = "))
        return [IPv4Network(word) for word in line.removeprefix("AllowedIPs = ").split(", ")]

    def tail(network: IPv4Network) -> IPv4Network:
        return IPv4Network((int(network.network_address) & 0xFFFFFF, network.prefixlen))

    meet = any(a.overlaps(b) for a in claims(one) for b in claims(other))
    assert meet == (one.overlaps(other) or tail(one).overlaps(tail(other)))


def test_ipv6_endpoints_are_bracketed_and_come_after_ipv4() -> None:
    both = Member("a", "10.20.2.0/24", "A", 1, ipv4="1.1.1.1", ipv6="2001:db8::1")
    six = Member("b", "10.20.3.0/24", "B", 2, ipv6="2001:db8::2")
    peers = topology(RANGE, [both, six], [], {}).peers
    assert peers["a"][0].endpoint == "[2001:db8::2]:2"
    assert peers["b"][0].endpoint == "[2001:db8::1]:1"


def test_nodes_without_a_common_family_are_named_unless_one_has_both() -> None:
    four = Member("four", "10.20.2.0/24", "4", 1, ipv4="1.1.1.1")
    six = Member("six", "10.20.3.0/24", "6", 2, ipv6="2001:db8::2")
    assert topology(RANGE, [four, six], [], {}).apart == (("four", "six"),)
    both = Member("both", "10.20.4.0/24", "B", 3, ipv4="1.1.1.2", ipv6="2001:db8::3")
    made = topology(RANGE, [four, six, both], [], {})
    assert made.apart == ()
    assert "10.20.3.0/24" in made.peers["four"][0].allowed_ips


def test_subranges_begin_at_the_third_and_stay_inside() -> None:
    found = list(subranges("10.20.16.0/20"))
    assert (found[0], found[-1], len(found)) == ("10.20.18.0/24", "10.20.31.0/24", 14)
    assert wireguard_address("10.20.18.0/24") == IPv4Address("100.64.20.18")


@st.composite
def networks(draw: st.DrawFn):
    kinds = draw(st.lists(st.sampled_from(["4", "6", "46", "hidden"]), min_size=1, max_size=9))
    free = subranges(RANGE)
    members = [
        Member(
            f"n{i}",
            next(free),
            f"key{i}",
            5000 + i,
            ipv4=f"1.1.1.{i}" if "4" in kind else None,
            ipv6=f"2001:db8::{i}" if "6" in kind else None,
        )
        for i, kind in enumerate(kinds)
    ]
    servers = [m.name for m in members if m.ipv4]
    relays = {m.name: draw(st.sampled_from(servers)) for m in members if not m.accessible} if servers else {}
    laptops = [
        Caller(f"l{i}", next(free), f"lkey{i}", draw(st.sampled_from(servers)))
        for i in range(draw(st.integers(0, 3)) if servers else 0)
    ]
    return members, laptops, relays


def walk(start: str, destination: IPv4Address, owners: dict[str, str], tables) -> str | None:
    """Follows the allowed addresses like a packet; gives where it ends."""
    at, hops = start, 0
    while destination not in IPv4Network(owners[at]):
        matches = [
            (IPv4Network(entry).prefixlen, key)
            for key, allowed in tables[at].items()
            for entry in allowed
            if destination in IPv4Network(entry)
        ]
        if not matches or hops > 4:
            return None
        at = max(matches)[1]
        hops += 1
    return at


@given(networks())
def test_every_pair_reaches_each_other_and_nothing_overlaps(network) -> None:
    members, laptops, relays = network
    made = topology(RANGE, members, laptops, relays)
    names = {m.public_key: m.name for m in members} | {c.public_key: c.name for c in laptops}
    owners = {m.name: m.subnet for m in members} | {c.name: c.subnet for c in laptops}
    tables = {node: {names[p.public_key]: p.allowed_ips for p in peers} for node, peers in made.peers.items()}
    tables |= {c.name: {c.server: (RANGE, "100.64.20.0/24")} for c in laptops}
    for node, peers in made.peers.items():
        entries = [entry for peer in peers for entry in peer.allowed_ips]
        assert len(entries) == len(set(entries)), f"{node} has an address behind two peers"
        assert [peer.public_key for peer in peers] == sorted(peer.public_key for peer in peers)
    apart = {frozenset(pair) for pair in made.apart}
    server = {m.name: m.name for m in members if m.accessible} | relays | {c.name: c.server for c in laptops}
    for one in owners:
        for other in owners:
            if one == other or one not in server or other not in server:
                continue
            if frozenset((server[one], server[other])) in apart:
                continue
            assert walk(one, IPv4Network(owners[other])[5], owners, tables) == other
    assert topology(RANGE, members[::-1], laptops[::-1], relays) == made


def test_a_hidden_node_without_a_relay_has_no_peers_and_the_others_do() -> None:
    open_ = Member("open", "10.20.2.0/24", "O", 1, ipv4="1.1.1.1")
    hidden = Member("hidden", "10.20.3.0/24", "H", 2)
    for relays in ({}, {"hidden": "gone"}):
        assert topology(RANGE, [open_, hidden], [], relays).peers == {"open": (), "hidden": ()}
    served = topology(RANGE, [open_, hidden], [], {"hidden": "open"}).peers
    assert [peer.public_key for peer in served["open"]] == ["H"]
    assert [peer.public_key for peer in served["hidden"]] == ["O"]
