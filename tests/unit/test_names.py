"""Names that are made of other names: valid where they go, and of two different ones never the same."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zos.api import names
from zos.api.text import is_name
from zos.manifests.rbac import controller_objects

_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
#: Names as objects have them, up to 253 characters, many of which begin and end alike.
NAMES = st.one_of(
    st.from_regex(rf"\A{_LABEL}([.]{_LABEL}){{0,3}}\Z"),
    st.builds("{}{}{}".format, st.sampled_from(["a" * 60, "a." * 60, "a-b" * 20]), st.integers(0, 9), st.just("z" * 60)),
    st.integers(1, 253).map("x".__mul__),
).filter(is_name)
UIDS = st.uuids().map(str)


@given(NAMES)
def test_a_hostname_is_what_linux_and_dns_take(name: str) -> None:
    found = names.hostname(name)
    assert len(found) <= 63
    assert is_name(found)
    assert found == name or re.fullmatch(_LABEL, found)


@given(NAMES, NAMES)
def test_two_machines_have_two_hostnames_and_two_nodes_two_namespaces(one: str, other: str) -> None:
    for make in (names.hostname, names.node_namespace):
        assert (make(one) == make(other)) == (one == other)
    assert re.fullmatch(_LABEL, names.node_namespace(one))


@pytest.mark.parametrize(
    "make", [names.uplink, names.wireguard, names.segment, lambda uid: names.tap(uid, 16), lambda uid: names.wire(uid, 16)]
)
@given(one=UIDS, other=UIDS)
def test_interfaces_have_names_that_the_kernel_takes(make: Callable[[str], str], one: str, other: str) -> None:
    assert re.fullmatch(r"[a-z]-[a-z0-9-]+", make(one))
    assert len(make(one)) <= 15  # IFNAMSIZ less the NUL
    assert (make(one) == make(other)) == (one == other)


def test_no_nodes_namespace_is_anothers_and_no_role_of_the_installation_is_a_nodes() -> None:
    assert names.node_namespace("a-b-c") == "zos-node-a-b-c"
    for node in ("a.b.c", "a-b.c", "a" * 60, "token.", "-a", "a-", "x" * 253):
        assert re.fullmatch(r"zos-node--[a-z0-9][-a-z0-9]{0,51}[a-z0-9]", names.node_namespace(node)), node
    assert len({names.node_namespace(node) for node in ("a.b", "a-b", "a..b", "a.b.")}) == 4
    roles = [one["metadata"]["name"] for one in controller_objects() if one["kind"].startswith("ClusterRole")]
    assert [name for name in roles if name.startswith(names.NODE_PREFIX)] == [], "some node is called so"
