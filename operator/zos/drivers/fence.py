"""What keeps fetchers (programs that ask strangers' servers for bytes) out of places where only the node may go: an nftables
table that judges the packets of their user, so that no redirect, no answer of a name server and no helper gets around it.

It stands before a fetcher starts and is looked after while one runs: it is made again when the node's addresses or name
servers change, or when somebody takes it away. A fetcher whose fence can't be mended ends.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from zos.drivers import DriverError, netns, news, nftables
from zos.drivers.beside import beside
from zos.drivers.fencerules import USER, Ground, Network, connected_of, nameservers_of, rules
from zos.drivers.news import Watch
from zos.drivers.process import run

_T = TypeVar("_T")

#: Not a name of a workload's table: those are api/names.py's, and have owners.
TABLE = "zos-fetch"
_TRIES = 5
_GROUND = (news.ADDRESSES, news.ADDRESSES6, news.ROUTES, news.ROUTES6)
_IPV6 = Path("/proc/net/if_inet6")
_RESOLV_CONF = Path("/etc/resolv.conf")


class Fence:
    """``opened``: networks that the node's owner opens. ``ground`` is what it was last built on. ``who`` it is about, in
    nftables' words."""

    def __init__(self, opened: Sequence[Network] = (), table: str = TABLE, who: str = f"skuid {USER}") -> None:
        self._opened, self._table, self._who = tuple(opened), table, who
        self._lock = asyncio.Lock()
        self._text = self._shown = ""
        self.ground = Ground(opened=self._opened)

    async def around(self, work: Callable[[], Awaitable[_T]]) -> _T:
        """Does the work, which starts fetchers, while the fence stands. Raises DriverError when it doesn't."""
        changed = asyncio.Event()
        watches = self.watches(changed.set)
        try:
            await self.stand()
            return await beside(work, lambda: self._keep(changed))
        finally:
            for watch in watches:
                watch.close()

    def watches(self, changed: Callable[[], None]) -> list[Watch]:
        """Have ``changed`` called when it may have to be made again. The caller's to close."""
        return [
            Watch(netns.NETFILTER, (news.NFTABLES,), lambda said: said.name == self._table, changed, follows=False),
            Watch(netns.ROUTE, _GROUND, lambda said: not said.link_local, changed, follows=False),
        ]

    async def stands(self) -> bool | None:
        """None: there is none at all. Raises DriverError, OSError, ValueError."""
        if not (shown := await self._listing()):
            return None
        self.ground = await self._look()
        return _mark(rules(self.ground, self._who)) in shown and (not self._text or shown == self._shown)

    async def fall(self) -> None:
        self._text = ""
        await run("nft", "-f", "-", input=f"table inet {self._table}\ndelete table inet {self._table}\n")

    async def stand(self) -> None:
        """Makes the table unless it stands as it should, and sees that it does."""
        async with self._lock:
            try:
                if self._text and self._shown != await self._listing():
                    await self._make(self._text)  # it was taken away: at once as it was, and then as it must be
                self.ground = await self._look()
                if (text := rules(self.ground, self._who)) != self._text:
                    await self._make(text)
            except (DriverError, OSError, ValueError) as error:
                raise DriverError(
                    f"nothing is fetched, since the firewall table that confines it, inet {self._table}, can't be made: {error}"
                ) from error

    async def _make(self, text: str) -> None:
        mark, table = _mark(text), self._table
        script = f"table inet {table}\ndelete table inet {table}\ntable inet {table} {{\n{mark}\n{text}\n}}\n"
        self._text = ""
        for _ in range(_TRIES):  # somebody may load a whole firewall right now
            await run("nft", "-f", "-", input=script)
            shown = await self._listing()
            if mark in shown:
                self._text, self._shown = text, shown
                return
        raise DriverError("it vanishes as soon as it is made")

    async def _keep(self, changed: asyncio.Event) -> None:
        while True:
            await changed.wait()
            changed.clear()
            await self.stand()

    async def _listing(self) -> str:
        """How the kernel shows the table; empty where there is none."""
        return await nftables.shown("", "inet", self._table) or ""

    async def _look(self) -> Ground:
        resolv_conf = await asyncio.to_thread(_RESOLV_CONF.read_text, errors="replace")
        links = await _ip("address")
        routes = await _ip("-4", "route")
        if _IPV6.exists():  # noqa: ASYNC240 - a stat in proc
            routes += await _ip("-6", "route")
        return Ground(nameservers_of(resolv_conf), connected_of(links, routes), self._opened)


async def _ip(*words: str) -> list[Any]:
    return list(json.loads((await run("ip", "-json", *words, "show")).stdout or "[]"))


def _mark(text: str) -> str:
    """By which a table is known that was made of this text."""
    return f'comment "zos fetchers {hashlib.sha256(text.encode()).hexdigest()[:32]}"'
