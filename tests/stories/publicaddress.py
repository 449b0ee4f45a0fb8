"""Machines with public addresses: reached from outside the grid, and what of it needs nobody else."""

from __future__ import annotations

import base64
import re
import struct
import subprocess
from collections.abc import Iterable
from ipaddress import IPv6Network
from pathlib import Path

from frames import Party
from harness import IMAGE, Grid, obj, sh, until
from zos.api import names
from zos.api.publicip import slaac

OUTSIDE, OUTSIDE6 = "203.0.113.130", "2001:db8:ff::2"
#: Runs what is posted to it: a machine whose owner is up to something.
RUN = "#!/bin/sh\nprintf 'Content-Type: text/plain\\r\\n\\r\\n'\nhead -c $CONTENT_LENGTH | sh 2>&1\n"
START = (
    "echo $RUN | base64 -d > /www/cgi-bin/run; chmod 755 /www/cgi-bin/run; "
    "echo $FORGE | base64 -d > /bin/forge; chmod 755 /bin/forge; exec /bin/start"
)


def forge(directory: Path) -> str:
    """A program that sends frames as they are, in base64."""
    made, source = directory / "forge", Path(__file__).with_name("forge.c")
    flags = ("-Os", "-static", "-nostdlib", "-ffreestanding", "-fno-stack-protector", "-fno-asynchronous-unwind-tables", "-s")
    sh(
        "gcc",
        *flags,
        "-Wl,--build-id=none",
        "-Wl,-z,noseparate-code",
        "-o",
        str(made),
        str(source),
    )
    return base64.b64encode(made.read_bytes()).decode()


class Place:
    """A namespace with a network and a contract for addresses."""

    def __init__(self, grid: Grid, namespace: str, forge: str) -> None:
        self.grid, self.namespace, self.forge = grid, namespace, forge
        grid.apply(
            namespace,
            obj("Network", "net", ipRange="10.20.0.0/16", nodes=[{"name": "n1"}, {"name": "n2"}]),
            obj("Contract", "addresses", farm="lab", publicIPv4=2),
        )

    def machine(self, name: str, node: str, public: str | None = None) -> None:
        env = [
            {"name": "FORGE", "value": self.forge},
            {"name": "RUN", "value": base64.b64encode(RUN.encode()).decode()},
        ]
        spec = {"image": IMAGE, "memory": "256Mi", "nodeName": node, "network": {"name": "net"}, "env": env}
        if public is not None:
            spec["publicIP"] = public
        self.grid.apply(self.namespace, obj("ZMachine", name, entrypoint=["sh", "-c", START], **spec))

    def address(self, *names: str, **spec: object) -> None:
        self.grid.apply(self.namespace, *(obj("PublicIP", name, contract="addresses", **spec) for name in names))

    def party(self, name: str) -> Party:
        """A machine as the segment sees it. IPv6 is computed here, from the MAC."""
        status = self.status("publicip", name)
        link = slaac(IPv6Network("fe80::/64"), status["mac"])
        return Party(status["mac"], status["ipv4"]["address"].split("/")[0], status["ipv6"]["address"].split("/")[0], str(link))

    def status(self, kind: str, name: str) -> dict:
        return (self.grid.get(kind, name, self.namespace) or {})["status"]

    def inside(self, name: str, script: str) -> str:
        """Runs a script in a machine, through its private address."""
        network = self.grid.get("network", "net", self.namespace)
        assert network is not None
        status = self.status("zmachine", name)
        router = names.router(network["metadata"]["uid"])
        return self.grid.in_router(
            status["nodeName"], router, "curl", "-s", "-m", "60", "--data-binary", script, f"http://{status['ip']}/cgi-bin/run",
        )  # fmt: skip

    def send(self, name: str, sent: Iterable[bytes], device: str = "eth1") -> None:
        """Sends frames out of a machine's interface, by default the public one."""
        text = base64.b64encode(b"".join(struct.pack("!H", len(frame)) + frame for frame in sent)).decode()
        said = self.inside(name, f"base64 -d <<E | forge {device}; echo code $?\n{text}\nE\n")
        assert said == "code 0\n", said

    def tap(self, name: str, number: int = 1) -> str:
        return names.tap(self.uid("zmachine", name), number)

    def uid(self, kind: str, name: str) -> str:
        found = self.grid.get(kind, name, self.namespace)
        assert found is not None
        return str(found["metadata"]["uid"])


def page(grid: Grid, address: str) -> str:
    """What the host outside gets from a machine."""
    host = f"[{address}]" if ":" in address else address
    return grid.run("outside", "curl", "-s", "-m", "3", f"http://{host}/", check=False)


def served(grid: Grid, party: Party, name: str) -> None:
    for address in (party.ipv4, party.ipv6):
        until(lambda address=address: f"hello from {name}\n" in page(grid, address), 20, f"{name} at {address}")


def at(grid: Grid, host: str, *argv: str, router: str = "") -> subprocess.Popen[bytes]:
    """A process in a host's network, or in a router's on it (only there, so that ending it is ending it)."""
    netns = f"/proc/{grid.host(host).pid()}/root/run/netns/{router}" if router else f"/run/netns/mg-{grid.name}-{host}"
    return subprocess.Popen(["nsenter", f"--net={netns}", *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE)


#: Says to everybody who comes what address they came from.
MIRROR = """
import socket
s = socket.create_server(("::", 7000), family=socket.AF_INET6, dualstack_ipv6=True)
print("listening", flush=True)
while True:
    c, a = s.accept()
    c.sendall(a[0].removeprefix("::ffff:").encode() + b"\\n")
    c.close()
"""


def reaches_the_world_and_is_reached(place: Place) -> None:
    """Machine web, with a public address, and its neighbour on another node, which has none."""
    grid = place.grid
    place.address("front")
    place.machine("web", "n1", "front")
    place.machine("peer", "n2")
    grid.ready(place.namespace, "zmachine/web", "zmachine/peer", "publicip/front", "contract/addresses")
    ip, machine = place.status("publicip", "front"), place.status("zmachine", "web")
    party = place.party("front")
    assert (machine["publicIPv4"], machine["publicIPv6"]) == (party.ipv4, party.ipv6)
    assert (ip["machine"], ip["ipv4"]["gateway"]) == ("web", "203.0.113.17")
    served(grid, party, "web")

    own = place.inside("web", "ip -o addr show dev eth1 scope global; ip route; ip -6 route show default")
    assert sorted(re.findall(r"inet6? (\S+)", own)) == sorted([ip["ipv4"]["address"], ip["ipv6"]["address"]]), own
    assert "default via 203.0.113.17 dev eth1" in own
    assert "10.20.0.0/16 via 10.20.2.1 dev eth0" in own
    assert "default via fe80::" in own

    mirror = at(grid, "outside", "python3", "-c", MIRROR)
    try:
        assert mirror.stdout is not None
        assert mirror.stdout.readline() == b"listening\n"
        # No NAT: the outside sees the machine's own addresses.
        assert place.inside("web", f"nc -w 5 {OUTSIDE} 7000") == f"{party.ipv4}\n"
        assert place.inside("web", f"nc -w 5 {OUTSIDE6} 7000") == f"{party.ipv6}\n"
    finally:
        mirror.kill()
        mirror.wait()
    private, get = place.status("zmachine", "peer")["ip"], "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {} 80"
    assert "hello from peer\n" in until(lambda: place.inside("web", get.format(private)), 20)
    assert "hello from web\n" in place.inside("peer", get.format(machine["ip"]))
