"""What a minigrid consists of: its hosts, their addresses, their files. Values only."""

from __future__ import annotations

import ipaddress
import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path

#: In a grid's directory: what it was made as, by which it is found.
MADE = "grid.json"
#: Documentation ranges (RFC 5737, RFC 3849): nothing real is behind them.
UNDERLAY = ipaddress.IPv4Network("198.51.100.0/24")
UNDERLAY6 = ipaddress.IPv6Network("2001:db8:0:1::/64")
#: Behind the NAT of hidden nodes.
HIDDEN = ipaddress.IPv4Network("192.168.50.0/24")
#: One /30 for each minigrid, between this machine and its control plane (benchmarking space, RFC 2544: no real network
#: uses it, which can not be said of any private range).
LINKS = ipaddress.IPv4Network("198.19.255.0/24")

#: What the farm of a minigrid has to give, and its router's address in each.
FARM = ipaddress.IPv4Network("203.0.113.16/28")
FARM6 = ipaddress.IPv6Network("2001:db8:1::/64")
#: Behind the farm's router: a host that knows nothing of the grid.
OUTSIDE = ipaddress.IPv4Network("203.0.113.128/30")
OUTSIDE6 = ipaddress.IPv6Network("2001:db8:ff::/64")

#: Where pods have their addresses, a /24 for each node, and services theirs; the first of those is the API server.
PODS = ipaddress.IPv4Network("10.244.0.0/16")
SERVICES = ipaddress.IPv4Network("10.96.0.0/16")

ROUTER = UNDERLAY[1]
CONTROL_PLANE = UNDERLAY[2]
NAT = UNDERLAY[3]
FARM_ROUTER = UNDERLAY[4]
LAPTOP = UNDERLAY[200]
REGISTRY_PORT = 5000
DOMAIN = "grid.example"


class GridError(Exception):
    """Something that the person at the keyboard can mend; the text says how."""


@dataclass(frozen=True)
class Node:
    name: str
    number: int  # from 1 on
    hidden: bool
    bare: bool = False  # its NIC on the farm's segment is a bare one, whatever its number

    @property
    def ipv4(self) -> ipaddress.IPv4Address:
        return (HIDDEN if self.hidden else UNDERLAY)[10 + self.number]

    @property
    def ipv6(self) -> ipaddress.IPv6Address | None:
        return None if self.hidden else UNDERLAY6[10 + self.number]

    @property
    def public_interface(self) -> str:
        """On the farm's segment. Both kinds that a node may have: a bare NIC, or (on every second node) a bridge with it."""
        return "public0" if self.bare or self.number % 2 else "br-public"

    @property
    def pods(self) -> ipaddress.IPv4Network:
        """Where its pods have their addresses."""
        return ipaddress.IPv4Network((int(PODS[0]) + 256 * self.number, 24))


@dataclass(frozen=True)
class Grid:
    """``index`` picks the link to this machine; ``root`` holds everything that the grid keeps. ``owner`` is the process that it
    was made for, if it is not to outlive one: pid and start time. ``kinds`` are modules of kinds beside the product's own.
    ``kubernetes``: nodes have a kubelet, and the product comes by its chart."""

    name: str
    index: int
    root: Path
    nodes: tuple[Node, ...]
    controllers: int = 1
    owner: str = ""
    kinds: tuple[str, ...] = ()
    kubernetes: bool = False

    @property
    def host_address(self) -> ipaddress.IPv4Address:
        return LINKS[4 * self.index + 1]

    @property
    def api_address(self) -> ipaddress.IPv4Address:
        return LINKS[4 * self.index + 2]

    @property
    def kubeconfig(self) -> Path:
        return self.root / "kubeconfig"

    def netns(self, host: str) -> str:
        return f"mg-{self.name}-{host}"

    @property
    def link(self) -> str:
        """This machine's interface to the control plane."""
        return f"mg{self.index}-{self.name[:9]}"

    @property
    def hosts(self) -> tuple[str, ...]:
        return ("switch", "nat", "cp", "laptop", "farm", "outside", *(node.name for node in self.nodes))

    def directory(self, host: str) -> Path:
        return self.root / "hosts" / host

    def save(self) -> None:
        (self.root / "images").mkdir(parents=True, exist_ok=True)  # what nodes take by file://
        data = {**asdict(self), "root": str(self.root)}
        scratch = self.root / f"{MADE}.new"
        scratch.write_text(json.dumps(data, indent=2))
        scratch.replace(self.root / MADE)


def patience(seconds: float) -> float:
    """For how long something that takes moments is waited for; ZOS_MINIGRID_PATIENCE times as long on a slow machine."""
    return seconds * float(os.environ.get("ZOS_MINIGRID_PATIENCE", "1"))


def state_root() -> Path:
    return Path(os.environ.get("ZOS_MINIGRID_STATE", "/var/lib/zos-minigrid"))


def load(name: str) -> Grid | None:
    """A grid that was made before; None if there is none of that name."""
    path = state_root() / name / MADE
    if not path.exists():
        return None
    data = json.loads(path.read_text())
    nodes = tuple(Node(**node) for node in data["nodes"])
    return Grid(
        data["name"],
        data["index"],
        Path(data["root"]),
        nodes,
        data["controllers"],
        data.get("owner", ""),
        tuple(data.get("kinds", ())),
        data.get("kubernetes", False),
    )


def plan(
    name: str, nodes: int, hidden: int, controllers: int, names: list[str] | None = None, kubernetes: bool = False
) -> Grid:
    """A new grid: the last ``hidden`` nodes are hidden. Raises GridError for what can't be."""
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,14}[a-z0-9])?", name):
        raise GridError(f"--name {name}: take up to 16 lower-case letters, digits and dashes")
    if not 1 <= nodes <= 100 or not 0 <= hidden <= nodes:
        raise GridError("--nodes must be 1 to 100, --hidden not more than that")
    called = names or [f"n{number}" for number in range(1, nodes + 1)]
    if len(called) != nodes or len(set(called)) != nodes:
        raise GridError(f"--node-names must name {nodes} different nodes")
    used = {grid.index for path in state_root().glob(f"*/{MADE}") if (grid := load(path.parent.name))}
    index = next(number for number in range(64) if number not in used)
    # A chart says once for all nodes how the NIC on the farm's segment is called.
    made = tuple(Node(node, number, number > nodes - hidden, bare=kubernetes) for number, node in enumerate(called, 1))
    return Grid(name, index, state_root() / name, made, controllers, kubernetes=kubernetes)
