"""What a network's range hides that somebody in it needs is told, naming node, range and what to do; all else goes on."""

from __future__ import annotations

from typing import Any

import pytest

from cases import world_of
from fixpoint import resolve, settle
from zos.api.gridnode import GridNode
from zos.api.meta import Reason
from zos.api.network import Network
from zos.api.nodeworkload import NodeWorkload
from zos.world.heartbeat import Heartbeat
from zos.world.resolution import Resolution

KEY = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="


def resolution(
    *,
    ip_range: str = "10.20.0.0/16",
    endpoint: str = "198.51.100.1",
    nameservers: list[str] | None = None,
    allow: tuple[str, ...] = (),
    nodes: int = 1,
) -> Resolution:
    world = world_of(())
    names = [f"n{number + 1}" for number in range(nodes)]
    for name in names:
        status: dict[str, Any] = {
            "prekeys": [KEY.replace("x", name[-1], 1)],
            "agentVersion": "0.2",
            "nameservers": nameservers or [],
        }
        spec = {"endpoint": {"ipv4": endpoint}, "egress": {"allow": list(allow)}}
        world.put(GridNode.model_validate({"metadata": {"name": name, "uid": f"u-{name}"}, "spec": spec, "status": status}))
        world.put(Heartbeat.model_validate({"metadata": {"name": name}, "alive": True}))
    wanted = {"ipRange": ip_range, "nodes": [{"name": name} for name in names], "access": [{"name": "laptop"}]}
    meta = {"name": "net", "namespace": "d", "uid": "u-net", "generation": 1}
    world.put(Network.model_validate({"metadata": meta, "spec": wanted}))
    settle(world, ("GridNode", "Network"))
    assert any(world.all(NodeWorkload.KIND))
    network: Any = world.peek(Network.key_of("d", "net"))
    return resolve(network, world)


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (
            {"nameservers": ["9.9.9.9", "10.20.0.53", "fd00::53"]},
            "name server 10.20.0.53 of node n1 can't be asked, since in this network",
        ),
        (
            {"nameservers": ["100.64.20.1"]},
            "name server 100.64.20.1 of node n1 can't be asked, since in this network 100.64.20.0/24",
        ),
        ({"allow": ("10.20.9.0/24",)}, "10.20.9.0/24, opened by GridNode n1 (spec.egress.allow), can't be reached"),
        ({"endpoint": "10.20.0.7"}, "laptop laptop: the endpoint 10.20.0.7 of its access node n1 lies in 10.20.0.0/16"),
    ],
)
def test_what_the_range_hides_is_told_and_the_network_goes_on(what: dict[str, Any], words: str) -> None:
    found = resolution(**what)
    assert not found.verdict.ready
    assert found.verdict.reason is Reason.CONFLICT
    assert words in found.verdict.message
    assert "make a network with another range" in found.verdict.message
    assert [workload.part is not None for workload in found.workloads or ()] == [True]


def test_what_many_nodes_have_to_say_is_said_once() -> None:
    said = resolution(nameservers=["10.20.0.53"], nodes=5).verdict.message
    assert said.count("10.20.0.53") == 1
    assert "of nodes n1, n2, n3 and 2 more can't be asked" in said


@pytest.mark.parametrize(
    "what",
    [
        {"nameservers": ["10.21.0.53", "fd00::53", "fe80::1%eth0", "100.64.21.1"]},
        {"allow": ("10.0.0.0/8", "10.21.0.0/16", "fd00::/8")},
        {"endpoint": "10.21.0.7"},
    ],
)
def test_what_lies_beside_it_is_in_nobodys_way(what: dict[str, Any]) -> None:
    assert resolution(**what).verdict.ready
