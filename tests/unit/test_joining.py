"""Kubernetes Nodes that become GridNodes by themselves: what they ask for, and what nobody takes from an administrator."""

from __future__ import annotations

import re
from typing import Any

import pytest

from zos.api.core import Node
from zos.api.meta import Meta
from zos.api.names import CONTROLLER, ENDPOINT, MANAGED_BY
from zos.kinds.gridnode.joining import (
    MANAGER,
    Membership,
    asked,
    differs,
    endpoint_of,
    gridnode,
    made_here,
    of_others,
)

GIVEN = Membership(farm="home", public_interface="br0", gateway_domain="gw.example.org")


def node(endpoint: str | None = None) -> Node:
    return Node(metadata=Meta(name="n1", annotations={} if endpoint is None else {ENDPOINT: endpoint}))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (None, None),
        ("", None),
        (" ", None),
        ("198.51.100.7", {"ipv4": "198.51.100.7"}),
        ("2001:DB8::7", {"ipv6": "2001:db8::7"}),
        ("198.51.100.7,2001:db8::7", {"ipv4": "198.51.100.7", "ipv6": "2001:db8::7"}),
        (" 2001:db8:0::7 , 10.0.0.7 ", {"ipv4": "10.0.0.7", "ipv6": "2001:db8::7"}),
    ],
)
def test_an_endpoint_is_an_address_of_each_family_at_most(text: str | None, found: dict[str, str] | None) -> None:
    endpoint = endpoint_of(text)
    assert (endpoint.wire() if endpoint is not None else None) == found


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("n1.example.com", "'n1.example.com' is no address"),
        ("198.51.100.7:51820", "is no address"),
        ("198.51.100.0/24", "is no address"),
        ("198.51.100.7,", "'' is no address"),
        ("198.51.100.7,198.51.100.8", "two of IPv4"),
        ("2001:db8::7,2001:db8::8", "two of IPv6"),
        ("127.0.0.1", "none that others can send to"),
        ("0.0.0.0", "none that others can send to"),
        ("255.255.255.255", "none that others can send to"),
        ("224.0.0.1", "none that others can send to"),
        ("169.254.1.1", "none that others can send to"),
        ("::1", "none that others can send to"),
        ("fe80::1", "none that others can send to"),
        ("fe80::1%eth0", "none that others can send to"),
        ("2001:db8::7%eth0", "none that others can send to"),
        ("::ffff:198.51.100.7", "none that others can send to"),
        ("x" * 5000, "is no address"),
    ],
)
def test_what_is_no_endpoint_says_what_is_right_and_changes_nothing(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)) as error:
        endpoint_of(text)
    assert "like 198.51.100.7 or 198.51.100.7,2001:db8::7" in str(error.value)
    assert len(str(error.value)) < 300
    before = {"endpoint": {"ipv4": "198.51.100.1"}, "wireguardPorts": {"from": 52000}}
    found = asked(node(text), GIVEN, before)
    assert (found.fields["endpoint"], found.problem) == (before["endpoint"], str(error.value))
    assert "endpoint" not in asked(node(text), GIVEN, {}).fields


def test_a_node_asks_for_what_it_is_given_and_what_it_says() -> None:
    assert asked(node("198.51.100.7"), GIVEN, {}).fields == {
        "farm": "home",
        "publicInterface": "br0",
        "gatewayDomain": "gw.example.org",
        "endpoint": {"ipv4": "198.51.100.7"},
    }
    assert asked(node(), Membership(), {"endpoint": {"ipv4": "198.51.100.7"}}).fields == {}, "what is taken back goes"


def test_only_what_differs_is_written_and_nothing_of_others() -> None:
    fields = {"farm": "home", "endpoint": {"ipv4": "198.51.100.7"}}
    assert not differs({**fields, "unschedulable": True}, fields)
    for there in ({}, {**fields, "farm": "other"}, {**fields, "publicInterface": "br0"}, {"farm": "home"}):
        assert differs(there, fields), there
    assert not differs({**fields, "farm": "other"}, fields, frozenset({"farm"}))
    assert gridnode("n1", fields, frozenset({"farm"}))["spec"] == {"endpoint": {"ipv4": "198.51.100.7"}}
    assert made_here(gridnode("n1", fields)["metadata"])


def manages(manager: str, *fields: str, **more: Any) -> dict[str, Any]:
    return {"manager": manager, "fieldsV1": {"f:spec": {f"f:{name}": {} for name in fields}}, **more}


def test_what_somebody_else_has_set_is_his() -> None:
    entries = [
        manages(MANAGER, "farm", "endpoint"),
        manages("kubectl-edit", "endpoint", "unschedulable"),
        manages("agent", "publicInterface", subresource="status"),
        {"manager": "zos-controller", "fieldsV1": {"f:metadata": {"f:finalizers": {}}}},
        {"manager": "empty"},
    ]
    assert of_others({"managedFields": entries}) == {"endpoint"}
    assert of_others({}) == frozenset()


@pytest.mark.parametrize("labels", [None, {}, {MANAGED_BY: "Helm"}, {"a": "b"}])
def test_what_does_not_say_that_the_controller_made_it_is_an_administrators(labels: dict[str, str] | None) -> None:
    assert not made_here({"labels": labels})
    assert made_here({"labels": {MANAGED_BY: CONTROLLER}})
