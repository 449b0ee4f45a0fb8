"""What may come out of a machine's tap: its own MAC and addresses, so that it can't take a neighbour's place."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv6Address, IPv6Network

from zos.api.publicip import slaac

#: DHCP and DHCPv6 answers: from a server's port, or to a client's (which is all that some clients look at).
_DHCP = "udp sport 67 drop\n  udp dport 68 drop"
_DHCP6 = "udp sport 547 drop\n  udp dport 546 drop"


def body(tap: str, mac: str, ipv4: str | None, ipv6: str | None) -> str:
    """Body of an nftables table of the bridge family. Addresses without prefix length; None: nothing of that family.

    Discovery is held to the same: ARP (RFC 826, probes of RFC 5227) and neighbour discovery (RFC 4861) name only the machine's
    own addresses, and it advertises no router. Fragments can't hide the latter: receivers ignore fragmented discovery
    (RFC 6980). VLAN tags and every other protocol stay inside.

    The input hook is for frames that a bridge keeps for itself before prerouting, but learns the sender of all the same
    (drivers/link.py, `GROUP_FORWARD`).
    """
    rules = [f"ether saddr != {mac} drop"]
    if ipv4 is not None:
        ours = f"arp htype 1 arp ptype ip arp hlen 6 arp plen 4 arp saddr ether {mac}"
        rules += [
            f"ether type arp {ours} arp saddr ip {ipv4} accept",
            f"ether type arp arp operation request {ours} arp saddr ip 0.0.0.0 arp daddr ip {ipv4} accept",
            "ether type ip jump ipv4",
        ]
    if ipv6 is not None:
        rules.append("ether type ip6 jump ipv6")
    chains = [_chain("machine", [*rules, "drop"])]
    if ipv4 is not None:
        chains.insert(0, _chain("ipv4", [_DHCP, f"ip saddr {ipv4} accept"]))
    if ipv6 is not None:
        chains.insert(0, _chain("ipv6", _ipv6(mac, ipv6)))
    hooks = (("prerouting", "dstnat"), ("input", "filter"))
    chains += [
        _chain(hook, [f"type filter hook {hook} priority {priority}; policy accept;", f'iifname "{tap}" jump machine'])
        for hook, priority in hooks
    ]
    return "\n" + "\n".join(chains)


def _ipv6(mac: str, address: str) -> list[str]:
    own = (slaac(IPv6Network("fe80::/64"), mac), IPv6Address(address))
    sources = f"{{ {', '.join(map(str, own))} }}"
    targets = f"@th,64,128 {{ {', '.join(f'{int(one):#034x}' for one in own)} }}"
    others = targets.replace("{", "!= {")
    return [
        _DHCP6,
        "icmpv6 type { nd-router-advert, nd-redirect, router-renumbering, mld-listener-query } drop",
        f"icmpv6 type nd-neighbor-advert {others} drop",
        f"ip6 saddr :: icmpv6 type nd-neighbor-solicit {targets} accept",
        "ip6 saddr :: icmpv6 type { nd-router-solicit, mld2-listener-report } accept",
        f"ip6 saddr {sources} accept",
    ]


def _chain(name: str, rules: Sequence[str]) -> str:
    return "\n".join([f"chain {name} {{", *(f"  {rule}" for rule in rules), "}"])
