"""How a node tells whether what its guests send and get passes its own firewall.

Of a network: a packet as theirs, from the router, is counted where it comes to the node and again behind the FORWARD rules, and
goes no further. Of a public address: what the machine itself says and is told is counted where the node's bridge is about to
pass it on and again where it has, for where br_netfilter is loaded the FORWARD rules are in between.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

#: Where the packet is for, so that it is routed and judged like those of guests. It never leaves the node.
TARGET = "1.1.1.1"
PORT = 443
#: What tells it from others: no system begins with that, and the node counts one hop.
TTL = 77
SENT, PASSED = "probe-sent", "probe-passed"


def rules(uplink: str, router: str) -> str:
    """Counters and chains for the network's table on the node. ``router`` is the address that the router masquerades as."""
    packet = f"ip saddr {router} ip daddr {TARGET} tcp dport {PORT} ip ttl"
    return f"""
counter {SENT} {{
}}
counter {PASSED} {{
}}
chain {SENT} {{
  type filter hook prerouting priority mangle; policy accept;
  iifname "{uplink}" {packet} {TTL} counter name "{SENT}"
}}
chain {PASSED} {{
  type filter hook postrouting priority srcnat - 5; policy accept;
  {packet} {TTL - 1} counter name "{PASSED}" drop
}}"""


#: Counters of a public interface, (before, behind), by family in nft's words.
BRIDGED: Mapping[str, tuple[str, str]] = {family: (f"{family}-comes", f"{family}-passed") for family in ("ip", "ip6")}


def bridged(tap: str, families: Sequence[str]) -> str:
    """Counters and chains for the guard of a public interface. Whatever has a say on bridges has it in between: ebtables, the
    bridge family's filters (-200), br_netfilter (0)."""
    counters = "".join(f"counter {name} {{\n}}\n" for family in families for name in BRIDGED[family])

    def chain(word: str, priority: int, index: int) -> str:
        rules = "".join(
            f'  {end} "{tap}" ether type {family} counter name "{BRIDGED[family][index]}"\n'
            for end in ("iifname", "oifname")
            for family in families
        )
        return f"chain {word} {{\n  type filter hook forward priority {priority}; policy accept;\n{rules}}}\n"

    return f"\n{counters}{chain('comes', -300, 0)}{chain('passed', 300, 1)}"
