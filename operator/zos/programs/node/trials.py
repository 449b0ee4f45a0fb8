"""What the kernel of a node makes when it is asked: each thing is tried where nobody sees it, as lists of modules and options
tell neither what is built in nor what is loaded when it is first wanted.

All of it happens in a process with namespaces of its own, and goes with that.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import Path

from zos.programs.node import cgroup, children, commands, kernel
from zos.programs.node.commands import CommandFailed

_TABLES = {
    "inet": """table inet zos-trial {
  set closed { type ipv4_addr; flags interval; auto-merge; elements = { 10.0.0.0/8 }; }
  counter seen {
  }
  chain forward {
    type filter hook forward priority filter; policy drop;
    tcp flags syn / syn,rst tcp option maxseg size set rt mtu
    ct state established,related accept
    meta l4proto { tcp, udp } th dport 53 limit rate over 1000/second burst 2000 packets drop
    counter name "seen"
  }
  chain postrouting {
    type nat hook postrouting priority srcnat; policy accept;
    oifname "wan" masquerade
  }
}""",
    "fence": """table inet zos-trial {
  chain sent {
    type filter hook output priority raw; policy accept;
    meta skuid 1 ip daddr 10.0.0.0/8 reject with icmpx admin-prohibited
    fib daddr type { local, broadcast } drop
  }
  chain translated {
    type filter hook output priority security; policy accept;
    ct original ip daddr 10.0.0.1 accept
  }
}""",
    "guard": """table bridge zos-trial {
  chain prerouting {
    type filter hook prerouting priority dstnat; policy accept;
    ether type arp arp operation { request, reply } arp saddr ip 10.0.0.1 accept
    @nh,0,8 != 0x45 drop
  }
}""",
}
#: Command lines that have to succeed one after the other.
_LINKS: Mapping[str, tuple[str, ...]] = {
    "veth": ("ip link add trial0 type veth peer name trial1",),
    "bridge": ("ip link add trial2 type bridge",),
    "redirect": (
        "ip link add trial3 type veth peer name trial4",
        "tc qdisc add dev trial3 ingress",
        "tc filter add dev trial3 parent ffff: protocol all prio 1 u32 match u32 0 0 action mirred egress redirect dev trial4",
    ),
    "wireguard": ("ip link add trial5 type wireguard",),
}
_FILE_SYSTEMS = ("ext4", "fuse")
NETWORK, PODS_GROUP = "network namespace", "group beside pods"
NAMES = frozenset({NETWORK, PODS_GROUP, *_TABLES, *_LINKS, *_FILE_SYSTEMS})


def run() -> Mapping[str, str]:
    """Of what failed, by its name (`NAMES`), what the kernel said. Where one rests on another that failed it is not tried.
    Raises OSError."""
    return {**children.answer(_groups, "the kernel"), **children.answer(_tried, "the kernel")}


def _groups() -> Mapping[str, str]:
    return {} if cgroup.beside_pods() else {PODS_GROUP: "none of this process' control groups is below one called kubepods"}


def _tried() -> Mapping[str, str]:
    failed = {name: said for name in _FILE_SYSTEMS if (said := _unknown(name))}
    try:
        kernel.unshare(kernel.NEWNET)
    except OSError as error:
        return {**failed, NETWORK: str(error.strerror)}
    for name, lines in _LINKS.items():
        if said := _said(*(line.split() for line in lines)):
            failed[name] = said
    for name, text in _TABLES.items():
        if said := _said(["nft", f"{text}\ndelete table {text.split(' {')[0].removeprefix('table ')}"]):
            failed[name] = said
    return failed


def _said(*lines: list[str]) -> str:
    try:
        for argv in lines:
            commands.run(*argv)
    except CommandFailed as error:
        return _complaint(str(error))
    return ""


def _complaint(text: str) -> str:
    """Without the command line, and what nft shows of the text below."""
    found = next((line for line in text.splitlines() if "Error: " in line or "answers: " in line), text[-200:])
    return found.rpartition("Error: ")[2].rpartition("answers: ")[2].rstrip(".")


def _unknown(file_system: str) -> str:
    """The kernel looks for its code, and loads it, before it looks at what is to be mounted: nothing."""
    try:
        kernel.mount("none", Path("/tmp"), file_system)
    except OSError as error:
        return str(error.strerror) if error.errno == errno.ENODEV else ""
    kernel.detach(Path("/tmp"))
    return ""
