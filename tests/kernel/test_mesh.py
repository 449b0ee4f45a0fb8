"""A whole grid whose nodes have the kernel's own WireGuard: `hack/kernel-tests mesh`. Not collected elsewhere: it takes a guest
with such a kernel some ten minutes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness import Grid, obj, until
from zos.api import names

NODES = ("n1", "n2")


@pytest.fixture
def grid() -> Iterator[Grid]:
    made = Grid("kernel")
    try:
        made.minigrid("up", "--nodes", str(len(NODES)), "--hidden", "0", timeout=2400)
        yield made
    finally:
        made.minigrid("down", timeout=300)


def test_a_network_on_kernel_wireguard(grid: Grid) -> None:
    grid.apply("default", obj("Network", "lan", ipRange="10.20.0.0/16", nodes=[{"name": name} for name in NODES]))
    grid.ready("default", "network/lan", seconds=600)
    network = grid.get("network", "lan", "default")
    assert network is not None
    router, interface = names.router(network["metadata"]["uid"]), names.wireguard(network["metadata"]["uid"])
    gateways = {entry["name"]: entry["subnet"].replace(".0/24", ".1") for entry in network["status"]["nodes"]}
    for name, other in (NODES, reversed(NODES)):
        inside = ("ip", "netns", "exec", router)
        assert "\n    wireguard " in grid.run(name, *inside, "ip", "-details", "link", "show", interface)
        assert f"wireguard-go -f {interface}" not in grid.run(name, "ps", "axww", "-o", "args")
        ping = (*inside, "ping", "-c1", "-W2", gateways[other])
        until(lambda name=name, ping=ping: "1 received" in grid.run(name, *ping, check=False), 60, f"{name} reaches {other}")
