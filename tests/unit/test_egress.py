"""What is closed and open where a network leaves its node: the sets of the rules, and who says what."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as some

from known import facts
from zos.agent.settings import parse
from zos.kinds.network import egress
from zos.kinds.network.part import EgressOnNode
from zos.plan.facts import Unknown

ADDRESSES = some.integers(2**24, 2**24 + 600)


def addresses(rule: str) -> set[int]:
    """Those of a rule's set."""
    found: set[int] = set()
    for element in rule.split("{ ")[1].split(" }")[0].split(", "):
        first, _, last = element.partition("-")
        base, _, length = first.partition("/")
        start = int(IPv4Address(base))
        end = int(IPv4Address(last)) if last else start + 2 ** (32 - int(length or 32)) - 1
        assert not found & set(range(start, end + 1)), "nftables refuses elements that overlap"
        found.update(range(start, end + 1))
    return found


@given(some.lists(some.tuples(ADDRESSES, some.integers(0, 40)), min_size=1, max_size=8))
def test_a_set_has_what_its_ranges_have(ranges: list[tuple[int, int]]) -> None:
    texts = tuple(f"{IPv4Address(first)}-{IPv4Address(first + more)}" for first, more in ranges)
    rules = egress.rules(EgressOnNode(allow=texts), facts(prefixes=()))
    allowed = next(rule for rule in rules if rule.endswith("return"))
    assert addresses(allowed) == {first + number for first, more in ranges for number in range(more + 1)}


def test_the_strongest_word_comes_first() -> None:
    said = EgressOnNode(deny=("10.1.0.0/16",), allow=("10.2.0.1/32",), public=("10.3.0.1-10.3.0.6",))
    known = facts(prefixes=("10.0.0.0/8",), nameservers=("10.4.0.1",), egress_deny=("10.5.0.0/16",))
    rules = egress.rules(said, known)
    order = [
        next(number for number, rule in enumerate(rules) if text in rule)
        for text in ("10.2.0.1", "10.4.0.1", "10.1.0.0", "10.3.0.1")
    ]
    assert order == sorted(order)
    assert "10.5.0.0/16" in rules[order[2]]
    assert rules[-1].startswith("ip daddr { 10.0.0.0/8 } reject")


def test_a_pod_that_comes_or_goes_changes_no_rule_where_pods_are_closed() -> None:
    def rules(*prefixes: str) -> list[str]:
        return egress.rules(EgressOnNode(deny=("10.3.0.0/16",)), facts(prefixes=prefixes, egress_deny=("10.244.0.0/16",)))

    assert rules("192.0.2.0/24", "10.244.1.7/32", "10.3.0.0/24") == rules("192.0.2.0/24")
    assert rules("192.0.2.0/24", "10.245.1.7/32") != rules("192.0.2.0/24")
    assert "10.0.0.0/8" in rules("10.0.0.0/8")[-1], "what is closed in part is not closed"


def test_ipv6_has_no_way_out_whatever_is_said() -> None:
    rules = egress.rules(EgressOnNode(allow=("::/0",)), facts(prefixes=()))
    assert rules[0] == "meta nfproto ipv6 drop"
    assert not any("return" in rule for rule in rules)


def test_what_the_node_is_connected_to_must_be_known() -> None:
    with pytest.raises(Unknown, match="networks it is connected to"):
        egress.rules(EgressOnNode(), facts())


@pytest.mark.parametrize("text", ["10.0.0.0/8; flush ruleset", "10.0.0.0/8 }", "10.0.0.1-", "10.0.0.9-10.0.0.1 accept", "x"])
def test_what_is_no_range_never_gets_into_rules(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the lowering fails and what is there stays
        egress.rules(EgressOnNode(deny=(text,)), facts(prefixes=()))


def test_an_agent_is_told_what_is_closed_everywhere() -> None:
    settings = parse(["--node", "n"], {"ZOS_EGRESS_DENY": "10.244.0.0/16, 10.96.0.0/12,2001:db8::/32"})
    assert settings.egress_deny == ("10.244.0.0/16", "10.96.0.0/12", "2001:db8::/32")
    assert parse(["--node", "n"], {}).egress_deny == ()
    with pytest.raises(SystemExit):
        parse(["--node", "n", "--egress-deny", "10.244.0.1/16"], {})
