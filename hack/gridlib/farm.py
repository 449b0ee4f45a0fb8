"""The farm of a minigrid: the segment that public addresses live on, its router with radvd, and a host outside."""

from __future__ import annotations

from gridlib import wires
from gridlib.host import Host, Service, run
from gridlib.layout import FARM, FARM6, OUTSIDE, OUTSIDE6, Grid, Node

NAME = "lab"
_SEGMENT = "public"  # the router's interface
_RADVD = f"""
interface {_SEGMENT} {{
  AdvSendAdvert on;
  MinRtrAdvInterval 3;
  MaxRtrAdvInterval 10;
  prefix {FARM6} {{ }};
}};
"""


def manifest() -> dict[str, object]:
    return {
        "apiVersion": "zos.grid.tf/v1alpha1",
        "kind": "Farm",
        "metadata": {"name": NAME},
        "spec": {
            "publicIPv4": [{"range": str(FARM), "gateway": str(FARM[1])}],
            "publicIPv6": [{"prefix": str(FARM6)}],
            "allowNonGlobal": True,  # documentation ranges: nothing real is behind them
        },
    }


def connect(grid: Grid) -> None:
    """The segment, a port of it for every node, and the way out. Making them twice is harmless."""
    router, outside = grid.netns("farm"), grid.netns("outside")
    _set(router, "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
    wires.bridge(router, _SEGMENT, f"{FARM[1]}/{FARM.prefixlen}")
    wires.ip(router, "addr", "replace", f"{FARM6[1]}/64", "dev", _SEGMENT, "nodad")
    if "outside" not in wires.links(router):
        run("ip", "link", "add", "outside", "netns", router, "type", "veth", "peer", "name", "eth0", "netns", outside)
    for netns, device, number in ((router, "outside", 1), (outside, "eth0", 2)):
        wires.ip(netns, "addr", "replace", f"{OUTSIDE[number]}/{OUTSIDE.prefixlen}", "dev", device)
        wires.ip(netns, "addr", "replace", f"{OUTSIDE6[number]}/64", "dev", device, "nodad")
        wires.ip(netns, "link", "set", device, "up")
    wires.ip(outside, "route", "replace", "default", "via", str(OUTSIDE[1]))
    wires.ip(outside, "route", "replace", "default", "via", str(OUTSIDE6[1]))
    for node in grid.nodes:
        _port(grid, node, router)


def _port(grid: Grid, node: Node, router: str) -> None:
    """A NIC on the segment, without addresses of its own: it is for machines."""
    netns, port = grid.netns(node.name), f"node{node.number}"
    if "public0" not in wires.links(netns):
        run("ip", "link", "add", port, "netns", router, "type", "veth", "peer", "name", "public0", "netns", netns)
        wires.ip(router, "link", "set", port, "master", _SEGMENT, "up")
        _set(netns, "net.ipv6.conf.public0.disable_ipv6=1")
    wires.ip(netns, "link", "set", "public0", "up")
    if node.public_interface != "public0" and node.public_interface not in wires.links(netns):
        wires.ip(netns, "link", "add", node.public_interface, "type", "bridge", "mcast_snooping", "0")
        _set(netns, f"net.ipv6.conf.{node.public_interface}.disable_ipv6=1")
        wires.ip(netns, "link", "set", "public0", "master", node.public_interface)
        wires.ip(netns, "link", "set", node.public_interface, "up")


def start(grid: Grid) -> None:
    router = Host(grid, "farm")
    router.directory.mkdir(parents=True, exist_ok=True)
    config = router.directory / "radvd.conf"
    config.write_text(_RADVD)
    program = f"exec radvd --nodaemon --logmethod stderr --pidfile /run/radvd.pid --config {config}"
    router.services([Service("radvd", program)])
    router.start()
    Host(grid, "outside").start()


def _set(netns: str, *settings: str) -> None:
    run("ip", "netns", "exec", netns, "sysctl", "-qw", *settings)
