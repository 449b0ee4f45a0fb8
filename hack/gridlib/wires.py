"""The wires of a minigrid: a switch, a NAT for hidden nodes, a way to the farm and what is behind it, and a link to this
machine. Making them twice is harmless."""

from __future__ import annotations

from pathlib import Path

from gridlib.host import run
from gridlib.layout import CONTROL_PLANE, FARM, FARM_ROUTER, HIDDEN, LAPTOP, NAT, OUTSIDE, ROUTER, SERVICES, UNDERLAY6, Grid

#: A kubelet is asked for logs by the API server, which a real cluster has a tunnel for.
_NAT_RULES = f"""
table ip nat {{ }}
delete table ip nat
table ip nat {{
  chain forward {{
    type filter hook forward priority filter; policy drop;
    ct state established,related accept
    iifname "lan" accept
    ip saddr {CONTROL_PLANE} tcp dport 10250 accept
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat;
    oifname "eth0" masquerade
  }}
}}
"""
#: The API server's address as a service, for who asks for it by that: there is no kube-proxy.
_API_RULES = f"""
table ip api {{ }}
delete table ip api
table ip api {{
  chain prerouting {{
    type nat hook prerouting priority dstnat;
    ip daddr {SERVICES[1]} tcp dport 443 redirect to :6443
  }}
}}
"""


def make(grid: Grid) -> None:
    for host in grid.hosts:
        _netns(grid.netns(host))
    switch, nat = grid.netns("switch"), grid.netns("nat")
    bridge(switch, "br0", f"{ROUTER}/24")
    ip(switch, "addr", "replace", f"{UNDERLAY6[1]}/64", "dev", "br0", "nodad")
    for host, address in (("cp", CONTROL_PLANE), ("laptop", LAPTOP), ("nat", NAT), ("farm", FARM_ROUTER)):
        _plug(grid, host, switch, "br0", f"{address}/24", str(ROUTER))
    run("ip", "netns", "exec", switch, "sysctl", "-qw", "net.ipv4.ip_forward=1")
    for block in (FARM, OUTSIDE):  # the switch's router is the nodes' way to the world
        ip(switch, "route", "replace", str(block), "via", str(FARM_ROUTER))
    bridge(nat, "lan", f"{HIDDEN[1]}/24")
    run("ip", "netns", "exec", nat, "sysctl", "-qw", "net.ipv4.ip_forward=1")
    run("ip", "netns", "exec", nat, "nft", "-f", "-", input=_NAT_RULES)
    for node in grid.nodes:
        if node.hidden:
            _plug(grid, node.name, nat, "lan", f"{node.ipv4}/24", str(HIDDEN[1]))
        else:
            _plug(grid, node.name, switch, "br0", f"{node.ipv4}/24", str(ROUTER))
            ip(grid.netns(node.name), "addr", "replace", f"{node.ipv6}/64", "dev", "eth0", "nodad")
    if grid.kubernetes:
        _cluster(grid)
    if grid.link not in links(None):
        run("ip", "link", "add", grid.link, "type", "veth", "peer", "name", "host0", "netns", grid.netns("cp"))
    run("ip", "addr", "replace", f"{grid.host_address}/30", "dev", grid.link)
    run("ip", "link", "set", grid.link, "up")
    ip(grid.netns("cp"), "addr", "replace", f"{grid.api_address}/30", "dev", "host0")
    ip(grid.netns("cp"), "link", "set", "host0", "up")


def _cluster(grid: Grid) -> None:
    """What pods need: a way from each node's range and back, and the API server at the address that pods know. (Pods of hidden
    nodes reach out, through the NAT, and are not reached.)"""
    switch, cp = grid.netns("switch"), grid.netns("cp")
    ip(cp, "addr", "replace", f"{SERVICES[1]}/32", "dev", "lo")
    run("ip", "netns", "exec", cp, "nft", "-f", "-", input=_API_RULES)
    ip(switch, "route", "replace", f"{SERVICES[1]}/32", "via", str(CONTROL_PLANE))
    ip(cp, "route", "replace", str(HIDDEN), "via", str(NAT))
    for node in grid.nodes:
        router = grid.netns("nat") if node.hidden else switch
        ip(router, "route", "replace", str(node.pods), "via", str(node.ipv4))


def remove(grid: Grid) -> None:
    if grid.link in links(None):
        run("ip", "link", "del", grid.link, check=False)
    for path in sorted(Path("/run/netns").glob(f"mg-{grid.name}-*")):
        run("ip", "netns", "del", path.name, check=False)


def ip(netns: str, *words: str) -> str:
    return run("ip", "-n", netns, *words)


def _netns(name: str) -> None:
    if not Path("/run/netns", name).exists():
        run("ip", "netns", "add", name)
    ip(name, "link", "set", "lo", "up")


def links(netns: str | None) -> set[str]:
    out = run("ip", *(["-n", netns] if netns else []), "-o", "link", "show")
    return {line.split(": ")[1].split("@")[0] for line in out.splitlines()}


def bridge(netns: str, name: str, address: str) -> None:
    if name not in links(netns):
        ip(netns, "link", "add", name, "type", "bridge", "forward_delay", "0")
    ip(netns, "addr", "replace", address, "dev", name)
    ip(netns, "link", "set", name, "up")


def _plug(grid: Grid, host: str, into: str, switch: str, address: str, gateway: str) -> None:
    """A cable from a host's eth0 to a bridge."""
    netns = grid.netns(host)
    if "eth0" not in links(netns):
        port = f"p-{host}"[:15] if len(host) < 13 else f"p{abs(hash(host)) % 10**12}"
        run("ip", "link", "add", port, "netns", into, "type", "veth", "peer", "name", "eth0", "netns", netns)
        ip(into, "link", "set", port, "master", switch, "up")
    ip(netns, "addr", "replace", address, "dev", "eth0")
    ip(netns, "link", "set", "eth0", "up")
    ip(netns, "route", "replace", "default", "via", gateway)
