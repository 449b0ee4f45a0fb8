"""Machines of a network find each other by name, whatever nodes they are on."""

from __future__ import annotations

import base64
import time
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Named:
    """A network whose machines are asked for by name, on the gateway of its first node, 10.20.3.1."""

    grid: Grid
    guests: Guests
    uid: str

    @property
    def service(self) -> str:
        return f"names-{names.ident(self.uid)}"

    def asked(self, name: str, node: str = "n1", at: str = "10.20.3.1") -> str:
        return self.grid.in_router(node, names.router(self.uid), "busybox", "nslookup", name, at, check=False)


def network(grid: Grid, namespace: str, *nodes: str) -> Guests:
    """With a laptop that wants names, through n2."""
    made = Guests(grid, namespace)
    wanted = [{"name": name, "subnet": f"10.20.{number}.0/24"} for number, name in enumerate(nodes, 3)]
    access = [{"name": "laptop", "dns": True, "node": "n2"}]
    grid.apply(namespace, obj("Network", NETWORK, ipRange="10.20.0.0/16", nodes=wanted, access=access))
    return made


def find_each_other(guests: Guests) -> Named:
    """Machines one and two, on two nodes, and the rest of the world."""
    grid, namespace = guests.grid, guests.namespace
    guests.apply("one", LOOK.format(other="two"))
    guests.apply("two", LOOK.format(other="one"), nodeName="n2")
    guests.ready("one", "two")
    for machine in ("one", "two"):
        said = guests.prints(machine, "^outside$")
        assert {"whole", "reached", "outside"} <= set(said.splitlines()), said
    network = grid.get("network", NETWORK, namespace)
    assert network is not None
    named, ip = Named(grid, guests, network["metadata"]["uid"]), guests.status("two")["ip"]
    assert f"Address: {ip}\n" in named.asked("two.private.zos")
    assert "NXDOMAIN" in named.asked("three.private.zos")
    assert "name = two.private.zos" in named.asked(ip)
    # Of another node's gateway they are as good.
    assert f"Address: {ip}\n" in named.asked("two", "n1", "10.20.4.1")
    # A laptop that wants it is told whom to ask, and is answered.
    secret = grid.get("secret", "private-laptop-wireguard", namespace)
    assert secret is not None
    file = base64.b64decode(secret["data"]["wg0.conf"]).decode()
    assert "DNS = 10.20.4.1, private.zos\n" in file
    return named


def is_killed_and_back(named: Named) -> None:
    """Who answers on n1; nobody is restarted for that."""
    grid, ip = named.grid, named.guests.status("two")["ip"]
    pid = grid.run("n1", "s6-svstat", "-o", "pid", f"/run/service/zos-svc-{named.service}").strip()
    grid.run("n1", "kill", "-9", pid)
    began = time.monotonic()
    until(lambda: f"Address: {ip}\n" in named.asked("two"), 20)
    print(f"back after {time.monotonic() - began:.1f} s")
    assert REGISTRY.partition(":")[0] in named.asked("registry.grid.example")


def what_is_gone_has_no_name(named: Named) -> None:
    guests = named.guests
    guests.delete("zmachine", "two")
    began = time.monotonic()
    guests.prints("one", "^lost$", 30)
    print(f"gone after {time.monotonic() - began:.1f} s")
    assert "NXDOMAIN" in named.asked("two.private.zos")
    status = guests.status("one")
    assert status.get("restarts", 0) == 0
    assert not [one for one in status["conditions"] if one["type"] == "RestartRequired" and one["status"] == "True"]
