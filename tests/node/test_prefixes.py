"""Which networks a node is in, where the kernel has little to tell."""

from __future__ import annotations

import subprocess

import pytest

from zos.drivers.prefixes import PrefixDriver
from zos.plan.facts import ConnectedFact

pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.mark.parametrize("before", ["true", "ip link set lo up", "ip rule add from 10.0.0.0/8 table 100; ip link set lo up"])
async def test_a_node_without_networks(before: str) -> None:
    """In the last, IPv4's main table is one that was never made."""
    subprocess.run(["sh", "-ec", before], check=True)
    driver = PrefixDriver()
    await driver.observe([])
    assert driver.facts() == {ConnectedFact: {"": ConnectedFact(())}}
