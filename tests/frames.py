"""Ethernet frames as an attacker writes them, byte by byte. MACs and addresses as text."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

BROADCAST = "ff:ff:ff:ff:ff:ff"
ALL_NODES = "33:33:00:00:00:01"


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _sum(data: bytes) -> int:
    """RFC 1071."""
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ethernet(source: str, target: str, ethertype: int, payload: bytes) -> bytes:
    return (_mac(target) + _mac(source) + struct.pack("!H", ethertype) + payload).ljust(60, b"\0")


def arp(source: str, operation: int, sender: tuple[str, str], target: tuple[str, str], to: str = BROADCAST) -> bytes:
    """``sender`` and ``target`` are (MAC, IPv4); operation 1 asks, 2 answers."""
    parts = b"".join(_mac(mac) + IPv4Address(ip).packed for mac, ip in (sender, target))
    return ethernet(source, to, 0x0806, struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation) + parts)


def ipv4(
    mac: str, to: str, source: str, target: str, protocol: int, payload: bytes, *, options: bytes = b"", fragment: int = 0
) -> bytes:
    """``fragment``: flags and offset as on the wire; 0x2000 says that more fragments follow."""
    length = 20 + len(options)
    header = struct.pack("!BBHHHBBH", 0x40 | length // 4, 0, length + len(payload), 7, fragment, 64, protocol, 0)
    header += IPv4Address(source).packed + IPv4Address(target).packed + options
    header = header[:10] + struct.pack("!H", _sum(header)) + header[12:]
    return ethernet(mac, to, 0x0800, header + payload)


def _udp(sport: int, dport: int, data: bytes) -> bytes:
    return struct.pack("!HHHH", sport, dport, 8 + len(data), 0) + data


def udp4(mac: str, to: str, source: str, target: str, sport: int, dport: int, data: bytes = b"x" * 40) -> bytes:
    return ipv4(mac, to, source, target, 17, _udp(sport, dport, data))


def icmp4(mac: str, to: str, source: str, target: str, type_: int, body: bytes) -> bytes:
    message = struct.pack("!BBH", type_, 0, 0) + body
    return ipv4(mac, to, source, target, 1, message[:2] + struct.pack("!H", _sum(message)) + message[4:])


def ipv6(mac: str, to: str, source: str, target: str, following: int, payload: bytes, hops: int = 255) -> bytes:
    """``following``: the next header, of which the payload is."""
    ends = IPv6Address(source).packed + IPv6Address(target).packed
    return ethernet(mac, to, 0x86DD, struct.pack("!IHBB", 6 << 28, len(payload), following, hops) + ends + payload)


def _checked(source: str, target: str, protocol: int, payload: bytes, at: int) -> bytes:
    """With its checksum, at that place."""
    ends = IPv6Address(source).packed + IPv6Address(target).packed
    check = _sum(ends + struct.pack("!II", len(payload), protocol) + payload)
    return payload[:at] + struct.pack("!H", check) + payload[at + 2 :]


def udp6(mac: str, to: str, source: str, target: str, sport: int, dport: int, data: bytes = b"x" * 40) -> bytes:
    return ipv6(mac, to, source, target, 17, _checked(source, target, 17, _udp(sport, dport, data), 6))


def icmp6(mac: str, to: str, source: str, target: str, type_: int, body: bytes) -> bytes:
    message = struct.pack("!BBH", type_, 0, 0) + body
    return ipv6(mac, to, source, target, 58, _checked(source, target, 58, message, 2))


def link_option(kind: int, mac: str) -> bytes:
    """The link-layer address of the source (1) or target (2), RFC 4861, 4.6.1."""
    return bytes([kind, 1]) + _mac(mac)


def neighbour_solicit(mac: str, to: str, source: str, target: str, about: str, options: bytes = b"") -> bytes:
    return icmp6(mac, to, source, target, 135, bytes(4) + IPv6Address(about).packed + options)


def neighbour_advert(
    mac: str, to: str, source: str, target: str, about: str, owner: str | None, options: bytes = b"", flags: int = 0x20
) -> bytes:
    """Unsolicited, overriding what others know: ``about`` is at ``owner``, if it says where."""
    options = (link_option(2, owner) if owner else b"") + options
    return icmp6(mac, to, source, target, 136, bytes([flags, 0, 0, 0]) + IPv6Address(about).packed + options)


def router_advert(mac: str, to: str, source: str, prefix: str) -> bytes:
    information = struct.pack("!BBBBIII", 3, 4, 64, 0xC0, 3600, 3600, 0) + IPv6Address(prefix).packed
    return icmp6(mac, to, source, "ff02::1", 134, struct.pack("!BBHII", 64, 0, 1800, 0, 0) + information)


def listening(mac: str, source: str, type_: int, groups: bytes, to: str = "33:33:00:00:00:16") -> bytes:
    """A message of multicast listener discovery behind its router alert, as a kernel sends it."""
    target = "ff02::16" if type_ == 143 else "ff02::2"
    message = _checked(source, target, 58, struct.pack("!BBH", type_, 0, 0) + groups, 2)
    return ipv6(mac, to, source, target, 0, bytes([58, 0, 5, 2, 0, 0, 1, 0]) + message, hops=1)


#: Headers of 8 or 16 bytes that go between, by their number; the first byte says what follows.
_BETWEEN = {
    "hop-by-hop options": (0, b"\0\x01\x04\0\0\0\0"),
    "a router alert": (0, b"\0\x05\x02\0\0\x01\0"),
    "destination options": (60, b"\0\x01\x04\0\0\0\0"),
    "a routing header": (43, b"\0\0\0\0\0\0\0"),
    "a segment routing header": (43, b"\x02\x04\0\0\0\0\0" + bytes(16)),
    "a fragment header": (44, b"\0\0\0\0\0\0\x07"),
    "an authentication header": (51, b"\x04\0\0" + bytes(20)),
    "a mobility header": (135, b"\0\0\0\0\0\0\0"),
    "a host identity header": (139, b"\0\0\0\0\0\0\0"),
    "a shim6 header": (140, b"\0\0\0\0\0\0\0"),
    "an experimental header": (253, b"\0\0\0\0\0\0\0"),
}


def wrapped(frame: bytes, *kinds: str) -> bytes:
    """An IPv6 frame with headers in between, the first outermost."""
    head, payload, following = frame[:54], frame[54 : 54 + int.from_bytes(frame[18:20])], frame[20]
    for kind in reversed(kinds):
        number, rest = _BETWEEN[kind]
        payload, following = bytes([following]) + rest + payload, number
    return (head[:18] + struct.pack("!HB", len(payload), following) + head[21:] + payload).ljust(60, b"\0")


def split(frame: bytes, at: int) -> tuple[bytes, bytes]:
    """An IPv6 frame in two fragments: the first ``at`` bytes (a multiple of 8) behind the fixed header, and the rest."""
    head, payload, following = frame[:54], frame[54 : 54 + int.from_bytes(frame[18:20])], frame[20]

    def piece(part: bytes, place: int) -> bytes:
        header = struct.pack("!BBHI", following, 0, place, 7)
        return (head[:18] + struct.pack("!HB", 8 + len(part), 44) + head[21:] + header + part).ljust(60, b"\0")

    return piece(payload[:at], 1), piece(payload[at:], at)


def trimmed(frame: bytes) -> bytes:
    """Without what fills it up to Ethernet's 60 bytes: a kernel that looked into it leaves that away."""
    if frame[12:14] == b"\x08\x00":
        return frame[: 14 + int.from_bytes(frame[16:18])]
    return frame[: 54 + int.from_bytes(frame[18:20])] if frame[12:14] == b"\x86\xdd" else frame


def tagged(frame: bytes, vlan: int) -> bytes:
    """The frame with an 802.1Q tag."""
    return frame[:12] + struct.pack("!HH", 0x8100, vlan) + frame[12:]


@dataclass(frozen=True)
class Party:
    """A machine at the wire: its MAC and addresses."""

    mac: str
    ipv4: str
    ipv6: str
    link: str


_STP = "01:80:c2:00:00:00"
_VRRP = "01:00:5e:00:00:12"
_ROUTERS = "01:00:5e:00:00:02"
_ALL_SYSTEMS = "01:00:5e:00:00:01"


def honest(own: Party, other: Party) -> dict[str, bytes]:
    """What a machine with its own addresses says."""
    return {**honest4(own, other), **honest6(own, other)}


def honest4(own: Party, other: Party) -> dict[str, bytes]:
    mine = (own.mac, other.mac, own.ipv4, other.ipv4)
    return {
        "asks for a neighbour": arp(own.mac, 1, (own.mac, own.ipv4), (BROADCAST, other.ipv4)),
        "answers for itself": arp(own.mac, 2, (own.mac, own.ipv4), (other.mac, other.ipv4), other.mac),
        "probes for its own address": arp(own.mac, 1, (own.mac, "0.0.0.0"), (BROADCAST, own.ipv4)),
        "sends UDP": udp4(*mine, 5000, 53),
        "sends UDP from a port of HSRP": udp4(*mine, 1985, 1985),
        "sends UDP to everybody": udp4(own.mac, BROADCAST, own.ipv4, "255.255.255.255", 5000, 9),
        "asks by mDNS": udp4(own.mac, "01:00:5e:00:00:fb", own.ipv4, "224.0.0.251", 5353, 5353),
        "sends to a group beyond the link": udp4(own.mac, "01:00:5e:02:02:03", own.ipv4, "224.2.2.3", 5000, 54327),
        "sends TCP": ipv4(*mine, 6, bytes(20)),
        "pings": icmp4(*mine, 8, bytes(12)),
        "answers a ping": icmp4(*mine, 0, bytes(12)),
        "says that a port is closed": icmp4(*mine, 3, bytes(32)),
        "sends the first fragment of UDP": ipv4(*mine, 17, _udp(5000, 53, bytes(40)), fragment=0x2000),
        "sends a later fragment of UDP": ipv4(*mine, 17, struct.pack("!HH", 67, 68) + bytes(44), fragment=6),
        "sends a later fragment of a ping": ipv4(*mine, 1, b"\x05" + bytes(47), fragment=6),
        "sends SCTP": ipv4(*mine, 132, bytes(20)),
        "sends GRE": ipv4(*mine, 47, bytes(24)),
        "sends ESP": ipv4(*mine, 50, bytes(24)),
        "sends IPv4 in IPv4": ipv4(*mine, 4, bytes(24)),
    }


def honest6(own: Party, other: Party) -> dict[str, bytes]:
    mine6 = (own.mac, other.mac, own.ipv6, other.ipv6)
    return {
        "sends UDP over IPv6": udp6(*mine6, 5000, 53),
        "sends TCP over IPv6": ipv6(*mine6, 6, bytes(20)),
        "pings over IPv6": icmp6(*mine6, 128, bytes(12)),
        "says that a packet is too big": icmp6(*mine6, 2, bytes(52)),
        "sends UDP on the link": udp6(own.mac, other.mac, own.link, other.link, 5000, 53),
        "asks by mDNS over IPv6": udp6(own.mac, "33:33:00:00:00:fb", own.link, "ff02::fb", 5353, 5353),
        "solicits a neighbour": neighbour_solicit(own.mac, ALL_NODES, own.ipv6, "ff02::1", other.ipv6),
        "solicits a neighbour, with its MAC": neighbour_solicit(
            own.mac, ALL_NODES, own.link, "ff02::1", other.ipv6, link_option(1, own.mac)
        ),
        "probes for its own IPv6 address": neighbour_solicit(own.mac, ALL_NODES, "::", "ff02::1", own.ipv6),
        "probes with a nonce": neighbour_solicit(own.mac, ALL_NODES, "::", "ff02::1", own.ipv6, b"\x0e\x01nonce!"),
        "probes for its link-local address": neighbour_solicit(own.mac, ALL_NODES, "::", "ff02::1", own.link),
        "advertises itself": neighbour_advert(own.mac, ALL_NODES, own.ipv6, "ff02::1", own.ipv6, own.mac),
        "answers without its MAC": neighbour_advert(own.mac, other.mac, own.link, other.link, own.ipv6, None, flags=0x40),
        "solicits a router": icmp6(own.mac, "33:33:00:00:00:02", own.link, "ff02::2", 133, bytes(4)),
        "solicits a router, with its MAC": icmp6(
            own.mac, "33:33:00:00:00:02", own.link, "ff02::2", 133, bytes(4) + link_option(1, own.mac)
        ),
        "solicits a router before it has an address": icmp6(own.mac, "33:33:00:00:00:02", "::", "ff02::2", 133, bytes(4)),
        "listens to a group": listening(own.mac, own.link, 143, b"\0\0\0\x01\x04\0\0\0" + IPv6Address("ff02::fb").packed),
        "listens before it has an address": listening(
            own.mac, "::", 143, b"\0\0\0\x01\x04\0\0\0" + IPv6Address("ff02::fb").packed
        ),
        "listens as of old": listening(own.mac, own.link, 131, bytes(4) + IPv6Address("ff02::fb").packed),
        "listens no more": listening(own.mac, own.link, 132, bytes(4) + IPv6Address("ff02::fb").packed),
        "asks for an address by DHCPv6": udp6(own.mac, ALL_NODES, own.link, "ff02::1:2", 546, 547),
    }


def forged(own: Party, other: Party, router: str = "203.0.113.17") -> dict[str, bytes]:
    """What nobody may hear of it."""
    all_ = {**_forged_link(own, other, router), **_forged4(own, other), **_forged6(own, other)}
    for what, frame in _worst(own, other).items():
        all_[what] = frame
        all_ |= {f"{what} behind {kind}": wrapped(frame, kind) for kind in _BETWEEN}
        all_[f"{what} behind two headers"] = wrapped(frame, "destination options", "an authentication header")
        all_[f"{what} behind a report's header and another"] = wrapped(frame, "a router alert", "destination options")
        for number, piece in enumerate(split(wrapped(frame, "destination options"), 8), 1):
            all_[f"{what} in a chain split in two, part {number}"] = piece
    return all_


def _worst(own: Party, other: Party) -> dict[str, bytes]:
    """What a guest would take over a segment with."""
    return {
        "an advertisement of a neighbour": neighbour_advert(own.mac, ALL_NODES, own.ipv6, "ff02::1", other.ipv6, own.mac),
        "a solicitation that gives a neighbour's MAC": neighbour_solicit(
            own.mac, ALL_NODES, own.ipv6, "ff02::1", other.ipv6, link_option(1, other.mac)
        ),
        "a router advertisement": router_advert(own.mac, ALL_NODES, own.link, "2001:db8:bad::"),
        "a redirect": icmp6(own.mac, ALL_NODES, own.link, "ff02::1", 137, bytes(36)),
        "a multicast querier": icmp6(own.mac, ALL_NODES, own.link, "ff02::1", 130, bytes(20)),
        "a DHCPv6 advertisement": udp6(own.mac, ALL_NODES, own.link, other.link, 547, 546),
    }


def _forged_link(own: Party, other: Party, router: str) -> dict[str, bytes]:
    return {
        "another MAC": udp4(other.mac, BROADCAST, own.ipv4, other.ipv4, 5000, 53),
        "an ARP answer for a neighbour": arp(own.mac, 2, (own.mac, other.ipv4), (other.mac, router)),
        "an ARP question in a neighbour's name": arp(own.mac, 1, (own.mac, other.ipv4), (BROADCAST, router)),
        "an ARP answer with a neighbour's MAC inside": arp(own.mac, 2, (other.mac, own.ipv4), (BROADCAST, router)),
        "an ARP probe for a neighbour's address": arp(own.mac, 1, (own.mac, "0.0.0.0"), (BROADCAST, other.ipv4)),
        "an ARP answer of nobody": arp(own.mac, 2, (own.mac, "0.0.0.0"), (BROADCAST, own.ipv4)),
        "a question for a metadata server": arp(own.mac, 1, (own.mac, own.ipv4), (BROADCAST, "169.254.169.254")),
        "reverse ARP": arp(own.mac, 4, (own.mac, own.ipv4), (other.mac, other.ipv4)),
        "a VLAN": tagged(udp4(own.mac, BROADCAST, own.ipv4, other.ipv4, 5000, 53), 7),
        "a VLAN with priority only": tagged(udp4(own.mac, BROADCAST, other.ipv4, own.ipv4, 5000, 53), 0),
        "another protocol": ethernet(own.mac, BROADCAST, 0x88CC, b"x" * 46),
        "spanning tree": ethernet(own.mac, _STP, 0x0026, b"\x42\x42\x03" + bytes(35)),
    }


def _forged4(own: Party, other: Party) -> dict[str, bytes]:
    mine = (own.mac, other.mac, own.ipv4, other.ipv4)
    offer = _udp(67, 68, bytes(240))
    query = b"\x11\x64\xee\x9b\0\0\0\0"
    return {
        "another IPv4 address": udp4(own.mac, BROADCAST, other.ipv4, "203.0.113.20", 5000, 53),
        "a DHCP offer": udp4(own.mac, BROADCAST, own.ipv4, "255.255.255.255", 67, 68),
        "a DHCP offer from another port": udp4(own.mac, BROADCAST, own.ipv4, "255.255.255.255", 6767, 68),
        "a DHCP offer's first fragment": ipv4(own.mac, BROADCAST, own.ipv4, "255.255.255.255", 17, offer, fragment=0x2000),
        "a DHCP offer's first eight bytes": ipv4(own.mac, BROADCAST, own.ipv4, other.ipv4, 17, offer[:8], fragment=0x2000),
        "a DHCP offer behind options": ipv4(
            own.mac, BROADCAST, own.ipv4, "255.255.255.255", 17, offer, options=b"\x94\x04\0\0"
        ),
        "a source route": ipv4(*mine, 17, _udp(5000, 53, b"x" * 40), options=b"\x83\x07\x04\xcb\0\x71\x11\x00"),
        "a strict source route": ipv4(*mine, 6, bytes(20), options=b"\x89\x07\x04\xcb\0\x71\x11\x00"),
        "a redirect over IPv4": icmp4(*mine, 5, IPv4Address(own.ipv4).packed + bytes(28)),
        "a redirect's first fragment": ipv4(*mine, 1, b"\x05\x01" + bytes(38), fragment=0x2000),
        "a router advertisement over IPv4": icmp4(own.mac, _ALL_SYSTEMS, own.ipv4, "224.0.0.1", 9, bytes(12)),
        "a router solicitation over IPv4": icmp4(own.mac, _ROUTERS, own.ipv4, "224.0.0.2", 10, bytes(4)),
        "an address mask": icmp4(*mine, 18, bytes(8)),
        "a group querier": ipv4(own.mac, _ALL_SYSTEMS, own.ipv4, "224.0.0.1", 2, query),
        "a group querier with a router alert": ipv4(
            own.mac, _ALL_SYSTEMS, own.ipv4, "224.0.0.1", 2, query, options=b"\x94\x04\0\0"
        ),
        "VRRP": ipv4(own.mac, _VRRP, own.ipv4, "224.0.0.18", 112, bytes(20)),
        "VRRP to one": ipv4(*mine, 112, bytes(20)),
        "HSRP": udp4(own.mac, _ROUTERS, own.ipv4, "224.0.0.2", 1985, 1985),
        "HSRP of version 2": udp4(own.mac, "01:00:5e:00:00:66", own.ipv4, "224.0.0.102", 1985, 1985),
        "HSRP to a router's MAC": udp4(own.mac, other.mac, own.ipv4, "224.0.0.2", 1985, 1985),
        "GLBP": udp4(own.mac, "01:00:5e:00:00:66", own.ipv4, "224.0.0.102", 3222, 3222),
        "RIP": udp4(own.mac, "01:00:5e:00:00:09", own.ipv4, "224.0.0.9", 520, 520),
        "RIP to one": udp4(*mine, 520, 520),
        "OSPF": ipv4(own.mac, "01:00:5e:00:00:05", own.ipv4, "224.0.0.5", 89, bytes(24)),
        "EIGRP": ipv4(own.mac, "01:00:5e:00:00:0a", own.ipv4, "224.0.0.10", 88, bytes(20)),
        "PIM": ipv4(own.mac, "01:00:5e:00:00:0d", own.ipv4, "224.0.0.13", 103, bytes(20)),
        "an authentication header over IPv4": ipv4(*mine, 51, b"\x70\x04\0\0" + bytes(40)),
        "GRE to a group": ipv4(own.mac, _ROUTERS, own.ipv4, "224.0.0.2", 47, bytes(24)),
        "a metadata server": ipv4(own.mac, other.mac, own.ipv4, "169.254.169.254", 6, bytes(20)),
        "another's loopback": ipv4(own.mac, other.mac, own.ipv4, "127.0.0.1", 6, bytes(20)),
    }


def _forged6(own: Party, other: Party) -> dict[str, bytes]:
    mine = (own.mac, other.mac, own.ipv6, other.ipv6)
    router = link_option(1, other.mac)
    return {
        "another IPv6 address": udp6(own.mac, ALL_NODES, other.ipv6, own.ipv6, 5000, 53),
        "another link-local address": udp6(own.mac, ALL_NODES, other.link, own.link, 5000, 53),
        "an advertisement of a neighbour from the link": neighbour_advert(
            own.mac, ALL_NODES, own.link, "ff02::1", other.link, own.mac
        ),
        "an advertisement of itself at a neighbour's MAC": neighbour_advert(
            own.mac, ALL_NODES, own.ipv6, "ff02::1", own.ipv6, other.mac
        ),
        "an advertisement with two MACs": neighbour_advert(
            own.mac, ALL_NODES, own.ipv6, "ff02::1", own.ipv6, own.mac, link_option(2, other.mac)
        ),
        "an advertisement with the other option": neighbour_advert(
            own.mac, ALL_NODES, own.ipv6, "ff02::1", own.ipv6, None, link_option(1, other.mac)
        ),
        "an advertisement with an unknown option first": neighbour_advert(
            own.mac, ALL_NODES, own.ipv6, "ff02::1", own.ipv6, None, b"\xfe\x01" + bytes(6) + link_option(2, other.mac)
        ),
        "a solicitation with a padded option": neighbour_solicit(
            own.mac, ALL_NODES, own.ipv6, "ff02::1", other.ipv6, b"\x01\x02" + bytes(14)
        ),
        "a solicitation from the link that gives a neighbour's MAC": neighbour_solicit(
            own.mac, other.mac, own.link, other.link, other.link, router
        ),
        "a router solicitation that gives a neighbour's MAC": icmp6(
            own.mac, "33:33:00:00:00:02", own.link, "ff02::2", 133, bytes(4) + router
        ),
        "a probe that says a neighbour's address is taken": neighbour_solicit(own.mac, ALL_NODES, "::", "ff02::1", other.ipv6),
        "a probe with a MAC": neighbour_solicit(own.mac, ALL_NODES, "::", "ff02::1", own.ipv6, router),
        "a report without a router alert": icmp6(own.mac, ALL_NODES, own.link, "ff02::16", 143, bytes(24)),
        "a multicast querier with a router alert": listening(own.mac, own.link, 130, bytes(20)),
        "a ping behind a router alert": listening(own.mac, own.link, 128, bytes(20)),
        "inverse discovery": icmp6(own.mac, ALL_NODES, own.link, "ff02::1", 141, bytes(20)),
        "a multicast router": icmp6(own.mac, ALL_NODES, own.link, "ff02::6a", 151, bytes(4)),
        "router renumbering": icmp6(own.mac, ALL_NODES, own.link, "ff02::1", 138, bytes(20)),
        "a DHCPv6 advertisement from another port": udp6(own.mac, ALL_NODES, own.link, other.link, 5000, 546),
        "HSRP over IPv6": udp6(own.mac, "33:33:00:00:00:66", own.link, "ff02::66", 2029, 2029),
        "RIPng": udp6(own.mac, "33:33:00:00:00:09", own.link, "ff02::9", 521, 521),
        "VRRP over IPv6": ipv6(own.mac, "33:33:00:00:00:12", own.link, "ff02::12", 112, bytes(20)),
        "OSPF over IPv6": ipv6(own.mac, "33:33:00:00:00:05", own.link, "ff02::5", 89, bytes(20)),
        "ESP over IPv6": ipv6(*mine, 50, bytes(24)),
        "nothing over IPv6": ipv6(*mine, 59, bytes(24)),
        "IPv6 in IPv6": ipv6(*mine, 41, bytes(40)),
    }
