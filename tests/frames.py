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


def udp4(mac: str, to: str, source: str, target: str, sport: int, dport: int, data: bytes = b"x" * 40) -> bytes:
    datagram = struct.pack("!HHHH", sport, dport, 8 + len(data), 0) + data
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(datagram), 7, 0, 64, 17, 0)
    header += IPv4Address(source).packed + IPv4Address(target).packed
    header = header[:10] + struct.pack("!H", _sum(header)) + header[12:]
    return ethernet(mac, to, 0x0800, header + datagram)


def _ipv6(mac: str, to: str, source: str, target: str, protocol: int, payload: bytes, at: int) -> bytes:
    """``at``: where the checksum goes in the payload."""
    ends = IPv6Address(source).packed + IPv6Address(target).packed
    check = _sum(ends + struct.pack("!II", len(payload), protocol) + payload)
    payload = payload[:at] + struct.pack("!H", check) + payload[at + 2 :]
    return ethernet(mac, to, 0x86DD, struct.pack("!IHBB", 6 << 28, len(payload), protocol, 255) + ends + payload)


def udp6(mac: str, to: str, source: str, target: str, sport: int, dport: int, data: bytes = b"x" * 40) -> bytes:
    return _ipv6(mac, to, source, target, 17, struct.pack("!HHHH", sport, dport, 8 + len(data), 0) + data, 6)


def icmp6(mac: str, to: str, source: str, target: str, type_: int, body: bytes) -> bytes:
    return _ipv6(mac, to, source, target, 58, struct.pack("!BBH", type_, 0, 0) + body, 2)


def neighbour_solicit(mac: str, to: str, source: str, target: str, about: str) -> bytes:
    return icmp6(mac, to, source, target, 135, bytes(4) + IPv6Address(about).packed)


def neighbour_advert(mac: str, to: str, source: str, target: str, about: str, owner: str) -> bytes:
    """Unsolicited, overriding what others know: ``about`` is at ``owner``."""
    return icmp6(mac, to, source, target, 136, b"\x20\0\0\0" + IPv6Address(about).packed + b"\x02\x01" + _mac(owner))


def router_advert(mac: str, to: str, source: str, prefix: str) -> bytes:
    information = struct.pack("!BBBBIII", 3, 4, 64, 0xC0, 3600, 3600, 0) + IPv6Address(prefix).packed
    return icmp6(mac, to, source, "ff02::1", 134, struct.pack("!BBHII", 64, 0, 1800, 0, 0) + information)


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


def honest(own: Party, other: Party) -> dict[str, bytes]:
    """What a machine with its own addresses says."""
    return {
        "asks for a neighbour": arp(own.mac, 1, (own.mac, own.ipv4), (BROADCAST, other.ipv4)),
        "answers for itself": arp(own.mac, 2, (own.mac, own.ipv4), (other.mac, other.ipv4), other.mac),
        "probes for its own address": arp(own.mac, 1, (own.mac, "0.0.0.0"), (BROADCAST, own.ipv4)),
        "sends UDP": udp4(own.mac, other.mac, own.ipv4, other.ipv4, 5000, 53),
        "sends UDP over IPv6": udp6(own.mac, other.mac, own.ipv6, other.ipv6, 5000, 53),
        "sends UDP on the link": udp6(own.mac, other.mac, own.link, other.link, 5000, 53),
        "solicits a neighbour": neighbour_solicit(own.mac, ALL_NODES, own.ipv6, "ff02::1", other.ipv6),
        "probes for its own IPv6 address": neighbour_solicit(own.mac, ALL_NODES, "::", "ff02::1", own.ipv6),
        "probes for its link-local address": neighbour_solicit(own.mac, ALL_NODES, "::", "ff02::1", own.link),
        "advertises itself": neighbour_advert(own.mac, ALL_NODES, own.ipv6, "ff02::1", own.ipv6, own.mac),
        "solicits a router": icmp6(own.mac, "33:33:00:00:00:02", own.link, "ff02::2", 133, bytes(4)),
        "asks for an address by DHCPv6": udp6(own.mac, ALL_NODES, own.link, "ff02::1:2", 546, 547),
    }


def forged(own: Party, other: Party, router: str = "203.0.113.17") -> dict[str, bytes]:
    """What nobody may hear of it."""
    return {
        "another MAC": udp4(other.mac, BROADCAST, own.ipv4, other.ipv4, 5000, 53),
        "another IPv4 address": udp4(own.mac, BROADCAST, other.ipv4, "203.0.113.20", 5000, 53),
        "another IPv6 address": udp6(own.mac, ALL_NODES, other.ipv6, own.ipv6, 5000, 53),
        "another link-local address": udp6(own.mac, ALL_NODES, other.link, own.link, 5000, 53),
        "an ARP answer for a neighbour": arp(own.mac, 2, (own.mac, other.ipv4), (other.mac, router)),
        "an ARP question in a neighbour's name": arp(own.mac, 1, (own.mac, other.ipv4), (BROADCAST, router)),
        "an ARP answer with a neighbour's MAC inside": arp(own.mac, 2, (other.mac, own.ipv4), (BROADCAST, router)),
        "an ARP probe for a neighbour's address": arp(own.mac, 1, (own.mac, "0.0.0.0"), (BROADCAST, other.ipv4)),
        "an ARP answer of nobody": arp(own.mac, 2, (own.mac, "0.0.0.0"), (BROADCAST, own.ipv4)),
        "an advertisement of a neighbour": neighbour_advert(own.mac, ALL_NODES, own.ipv6, "ff02::1", other.ipv6, own.mac),
        "an advertisement of a neighbour from the link": neighbour_advert(
            own.mac, ALL_NODES, own.link, "ff02::1", other.link, own.mac
        ),
        "a probe that says a neighbour's address is taken": neighbour_solicit(own.mac, ALL_NODES, "::", "ff02::1", other.ipv6),
        "a router advertisement": router_advert(own.mac, ALL_NODES, own.link, "2001:db8:bad::"),
        "a redirect": icmp6(own.mac, ALL_NODES, own.link, "ff02::1", 137, bytes(36)),
        "a multicast querier": icmp6(own.mac, ALL_NODES, own.link, "ff02::1", 130, bytes(20)),
        "a DHCP offer": udp4(own.mac, BROADCAST, own.ipv4, "255.255.255.255", 67, 68),
        "a DHCP offer from another port": udp4(own.mac, BROADCAST, own.ipv4, "255.255.255.255", 6767, 68),
        "a DHCPv6 advertisement": udp6(own.mac, ALL_NODES, own.link, other.link, 547, 546),
        "a DHCPv6 advertisement from another port": udp6(own.mac, ALL_NODES, own.link, other.link, 5000, 546),
        "a VLAN": tagged(udp4(own.mac, BROADCAST, own.ipv4, other.ipv4, 5000, 53), 7),
        "a VLAN with priority only": tagged(udp4(own.mac, BROADCAST, other.ipv4, own.ipv4, 5000, 53), 0),
        "another protocol": ethernet(own.mac, BROADCAST, 0x88CC, b"x" * 46),
        "spanning tree": ethernet(own.mac, _STP, 0x0026, b"\x42\x42\x03" + bytes(35)),
    }
