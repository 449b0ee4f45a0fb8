"""Machines of a network find each other by name, on whatever nodes they are, and everything else as before."""

from __future__ import annotations

import base64
import time

import pytest

from guests import NETWORK, Guests
from harness import REGISTRY, Grid, obj, until
from zos.api import names

#: Says once what it sees of another machine, and again when that has gone.
LOOK = """
ask() {{ nslookup $1 2>&1 | grep -q '^Name:'; }}
until ask {other}; do sleep 1; done
ask {other}.private.zos && echo whole
until ping -c 1 -W 5 {other}; do sleep 1; done
echo reached
ask registry.grid.example && echo outside
while ask {other}; do sleep 1; done
echo lost; while :; do sleep 1; done
"""


@pytest.fixture
def guests(grid: Grid, namespace: str) -> Guests:
    """Two nodes of the network, and n3 only because it is listed."""
    made = Guests(grid, namespace)
    wanted = [{"name": name, "subnet": f"10.20.{number}.0/24"} for number, name in enumerate(("n1", "n2", "n3"), 3)]
    access = [{"name": "laptop", "dns": True, "node": "n2"}]
    grid.apply(namespace, obj("Network", NETWORK, ipRange="10.20.0.0/16", nodes=wanted, access=access))
    return made


def test_machines_resolve_each_other_on_two_nodes_and_the_rest_of_the_world(guests: Guests) -> None:
    grid, namespace = guests.grid, guests.namespace
    guests.apply("one", LOOK.format(other="two"))
    guests.apply("two", LOOK.format(other="one"), nodeName="n2")
    guests.ready("one", "two")
    for machine in ("one", "two"):
        said = guests.prints(machine, "^outside$")
        assert {"whole", "reached", "outside"} <= set(said.splitlines()), said
    network = grid.get("network", NETWORK, namespace)
    assert network is not None
    uid = network["metadata"]["uid"]
    router, service = names.router(uid), f"names-{names.ident(uid)}"

    def asked(name: str, node: str = "n1", at: str = "10.20.3.1") -> str:
        return grid.run(node, "ip", "netns", "exec", router, "busybox", "nslookup", name, at, check=False)

    ip = guests.status("two")["ip"]
    assert f"Address: {ip}\n" in asked("two.private.zos")
    assert "NXDOMAIN" in asked("three.private.zos")
    assert "name = two.private.zos" in asked(ip)
    # Of another node's gateway they are as good; a node on which nobody asks has none.
    assert f"Address: {ip}\n" in asked("two", "n1", "10.20.4.1")
    assert service not in grid.run("n3", "ls", "/run/service")
    (workload,) = [one for one in grid.items("nodeworkloads", "zos-node-n3") if one["spec"]["owner"]["uid"] == uid]
    assert "names" not in workload["spec"]["part"]["network"]
    # A laptop that wants it is told whom to ask, and is answered.
    secret = grid.get("secret", "private-laptop-wireguard", namespace)
    assert secret is not None
    file = base64.b64decode(secret["data"]["wg0.conf"]).decode()
    assert "DNS = 10.20.4.1, private.zos\n" in file
    # Killed, it is back, and nobody is restarted for that.
    pid = grid.run("n1", "s6-svstat", "-o", "pid", f"/run/service/zos-svc-{service}").strip()
    grid.run("n1", "kill", "-9", pid)
    began = time.monotonic()
    until(lambda: f"Address: {ip}\n" in asked("two"), 20)
    print(f"back after {time.monotonic() - began:.1f} s")
    assert REGISTRY.partition(":")[0] in asked("registry.grid.example")
    # What has gone has no name.
    guests.delete("zmachine", "two")
    began = time.monotonic()
    guests.prints("one", "^lost$", 30)
    print(f"gone after {time.monotonic() - began:.1f} s")
    assert "NXDOMAIN" in asked("two.private.zos")
    assert guests.status("one").get("restarts", 0) == 0
    status = guests.status("one")
    assert not [one for one in status["conditions"] if one["type"] == "RestartRequired" and one["status"] == "True"]
