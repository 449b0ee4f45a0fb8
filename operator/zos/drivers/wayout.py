"""Whether guests' packets get through the node's own firewall (`zos.plan.wayout`)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from zos.drivers import DriverError, netns, news, nftables
from zos.drivers.looks import Turns
from zos.drivers.means import short_of_means
from zos.drivers.news import Watch
from zos.drivers.process import ProcessError, run
from zos.plan.diff import Observed, Op
from zos.plan.facts import Fact, Known, ShutFact
from zos.plan.items import Item
from zos.plan.wayout import BRIDGED, PASSED, PORT, SENT, TARGET, TTL

log = logging.getLogger("zos.agent")

#: Seconds between two looks, however often the firewall changes; and for a packet to come through.
PAUSE = 2.0
_WAIT = 0.2
#: Networks that are tried at once: each has a socket open meanwhile.
_AT_ONCE = 32
_BOTH = (SENT, PASSED)
_LEGACY = {"ip": Path("/proc/net/ip_tables_names"), "ip6": Path("/proc/net/ip6_tables_names")}
_CALLED = {"ip": "IPv4", "ip6": "IPv6"}
#: Packets of which one would have passed, if any did.
_SOME = 3


class WayOutDriver:
    """A driver without items: it looks beside the passes, when rules or routes of the node change and at every resync, and
    says when what it knows changes. Rules of the older kind (iptables-legacy) tell nobody: the resync finds them. (Where there
    are many networks, each resync tries some of them; what shuts one shuts all, as a rule.)"""

    ITEMS: ClassVar[tuple[type[Item], ...]] = ()
    SLOW: ClassVar[bool] = False
    FACTS: ClassVar[tuple[type[Fact], ...]] = (ShutFact,)

    def __init__(self) -> None:
        self._shut: Mapping[str, str] = {}  # by router
        self._public = Bridged()
        self._due = asyncio.Event()
        self._changed = True
        self._turns = Turns()
        self._asked: frozenset[str] = frozenset()  # routers whose packets were seen
        self._watches: list[Watch] = []
        self._task: asyncio.Task[None] | None = None

    def facts(self) -> Known:
        """Those whose packets get through are not in it, nor those that could not be tried."""
        return {ShutFact: {name: ShutFact(by) for name, by in self._stopping().items()}}

    def _stopping(self) -> dict[str, str]:
        return {**self._shut, **self._public.shut}

    async def observe(self, wanted: Sequence[Item]) -> Mapping[str, Observed]:
        self._due.set()
        return {}

    async def apply(self, op: Op) -> None:
        raise AssertionError(op)

    def watch(self, dirty: Callable[[], None]) -> None:
        self._watches = [
            Watch(netns.NETFILTER, (news.NFTABLES,), lambda _: True, self._told, follows=False),
            Watch(netns.ROUTE, (news.ROUTES,), lambda said: not said.link_local, self._told, follows=False),
        ]
        self._task = asyncio.get_running_loop().create_task(self._keep(dirty))

    async def close(self) -> None:
        for watch in self._watches:
            watch.close()
        if self._task is not None:
            self._task.cancel()

    async def look(self) -> None:
        """Tries the way out of every router. Raises DriverError or OSError where nobody can tell; what was known stays."""
        self._shut = await self._try(sorted(netns.ours()))
        await self._public.look()

    async def _glance(self) -> None:
        """Tries some, by turns; all, where that says something new. Raises DriverError or OSError."""
        routers = netns.ours()
        tried = sorted({*self._turns.take(routers), *(routers - self._asked)})  # some may not have been whole yet
        if await self._try(tried) != {router: why for router, why in self._shut.items() if router in tried}:
            await self.look()
        else:
            await self._public.look()

    async def _try(self, routers: Sequence[str]) -> Mapping[str, str]:
        """What stops the packets of those of them whose packets don't get through; of one where none could be sent from, what
        was known. Raises OSError where this process is short of something."""
        sent, stopped, unknown = set[str](), set[str](), set[str]()
        for start in range(0, len(routers), _AT_ONCE):
            some = routers[start : start + _AT_ONCE]
            before = nftables.packets()
            with contextlib.ExitStack() as opened:
                for router in some:
                    try:
                        opened.enter_context(await netns.inside(router, _send))
                    except (DriverError, OSError) as error:
                        if short_of_means(error):
                            raise
                        unknown.add(router)
                await asyncio.sleep(_WAIT)
            after = nftables.packets()
            came = {counter: {router for router in some if _more((router, counter), before, after)} for counter in _BOTH}
            sent |= came[SENT]
            stopped |= came[SENT] - came[PASSED]
        self._asked = (self._asked - set(routers)) | sent
        why = await _reason() if stopped else None
        known = {router: said for router in unknown if (said := self._shut.get(router)) is not None}
        return known | (dict.fromkeys(sorted(stopped), why) if why is not None else {})

    async def _keep(self, dirty: Callable[[], None]) -> None:
        while True:
            await self._due.wait()
            await asyncio.sleep(PAUSE)
            self._due.clear()
            known, changed, self._changed = self._stopping(), self._changed, False
            try:
                await (self.look() if changed else self._glance())
            except Exception as error:
                log.warning("nobody can tell whether guests get to the Internet: %s", error)
                self._changed = True
            if self._stopping() != known:
                dirty()

    def _told(self) -> None:
        self._changed = True
        self._due.set()


class Bridged:
    """Whether what public interfaces send and get passes the node's bridge. From what machines say themselves: of one that is
    silent and not spoken to, what was known stays."""

    def __init__(self) -> None:
        self.shut: Mapping[str, str] = {}  # by guard
        # By guard and family: the counters where something could be told last, and what stopped it.
        self._counted: dict[tuple[str, str], tuple[int, int]] = {}
        self._stopped: dict[tuple[str, str], str] = {}

    async def look(self) -> None:
        """Raises DriverError or OSError where nobody can tell; what was known stays."""
        packets = nftables.packets()
        counted = {
            (guard, family): (number, packets.get((guard, passed), 0))
            for family, (comes, passed) in BRIDGED.items()
            for (guard, counter), number in packets.items()
            if counter == comes
        }
        stopped = {one: why for one, why in self._stopped.items() if one in counted}
        for one, (comes_now, passed_now) in counted.items():
            comes_then, passed_then = self._counted.get(one, (0, 0))
            if comes_now < comes_then or passed_now < passed_then:  # made anew
                comes_then, passed_then = 0, 0
            if passed_now > passed_then:
                stopped.pop(one, None)
            elif comes_now - comes_then >= _SOME:
                stopped[one] = f"{_CALLED[one[1]]} by {await _drops(one[1], 'inet', 'bridge')}"
            else:  # too few, so far
                counted[one] = comes_then, passed_then
        self._counted, self._stopped = counted, stopped
        self.shut = {
            guard: "; ".join(stopped[guard, family] for family in BRIDGED if (guard, family) in stopped)
            for guard in sorted({guard for guard, _ in stopped})
        }


def _send() -> socket.socket:
    """The first packet of a connection; closed before the kernel would send another."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, TTL)
    sock.connect_ex((TARGET, PORT))  # the router's own rules may refuse it: then nothing is sent, and nothing is shut
    return sock


def _more(counter: tuple[str, str], before: Mapping[tuple[str, str], int], after: Mapping[tuple[str, str], int]) -> bool:
    """By table and counter. A network's table on the node has the name of its router."""
    was, now = before.get(counter, 0), after.get(counter, 0)
    return now > (was if now >= was else 0)  # a table that was made anew begins at nothing


async def _reason() -> str | None:
    """Who stops it, as far as can be told. None: the node itself has no way there, which is no affair of its firewall."""
    if (await run("ip", "route", "get", TARGET, check=False)).code != 0:
        return None
    return await _drops("ip", "inet")


async def _drops(*families: str) -> str:
    """What of the node's firewall lets nothing pass, of such families, as far as can be told."""
    chains = [chain for one in await _nft("chains") if (chain := one.get("chain")) is not None]
    found = [
        f"{chain['family']} {chain['table']} {chain['name']} (policy drop)"
        for chain in chains
        if chain.get("hook") == "forward" and chain.get("policy") == "drop" and chain["family"] in families
    ]
    with contextlib.suppress(OSError):
        if not found and "filter" in _LEGACY[families[0]].read_text().split():
            found.append("iptables-legacy FORWARD" if families[0] == "ip" else "ip6tables-legacy FORWARD")
    return ", ".join(found) or "a rule of it"


async def _nft(what: str) -> list[Any]:
    try:
        return list(json.loads((await run("nft", "-j", "list", what)).stdout)["nftables"])
    except (ProcessError, KeyError) as error:
        raise DriverError(f"nft list {what}: {error}") from error
