"""Where a fetcher's packets may go, as values and as the text of an nftables table."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address

#: The user that fetchers run as: a number that no distribution gives to anybody (systemd, "Users, Groups, UIDs and GIDs").
USER = 1_900_000_053

#: Nobody's on the Internet (IANA's special-purpose registries): loopback, link-local, private, shared, benchmarking, multicast,
#: reserved; in IPv6 also what carries an IPv4 address to somewhere else.
_CLOSED = tuple(
    ip_network(block)
    for block in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/4", "240.0.0.0/4",
        "::/96", "::ffff:0:0/96", "64:ff9b:1::/48", "100::/64", "2001::/32", "2002::/16", "fc00::/7", "fe80::/10", "fec0::/10",
        "ff00::/8",
    )
)  # fmt: skip
#: A translator's prefix (RFC 6052): the last 32 bits are an IPv4 address.
_NAT64 = ip_network("64:ff9b::/96")
#: Wider routes without a gateway are a tunnel's, not a link's.
_WIDEST = {4: 8, 6: 32}


@dataclass(frozen=True)
class Ground:
    """What stands around a fetcher. ``connected``: the prefixes of the node's links, its own addresses among them;
    ``opened``: what the node's owner opens all the same."""

    nameservers: tuple[Address, ...] = ()
    connected: tuple[Network, ...] = ()
    opened: tuple[Network, ...] = ()

    def closes(self, address: Address) -> bool:
        """Whether a fetcher's packets to it are refused (name servers' port 53 aside)."""
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return not _within(address, self.opened) and _within(address, self.closed())

    def closed(self) -> tuple[Network, ...]:
        plain = (*_CLOSED, *self.connected)
        return tuple(sorted({*plain, *(_translated(block) for block in plain if block.version == 4)}, key=str))


def _within(address: Address, blocks: Iterable[Network]) -> bool:
    return any(address in block for block in blocks if block.version == address.version)


def _translated(block: Network) -> Network:
    base = int(_NAT64.network_address) + int(block.network_address)
    return IPv6Network((base, 96 + block.prefixlen))


def rules(ground: Ground, who: str = f"skuid {USER}") -> str:
    """The body of the table that judges the packets of ``who`` (in nftables' words): where they were sent to and, since the
    node may translate that (a cluster's services), where they go; what is open stays open by either."""
    return f"""
{_set("names", ground.nameservers)}
{_set("open", ground.opened)}
{_set("closed", ground.closed())}
chain sent {{
  type filter hook output priority raw; policy accept;
  meta {who} jump judge
}}
chain translated {{
  type filter hook output priority security; policy accept;
  meta {who} jump origin
  meta {who} jump judge
}}
chain origin {{
  meta l4proto {{ tcp, udp }} ct original ip daddr @names4 ct original proto-dst 53 accept
  meta l4proto {{ tcp, udp }} ct original ip6 daddr @names6 ct original proto-dst 53 accept
  ct original ip daddr @open4 accept
  ct original ip6 daddr @open6 accept
}}
chain judge {{
  meta l4proto {{ tcp, udp }} th dport 53 ip daddr @names4 accept
  meta l4proto {{ tcp, udp }} th dport 53 ip6 daddr @names6 accept
  ip daddr @open4 accept
  ip6 daddr @open6 accept
  fib daddr type {{ local, broadcast, anycast, multicast }} jump refuse
  ip daddr @closed4 jump refuse
  ip6 daddr @closed6 jump refuse
}}
chain refuse {{
  reject with icmpx admin-prohibited
}}"""


def _set(name: str, members: Sequence[Address | Network]) -> str:
    text = []
    for version in (4, 6):
        found = ", ".join(str(member) for member in members if member.version == version)
        elements = f" elements = {{ {found} }};" if found else ""
        kind = "ipv4_addr" if version == 4 else "ipv6_addr"
        text.append(f"set {name}{version} {{ type {kind}; flags interval; auto-merge;{elements} }}")
    return "\n".join(text)


def nameservers_of(resolv_conf: str) -> tuple[Address, ...]:
    """Name servers that programs of the node ask, local stubs as well."""
    found = re.findall(r"^[ \t]*nameserver[ \t]+([0-9A-Fa-f:.]+)", resolv_conf, re.MULTILINE)
    return tuple(dict.fromkeys(address for text in found if (address := _address(text)) is not None))


def connected_of(links: Sequence[Any], routes: Sequence[Any]) -> tuple[Network, ...]:
    """From ``ip -json address`` and ``ip -json route``: what is on the node's links, without a router in between."""
    found: set[Network] = set()
    for link in links:
        for info in link.get("addr_info", ()):
            if "local" in info and "prefixlen" in info:
                found.add(ip_network((info["local"], info["prefixlen"]), strict=False))
                found.add(ip_network(info["local"]))
    for route in routes:
        if "dev" in route and not route.keys() & {"gateway", "via", "nexthops"} and route.get("dst") != "default":
            block = ip_network(route["dst"], strict=False)
            if block.prefixlen >= _WIDEST[block.version]:
                found.add(block)
    return tuple(sorted(found, key=str))


def closed_in(said: str, ground: Ground) -> bool:
    """Whether what a fetcher said (``dial tcp ADDRESS:PORT: …``) tells that its way was closed here."""
    found = re.findall(r"dial (?:tcp|udp) (?:\[([0-9A-Fa-f:.]+)(?:%[^\]]*)?\]|([0-9.]+)):\d+", said)
    return any((address := _address(six or four)) is not None and ground.closes(address) for six, four in found)


def _address(text: str) -> Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None
