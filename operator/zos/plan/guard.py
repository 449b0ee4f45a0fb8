"""What may come out of the port of a machine or another resident: its own MAC and addresses, so that it can't take a
neighbour's place.

Only what is named here goes out. Nothing of it rests on finding a header behind other headers: each rule looks at fixed places
of one plain form, and what has another form stays inside. So a chain of extension headers hides nothing, whatever the kernel
makes of it before or after (br_netfilter, defragmentation).
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv6Address, IPv6Network

from zos.api.publicip import slaac

#: Without a server's port, and not to a client's (which is all that some clients look at), nor to a RIP router's: DHCP (RFC
#: 2131), RIP (RFC 2453); DHCPv6 (RFC 8415), RIPng (RFC 2080).
_UDP = "udp sport != 67 udp dport != { 68, 520 } accept"
_UDP6 = "udp sport != 547 udp dport != { 546, 521 } accept"
#: In the groups of one link live the protocols of routers: VRRP, HSRP, GLBP, RIP, OSPF, EIGRP, PIM … Machines have mDNS (RFC
#: 6762), LLMNR (RFC 4795) and the question for a DHCPv6 server.
_LINK_GROUPS = "udp dport { 5353, 5355 } accept"
_LINK_GROUPS6 = "udp dport { 547, 5353, 5355 } accept"
#: Errors and echo; no redirect, no router discovery (RFC 1256, 4861), nothing that asks for routes, groups or names.
_ICMP = "icmp type { echo-reply, destination-unreachable, echo-request, time-exceeded, parameter-problem } accept"
_ICMP6 = (
    "icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem, echo-request, echo-reply } accept"
)
#: Tunnels of machines among each other: SCTP, GRE, ESP, IPv4 and IPv6 in IPv4.
_TUNNELS = "ip protocol { sctp, gre, esp, ipencap, ipv6 } ip daddr != 224.0.0.0/3 accept"
#: A fragment that is not the first has no ports and no type, and needs none: the first has them all, as fragments begin at
#: multiples of 8 bytes.
_LATER = "ip frag-off & 0x1fff != 0 accept"
#: Hop-by-hop options as a report of multicast listening has them (RFC 2710, 3810): ICMPv6 follows, a router alert, padding.
_ALERT = "@nh,320,64 0x3a00050200000100"
#: Reports (131, 143) and done (132), behind such a header.
_LISTENING = "@nh,384,8 { 131, 132, 143 }"


def body(tap: str, mac: str, ipv4: str | None, ipv6: str | None) -> str:
    """Body of an nftables table of the bridge family. Addresses without prefix length; None: nothing of that family.

    Discovery is held to the same: ARP (RFC 826, probes of RFC 5227) and neighbour discovery (RFC 4861) name only the machine's
    own addresses and MAC, and it advertises no router. VLAN tags and every other protocol stay inside.

    The input hook is for frames that a bridge keeps for itself before prerouting, but learns the sender of all the same
    (drivers/devices.py, `GROUP_FORWARD`).
    """
    rules = [f"ether saddr != {mac} drop"]
    chains: list[str] = []
    if ipv4 is not None:
        ours = f"arp htype 1 arp ptype ip arp hlen 6 arp plen 4 arp saddr ether {mac}"
        rules += [
            "ether type ip goto ipv4",
            f"ether type arp arp operation {{ request, reply }} {ours} arp saddr ip {ipv4} "
            "arp daddr ip != 169.254.0.0/16 accept",
            f"ether type arp arp operation request {ours} arp saddr ip 0.0.0.0 arp daddr ip {ipv4} accept",
        ]
        chains += _ipv4(ipv4)
    if ipv6 is not None:
        rules.append("ether type ip6 goto ipv6")
        chains += _ipv6(mac, ipv6)
    chains.append(_chain("machine", [*rules, "drop"]))
    hooks = (("prerouting", "dstnat"), ("input", "filter"))
    chains += [
        _chain(hook, [f"type filter hook {hook} priority {priority}; policy accept;", f'iifname "{tap}" jump machine'])
        for hook, priority in hooks
    ]
    return "\n" + "\n".join(chains)


def _ipv4(address: str) -> list[str]:
    """Without options (source routing). Not to link-local addresses, which a cloud's metadata server has, nor to a loopback
    address, which a node that routes such (route_localnet, as kube-proxy sets it) would take for its own."""
    return [
        _chain("udp4", [_LATER, f"ip daddr 224.0.0.0/24 {_LINK_GROUPS}", "ip daddr 224.0.0.0/24 drop", _UDP, "drop"]),
        _chain("icmp4", [_LATER, _ICMP, "drop"]),
        _chain(
            "ipv4",
            [
                "@nh,0,8 != 0x45 drop",
                f"ip saddr != {address} drop",
                "ip daddr 127.0.0.0/8 drop",
                "ip daddr 169.254.0.0/16 drop",
                "ip protocol tcp accept",
                "ip protocol udp goto udp4",
                "ip protocol icmp goto icmp4",
                _TUNNELS,
                "drop",
            ],
        ),
    ]


def _ipv6(mac: str, address: str) -> list[str]:
    """TCP, UDP and ICMPv6 right behind the fixed header. Fragments are among what stays inside."""
    own = (slaac(IPv6Network("fe80::/64"), mac), IPv6Address(address))
    sources = f"ip6 saddr {{ {', '.join(map(str, own))} }}"
    about_own = f"@nh,384,128 {{ {', '.join(f'{int(one):#034x}' for one in own)} }}"
    number = int(mac.replace(":", ""), 16)

    def option(kind: int, at: int) -> str:
        """The only option, and it names the own MAC (RFC 4861, 4.6.1)."""
        return f"@nh,{at},64 {kind << 56 | 1 << 48 | number:#018x}"

    discovery = [
        f"icmpv6 type nd-neighbor-solicit ip6 length 24 {sources} accept",
        f"icmpv6 type nd-neighbor-solicit ip6 length 32 {option(1, 512)} {sources} accept",
        f"icmpv6 type nd-neighbor-advert ip6 length 24 {about_own} {sources} accept",
        f"icmpv6 type nd-neighbor-advert ip6 length 32 {option(2, 512)} {about_own} {sources} accept",
        f"icmpv6 type nd-neighbor-solicit ip6 length 24 ip6 saddr :: {about_own} accept",
        f"icmpv6 type nd-neighbor-solicit ip6 length 32 @nh,512,16 0x0e01 ip6 saddr :: {about_own} accept",  # RFC 7527
        f"icmpv6 type nd-router-solicit ip6 length 8 ip6 saddr {{ ::, {', '.join(map(str, own))} }} accept",
        f"icmpv6 type nd-router-solicit ip6 length 16 {option(1, 384)} {sources} accept",
    ]
    return [
        _chain("udp6", [f"ip6 daddr ff00::/8 {_LINK_GROUPS6}", "ip6 daddr ff00::/8 drop", _UDP6, "drop"]),
        _chain("icmp6", [*discovery, f"{sources} {_ICMP6}", "drop"]),
        _chain(
            "ipv6",
            [
                f"ip6 nexthdr tcp {sources} accept",
                "ip6 nexthdr icmpv6 goto icmp6",
                f"ip6 nexthdr udp {sources} goto udp6",
                f"ip6 nexthdr 0 {_ALERT} {_LISTENING} ip6 saddr {{ ::, {', '.join(map(str, own))} }} accept",
                "drop",
            ],
        ),
    ]


def _chain(name: str, rules: Sequence[str]) -> str:
    return "\n".join([f"chain {name} {{", *(f"  {rule}" for rule in rules), "}"])
