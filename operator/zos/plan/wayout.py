"""How a node tells whether what its guests send to the Internet gets through its own firewall: a packet as theirs, from the
router, is counted where it comes to the node and again behind the FORWARD rules, and goes no further."""

from __future__ import annotations

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
