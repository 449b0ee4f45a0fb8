"""Where a network may connect to through a node: what the grid says of it, and the rules that follow on the node.

Closed by default is what only the node should reach: itself, the networks that it is connected to, link-local addresses, and what
administrators name. The internet is open. The rules stand in the network's router, where everything leaves that runs in the
network, and before the node rewrites any destination (a Service's address, a forwarded port).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network, ip_address, ip_network, summarize_address_range

from zos.api.farm import Farm
from zos.api.gridnode import GridNode
from zos.api.nodeworkload import EgressOnNode
from zos.plan.facts import Facts
from zos.world.store import Indexes, Reader

INDEXES = (Indexes(GridNode), Indexes(Farm))

#: Addresses of the pairs between the node and its routers; the network's port, unique on the node, picks one.
UPLINKS = IPv4Address("100.126.0.0")
#: Nobody's, whatever a node is connected to: this host, loopback, link-local with the clouds' metadata servers, uplinks of routers,
#: groups, reserved. (IANA IPv4 Special-Purpose Address Registry.)
_NEVER = ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", f"{UPLINKS}/15", "224.0.0.0/3")

_Span = tuple[int, int]


def egress(node: str, world: Reader) -> EgressOnNode:
    """What the grid says of a node."""
    said = world.view(GridNode, "", node, lambda node: (node.spec.egress.deny, node.spec.egress.allow)) or ((), ())
    given = world.all_view(Farm, lambda farm: tuple(_given(farm)))
    return EgressOnNode(deny=said[0], allow=said[1], public=_texts(span for spans in given for span in spans))


def _given(farm: Farm) -> Iterator[_Span]:
    """What a farm gives to machines: its ranges without its routers and whatever else has an address there by itself."""
    for range_ in farm.spec.public_ipv4:
        start, last = range_.numbers[0], range_.numbers[-1]
        for number in sorted(range_.reserved):
            if start < number:
                yield start, number - 1
            start = number + 1
        if start <= last:
            yield start, last


def rules(said: EgressOnNode, facts: Facts) -> list[str]:
    """Rules of a chain through which goes what leaves by the uplink; what they do not reject may go. One set a rule, the
    strongest first."""
    assert facts.prefixes is not None
    servers = [server for server in facts.nameservers if ip_address(server.partition("%")[0]).version == 4]
    return [
        "meta nfproto ipv6 drop",  # a router has no IPv6 that leads anywhere
        *_rule(said.allow, "accept"),
        *_rule(servers, "meta l4proto { tcp, udp } th dport 53 accept"),
        *_rule([*_NEVER, *said.deny, *facts.egress_deny], _REJECT),
        *_rule(said.public, "accept"),
        *_rule(facts.prefixes, _REJECT),
    ]


#: An answer, so that nobody waits for one.
_REJECT = "reject with icmp admin-prohibited"


def _rule(ranges: Iterable[str], verdict: str) -> list[str]:
    spans = _merged(span for text in ranges for span in _span(text))
    return [f"ip daddr {{ {', '.join(map(_text, spans))} }} {verdict}"] if spans else []


def _span(text: str) -> Iterator[_Span]:
    """Of a CIDR, an address or ``first-last``. IPv6: nothing. Raises ValueError for what is none of them."""
    if "-" in text:
        first, last = map(ip_address, text.split("-"))
        spans = [*summarize_address_range(first, last)]  # type: ignore[type-var]
    else:
        spans = [ip_network(text, strict=False)]
    yield from ((int(span[0]), int(span[-1])) for span in spans if isinstance(span, IPv4Network))


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


def _texts(spans: Iterable[_Span]) -> tuple[str, ...]:
    return tuple(map(_text, _merged(spans)))
