"""What a program with an address of its own lets in."""

from __future__ import annotations

import pytest

from zos.api import names
from zos.api.nodeworkload import Nic
from zos.plan.attachment import attached
from zos.plan.items import Firewall

NIC = Nic(
    network_uid="uid-net", ip="10.20.4.9", prefixlen=24, mac=names.mac("uid"), mtu=1420, gateway="10.20.4.1",
    ip_range="10.20.0.0/16",
)  # fmt: skip


@pytest.mark.parametrize(
    ("opened", "rules"),
    [
        ({}, []),
        ({"tcp": (443, 80)}, ["tcp dport { 80, 443 } accept"]),
        ({"udp": (53,)}, ["udp dport { 53 } accept"]),
        ({"udp": {53}, "tcp": {53}}, ["tcp dport { 53 } accept", "udp dport { 53 } accept"]),
    ],
)
def test_only_what_it_serves_is_let_in_by_its_protocol(opened: dict[str, tuple[int, ...]], rules: list[str]) -> None:
    items = attached("uid", "w", NIC, **opened)
    (body,) = (item.body for item in items if isinstance(item, Firewall) and item.netns == names.resident("uid"))
    assert [line.strip() for line in body.splitlines() if "dport" in line] == rules
    assert body.count("policy drop") == 2
