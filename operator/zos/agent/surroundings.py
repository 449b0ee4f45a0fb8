"""What the node itself is like: its size, its addresses, its name servers."""

from __future__ import annotations

import json
import os
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any

from zos.agent.settings import Settings
from zos.api.gridnode import Endpoint, Resources
from zos.drivers.process import ProcessError, run

#: Python calls these global or leaves it open; nobody can be reached there. RFC 5737, 3849, 9637, 6598, 7526.
_NOT_GLOBAL = tuple(
    ip_network(block)
    for block in (
        "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32", "3fff::/20", "100.64.0.0/10", "192.88.99.0/24",
    )
)  # fmt: skip


#: A GridNode's status takes so many; a resolver looks at fewer.
_NAMESERVERS = 8


def capacity(settings: Settings) -> Resources:
    """What the node has to offer: all of it less what it needs itself. Storage is that of the state directory."""
    disk = os.statvfs(settings.state)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Resources(
        cpu=settings.capacity_cpu if settings.capacity_cpu is not None else len(os.sched_getaffinity(0)),
        memory=_rounded(settings.capacity_memory, memory - settings.reserve_memory),
        storage=_rounded(settings.capacity_storage, disk.f_blocks * disk.f_frsize - settings.reserve_storage),
    )


def _rounded(told: int | None, found: int) -> int:
    """Whole MiB, so that it reads well and doesn't flicker."""
    return told if told is not None else max(0, found) // 2**20 * 2**20


def nameservers(
    files: tuple[Path, ...] = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf")),
) -> tuple[str, ...]:
    """Name servers that a guest can use too. A local stub's own file comes second: behind it are the real ones."""
    for file in files:
        try:
            lines = file.read_text().splitlines()
        except OSError:
            continue
        servers = [words[1] for line in lines if len(words := line.split()) >= 2 and words[0] == "nameserver"]
        if usable := tuple(server for server in servers if _usable(server)):
            return usable[:_NAMESERVERS]
    return ()


def _usable(server: str) -> bool:
    try:
        address = ip_address(server)
    except ValueError:
        return False
    scoped = isinstance(address, IPv6Address) and address.scope_id is not None  # of one link of the node's
    return not (scoped or address.is_loopback or address.is_unspecified or address.is_link_local)


def is_truly_global(address: IPv4Address | IPv6Address) -> bool:
    """An address that the whole Internet can reach, if nothing filters in between."""
    if not address.is_global or address.is_multicast:
        return False
    return not any(address in block for block in _NOT_GLOBAL if block.version == address.version)


async def endpoint() -> Endpoint | None:
    """The node's own global addresses; the node is hidden when there are none."""
    try:
        links = json.loads((await run("ip", "-json", "address", "show", "scope", "global")).stdout or "[]")
    except (ProcessError, ValueError):
        return None
    return endpoint_of(links)


def endpoint_of(links: list[dict[str, Any]]) -> Endpoint | None:
    """From the output of ``ip -json address``. Addresses that come and go (temporary, deprecated) are no endpoints."""
    found: dict[int, str] = {}
    for link in links:
        for info in link.get("addr_info", ()):
            if info.get("temporary") or info.get("deprecated") or info.get("tentative") or "local" not in info:
                continue
            address = ip_address(info["local"])
            if is_truly_global(address):
                found.setdefault(address.version, str(address))
    return Endpoint(ipv4=found.get(4), ipv6=found.get(6)) if found else None
