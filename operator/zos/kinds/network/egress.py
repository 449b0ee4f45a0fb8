"""Where a network may connect to through a node: what the grid says of it, and the rules that follow on the node.

Closed by default is what only the node should reach: itself, the networks that it is connected to, link-local addresses, and
what administrators name. The internet is open. The rules stand in the network's router, where everything leaves that runs in
the network, and before the node rewrites any destination (a Service's address, a forwarded port).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network, ip_network, summarize_address_range

from zos.api.farm import Farm, PublicIPv4Range
from zos.api.gridnode import Egress, GridNode
from zos.kinds.network.part import EgressOnNode
from zos.plan.facts import Facts
from zos.world.objects import Indexes
from zos.world.reader import Reader

INDEXES = (Indexes(GridNode), Indexes(Farm))

#: Addresses of the pairs between the node and its routers; the network's port, unique on the node, picks one.
UPLINKS = IPv4Address("100.126.0.0")
#: Closed whatever a node is connected to: this host, loopback, link-local with the clouds' metadata servers, uplinks of
#: routers, groups, reserved. (IANA IPv4 Special-Purpose Address Registry.)
_NEVER = ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", f"{UPLINKS}/15", "224.0.0.0/3")

_Span = tuple[int, int]


def of_node(node: str, world: Reader) -> EgressOnNode:
    """What the grid says of a node."""
    said = world.view(GridNode, "", node, _said) or Egress()
    given = _merged(span for spans in world.views(Farm, _given) for span in spans)
    return EgressOnNode(deny=said.deny, allow=said.allow, public=tuple(map(_text, given)))


def _said(node: GridNode) -> Egress:
    return node.spec.egress


def _given(farm: Farm) -> tuple[_Span, ...]:
    return tuple(span for range_ in farm.spec.public_ipv4 for span in _gaps(range_))


def _gaps(range_: PublicIPv4Range) -> Iterator[_Span]:
    """What a farm gives to machines: its ranges without its routers and whatever else has an address there by itself."""
    start, last = range_.numbers[0], range_.numbers[-1]
    for number in sorted(number for number in range_.reserved if number in range_.numbers):
        if start < number:
            yield start, number - 1
        start = number + 1
    if start <= last:
        yield start, last


def rules(said: EgressOnNode, facts: Facts) -> list[str]:
    """Rules of a chain through which goes what leaves by the uplink; what they do not reject may go. One set a rule, the
    strongest first. Raises Unknown where it is not known what the node is connected to."""
    closed = [*_NEVER, *said.deny, *facts.egress_deny]
    return [
        "meta nfproto ipv6 drop",  # a router has no IPv6 that leads anywhere
        *_rule(said.allow, "return"),
        *names("return", facts),
        *_rule(closed, _REJECT),
        *_rule(said.public, "return"),
        *_rule(_beside(facts.connected(), closed), _REJECT),
    ]


def _beside(ranges: Iterable[str], closed: Iterable[str]) -> list[str]:
    """Those that are not closed already: where a cluster's pods are named, one that comes or goes changes no rule."""
    spans = _merged(span for text in closed for span in _span(text))
    return [text for text in ranges if not all(any(a <= first and last <= b for a, b in spans) for first, last in _span(text))]


def names(verdict: str, facts: Facts) -> list[str]:
    """The rule for the node's name servers."""
    servers = (server for server in facts.nameservers if "%" not in server)
    return _rule(servers, f"meta l4proto {{ tcp, udp }} th dport 53 {verdict}")


#: An answer, so that nobody waits for one.
_REJECT = "reject with icmp admin-prohibited"


def _rule(ranges: Iterable[str], verdict: str) -> list[str]:
    spans = _merged(span for text in ranges for span in _span(text))
    return [f"ip daddr {{ {', '.join(map(_text, spans))} }} {verdict}"] if spans else []


def _span(text: str) -> Iterator[_Span]:
    """Of a CIDR, an address or ``first-last``. IPv6: nothing. Raises ValueError for what is none of them."""
    if "-" in text:
        first, last = map(IPv4Address, text.split("-"))
        yield int(first), int(last)
    elif isinstance(block := ip_network(text, strict=False), IPv4Network):
        yield int(block[0]), int(block[-1])


def _merged(spans: Iterable[_Span]) -> list[_Span]:
    """Sorted, none touching another: nftables takes no set with elements that overlap."""
    found: list[_Span] = []
    for first, last in sorted(spans):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(last, found[-1][1]))
        else:
            found.append((first, last))
    return found


def _text(span: _Span) -> str:
    first, last = map(IPv4Address, span)
    blocks = [*summarize_address_range(first, last)]
    return str(blocks[0]) if len(blocks) == 1 else f"{first}-{last}"
