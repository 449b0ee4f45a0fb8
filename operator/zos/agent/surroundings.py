"""What the node itself is like: its size, its addresses, its name servers."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any, Generic, TypeVar

from zos.agent.settings import Settings
from zos.api.gridnode import Endpoint, GridNodeStatus
from zos.api.resources import Resources
from zos.drivers.process import ProcessError, run

log = logging.getLogger("zos.agent")

T = TypeVar("T")
#: Looks that must agree that something is gone.
LOOKS = 3

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
    """Name servers that a guest can use too. A local stub's own file comes second: behind it are the real ones. Raises
    OSError, or ValueError for what is no text."""
    for file in files:
        try:
            lines = file.read_text().splitlines()
        except FileNotFoundError:
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


async def endpoint() -> Endpoint:
    """The node's own global addresses; the node is hidden when there are none. Raises ProcessError or ValueError."""
    return endpoint_of(json.loads((await run("ip", "-json", "address", "show", "scope", "global")).stdout or "[]"))


def endpoint_of(links: list[dict[str, Any]]) -> Endpoint:
    """From the output of ``ip -json address``. Addresses that come and go (temporary, deprecated) are no endpoints."""
    found: dict[int, str] = {}
    for link in links:
        for info in link.get("addr_info", ()):
            if info.get("temporary") or info.get("deprecated") or info.get("tentative") or "local" not in info:
                continue
            address = ip_address(info["local"])
            if is_truly_global(address):
                found.setdefault(address.version, str(address))
    return Endpoint(ipv4=found.get(4), ipv6=found.get(6))


class Steady(Generic[T]):
    """A fact that others build on. What is new counts at once; that something is gone only when `LOOKS` looks in a row missed
    it: a program that fails or a file that is just being written is no loss. ``lost(before, now)`` says whether it is one."""

    def __init__(self, lost: Callable[[T, T], bool]) -> None:
        self._lost = lost
        self._missed = 0
        self.value: T | None = None
        self.unsure = False

    def recall(self, value: T) -> None:
        """What was believed before this agent began."""
        found, self.value = self.value, value
        if found is not None:
            self.see(found)

    def see(self, found: T) -> None:
        if self.value is not None and self._lost(self.value, found):
            self._missed += 1
            if self._missed < LOOKS:
                self.unsure = True
                return
        self.value, self._missed, self.unsure = found, 0, False

    def fail(self) -> None:
        """Nobody could look."""
        self.unsure = True


class Surroundings:
    """What the node is like, as far as it can be believed."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._capacity = Steady(_shrunk)
        self._nameservers = Steady(_missing)
        self._endpoint = Steady(_elsewhere)
        self._recalled = False

    @property
    def capacity(self) -> Resources:
        return self._capacity.value or Resources()

    @property
    def nameservers(self) -> tuple[str, ...]:
        return self._nameservers.value or ()

    @property
    def endpoint(self) -> Endpoint | None:
        """None: the node is hidden."""
        found = self._endpoint.value
        return found if found is not None and (found.ipv4 or found.ipv6) else None

    @property
    def unsure(self) -> bool:
        """It is worth looking again soon."""
        return self._capacity.unsure or self._nameservers.unsure or self._endpoint.unsure

    def recall(self, status: GridNodeStatus) -> None:
        """What an agent of this node reported last; later calls say nothing new."""
        if self._recalled or status.agent_version is None:
            return
        self._recalled = True
        self._capacity.recall(status.capacity)
        self._nameservers.recall(status.nameservers)
        self._endpoint.recall(status.reported_endpoint or Endpoint())

    async def look(self) -> None:
        """What can't be looked at stays what it was."""
        try:
            self._capacity.see(capacity(self._settings))
        except OSError as error:
            self._failed(self._capacity, "size", error)
        try:
            self._nameservers.see(nameservers())
        except (OSError, ValueError) as error:
            self._failed(self._nameservers, "name servers", error)
        try:
            self._endpoint.see(await endpoint())
        except (ProcessError, ValueError, TypeError, AttributeError) as error:
            self._failed(self._endpoint, "addresses", error)

    def _failed(self, fact: Steady[Any], what: str, error: Exception) -> None:
        if not fact.unsure:
            log.warning("the node's %s can't be told, they stay what they were: %s", what, error)
        fact.fail()


def _shrunk(before: Resources, now: Resources) -> bool:
    return now.cpu < before.cpu or now.memory < before.memory or now.storage < before.storage


def _missing(before: tuple[str, ...], now: tuple[str, ...]) -> bool:
    return not set(before) <= set(now)


def _elsewhere(before: Endpoint, now: Endpoint) -> bool:
    return before.ipv4 not in (None, now.ipv4) or before.ipv6 not in (None, now.ipv6)
