"""WireGuard interfaces: the kernel's where it has them, else wireguard-go's under the supervisor.

Both are made in the node's namespace and then moved into the router's, so that their UDP socket stays in the node's. What a
userspace interface needs lies in files beside it, learned endpoints included: when its process dies, its launcher brings it
back as it was, with the agent or without.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import re
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from pyroute2.netlink.exceptions import NetlinkError

from zos.drivers import DriverError, netns, news, wglinks, wgsocket
from zos.drivers.keyring import Keyring
from zos.drivers.looks import Looks
from zos.drivers.means import short_of_means
from zos.drivers.news import News, Watch
from zos.drivers.process import ProcessError, run
from zos.drivers.supervisor import Supervised, Supervisor
from zos.drivers.udpport import holder
from zos.drivers.wgcalls import Calls, Silent
from zos.drivers.wgfiles import Card, Files, digest
from zos.drivers.wgprobe import Kind
from zos.drivers.wgtext import LAUNCHER, Live, callable_peers, parse_dump, parse_uapi, same_peers
from zos.plan.diff import Observed, Op
from zos.plan.facts import Fact, Known, SilentFact
from zos.plan.items import Item, WireGuard

log = logging.getLogger("zos.wireguard")

#: Names that api/names.py gives to interfaces.
_NAME = re.compile(r"w-[a-z2-7]{10}")
#: Seconds between looks at where peers without an endpoint were heard from.
_LEARN = 5.0
_START = 8.0
#: Seconds in which wireguard-go answers who looks, and who is about to change something.
_ANSWER, _ANSWER_BEFORE_CHANGE = 2.0, 5.0
#: Seconds after its start in which a launcher calls peers.
_GREETING = 10.0


class WireGuardDriver:
    """``state`` holds a directory per interface; ``program`` is wireguard-go."""

    ITEMS: ClassVar[tuple[type[Item], ...]] = (WireGuard,)
    SLOW: ClassVar[bool] = False
    FACTS: ClassVar[tuple[type[Fact], ...]] = (SilentFact,)
    #: Seconds; a port that somebody has may be free soon.
    LAST_RETRY: ClassVar[float] = 30.0

    def __init__(
        self,
        state: Path,
        keyring: Keyring,
        scan: Path,
        logs: Path,
        program: str,
        kind: Kind,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._files = state / "wireguard"
        self._files.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._keyring = keyring
        self._program = program
        self.kind: Kind = kind
        self._supervisor = Supervisor(scan, logs, "zos-wg-")
        self._watch: Watch | None = None
        self._looks = Looks(self._look)
        self._services: Mapping[str, Supervised | None] = {}
        self._plan: Mapping[str, WireGuard] = {}  # as of the last look, by name
        self._spaces: dict[str, str] = {}  # of each interface
        self._learner: asyncio.Task[None] | None = None
        self._calls = Calls(self._live, self._looks.stir)
        self._silent = Silent(clock)
        self._held: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)  # by interface: who writes its files

    async def observe(self, wanted: Sequence[Item]) -> Mapping[str, Observed]:
        ours = netns.ours()
        if self._watch is not None:
            self._watch.follow(ours)
        before, self._services = self._services, await self._supervisor.services()
        plan = {item.name: item for item in wanted if isinstance(item, WireGuard)}
        for name in {*plan, *self._plan, *before, *self._services}:
            if (plan.get(name), self._services.get(name)) != (self._plan.get(name), before.get(name)):
                self._looks.stir(name)
        self._plan = plan
        seen = await self._looks.see([directory.name for directory in self._files.glob("*")])
        return {thing.key: thing for thing in seen.values() if thing is not None}

    async def _look(self, name: str) -> Observed | None:
        """None: nothing that can be told of."""
        files, service = self._of(name), self._services.get(name)
        try:
            card = files.card()
            space, owner = str(card["netns"]), str(card["owner"])
        except (FileNotFoundError, NotADirectoryError):
            if name not in self._services:
                shutil.rmtree(self._files / name, ignore_errors=True)  # half-made: nothing was started with it
            return None
        except (ValueError, KeyError, TypeError):
            return None  # it may well run: made anew where it is wanted, and left alone where not
        self._spaces[name] = space
        # One of the other kind is made anew: a kernel may have got WireGuard, or lost it, since.
        right_kind = name not in self._services if self.kind == "kernel" else service is not None and service.up
        item = self._plan.get(name)
        called = self.being_called(name)  # before, too: they may be hung up after this was read
        live = await self._live(space, name) if right_kind else None
        called |= self.being_called(name)
        key = f"wireguard/{space}/{name}"
        mine = item if item is None or item.key == key else None
        right = await self._judge(mine, space, name, live, called, card)
        if mine is not None and live is not None and not self._held[name].locked():
            self._silent.hear(mine, live, called)
            if right is mine and (again := self._silent.to_call(mine)):
                self._calls.begin(mine, again)
        return Observed(key, right, owner)

    def facts(self) -> Known:
        """By interface."""
        return {SilentFact: {name: SilentFact(peers) for name, peers in self._silent.told().items()}}

    async def apply(self, op: Op) -> None:
        name = op.key.rpartition("/")[2]
        self._looks.stir(name)
        try:
            async with self._held[name]:
                if op.item is None:
                    await self._remove(*op.key.split("/")[1:])
                else:
                    assert isinstance(op.item, WireGuard)
                    await self._make(op.item)
        except TimeoutError:
            raise DriverError(f"{op.key}: it doesn't start; see its log") from None
        except NetlinkError as error:
            raise DriverError(f"{op.key}: {os.strerror(error.code)}") from error
        except ProcessError as error:
            if os.strerror(errno.EADDRINUSE) in error.stderr and isinstance(op.item, WireGuard):
                raise await _taken(op.item.listen_port) from error
            raise
        except OSError as error:
            raise DriverError(f"{op.key}: {error}") from error
        finally:
            self._looks.stir(name)

    def watch(self, dirty: Callable[[], None]) -> None:
        groups = (news.LINKS, news.ADDRESSES, news.ADDRESSES6, news.ROUTES, news.ROUTES6)
        self._watch = Watch(netns.ROUTE, groups, _matters, dirty, self._stirred)
        self._looks.keep()
        if self.kind == "userspace":
            self._supervisor.watch(dirty)
            self._learner = asyncio.create_task(self._learn())

    def distrust(self) -> None:
        self._looks.doubt()
        self._supervisor.distrust()

    def _stirred(self, space: str | None) -> None:
        """Something happened in a namespace. (One that is on its way is in the node's own.)"""
        if space is None:
            self._looks.stir(None)
        for name, where in self._spaces.items():
            if space in ("", where):
                self._looks.stir(name)

    async def close(self) -> None:
        if self._watch is not None:
            self._watch.close()
        self._supervisor.close()
        await self._calls.close()
        if self._learner is not None:
            self._learner.cancel()
            await asyncio.wait([self._learner])

    # -- looking -------------------------------------------------------------------------------------------------------

    async def _live(self, space: str, name: str) -> Live | None:
        try:
            return await self.told(space, name, _ANSWER)
        except TimeoutError:
            return None

    async def told(self, space: str, name: str, seconds: float) -> Live | None:
        """None where there is none. Raises TimeoutError for one that does not answer."""
        try:
            if self.kind == "userspace":
                return parse_uapi(await wgsocket.ask(name, seconds))
            return parse_dump((await run("wg", "show", name, "dump", netns=space)).stdout)
        except TimeoutError:
            raise
        except (OSError, ProcessError, ValueError, KeyError, IndexError) as error:
            if short_of_means(error):
                raise
            return None

    async def _judge(
        self,
        item: WireGuard | None,
        space: str,
        name: str,
        live: Live | None,
        called: frozenset[str],
        card: Card,
    ) -> WireGuard | None:
        """The wanted item itself where everything is as it should be."""
        if item is None or live is None:
            # Enough to tell what port and key it has, for those that wait for it, or keep them.
            return WireGuard(
                netns=space, name=name, public_key=str(card.get("public_key", "")),
                listen_port=int(card.get("port", 0)), mtu=0, addresses=(), routes=(), peers=(),
            )  # fmt: skip
        right = (
            card.get("digest") == digest(item)
            and live.public_key == item.public_key
            and live.listen_port == item.listen_port
            and same_peers(live.peers, item.peers, called)
            and await wglinks.is_right(item)
        )
        return item if right else None

    def being_called(self, name: str) -> frozenset[str]:
        """The peers that somebody calls at this moment: this driver, or the launcher of an interface that has just begun."""
        if self.kind == "userspace":
            try:
                begun = time.time() - self._of(name).up.stat().st_mtime
            except FileNotFoundError:
                begun = 0.0
            if begun < _GREETING:
                item = self._plan.get(name)
                return frozenset(peer.public_key for peer in item.peers) if item is not None else frozenset()
        return self._calls.to(name)

    # -- making --------------------------------------------------------------------------------------------------------

    async def _make(self, item: WireGuard) -> None:
        private = self._keyring.private(item.public_key)
        if private is None:
            raise DriverError(f"this node has no key {item.public_key}: its state directory was lost or replaced")
        directory, files = self._files / item.name, self._of(item.name)
        cut_off = await self._calls.end(item.name)
        try:
            live = await self.told(item.netns, item.name, _ANSWER_BEFORE_CHANGE)
        except TimeoutError as error:
            raise DriverError(str(error)) from None
        learned = files.learned(item, live)
        if self.kind == "kernel" and await self._dismiss(item.name):
            live = None
        if live is None or live.listen_port != item.listen_port:
            await self._needs_port(item)
        known = {peer.public_key for peer in live.peers} - cut_off if live is not None else set()
        await asyncio.to_thread(files.write, item, private, learned, done=False)
        if self.kind == "userspace":
            argv = ("/bin/sh", "-c", LAUNCHER, f"wireguard {item.name}", item.name, item.netns, str(directory), self._program)
            service = Supervised(item.name, argv, owner=item.owner)
            await self._supervisor.ensure(service)
            async with asyncio.timeout(_START):
                while not files.up.exists() or not await wglinks.exists(item.netns, item.name):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
        elif live is None or not await wglinks.exists(item.netns, item.name):
            live = None
            await wglinks.make(item, files.conf)
            await run("ip", "-batch", str(files.setup), netns=item.netns)
        if live is not None:
            await run("wg", "syncconf", item.name, str(files.conf), netns=item.netns)
            await wglinks.trim(item)
            await run("ip", "-batch", str(files.setup), netns=item.netns)
        self._calls.begin(item, [peer for peer in callable_peers(item, learned) if peer.public_key not in known])
        await asyncio.to_thread(files.write, item, private, learned, done=True)

    async def _needs_port(self, item: WireGuard) -> None:
        """Raises DriverError where somebody else has it: nothing is changed then, and nothing begun that ends at once."""
        if self.kind == "userspace" and item.name not in await self._supervisor.services():
            await wglinks.unlink(item.netns, item.name)  # the kernel's, of a time when it had WireGuard
        if await asyncio.to_thread(holder, item.listen_port) is None:
            return
        live = await self._live(item.netns, item.name)  # it may have come up by itself in the meantime
        if live is None or live.listen_port != item.listen_port:
            raise await _taken(item.listen_port)

    async def _remove(self, space: str, name: str) -> None:
        await self._calls.end(name)
        await self._dismiss(name)
        await wglinks.unlink(space, name)
        await asyncio.to_thread(shutil.rmtree, self._files / name, ignore_errors=True)
        self._spaces.pop(name, None)
        self._silent.forget(name)

    async def _dismiss(self, name: str) -> bool:
        """Ends the service of an interface, whatever this kernel offers now; gives whether there was one."""
        if name not in await self._supervisor.services():
            return False
        await self._supervisor.remove(name)
        wgsocket.of(name).unlink(missing_ok=True)
        return True

    # -- learned endpoints ---------------------------------------------------------------------------------------------

    async def _learn(self) -> None:
        """Keeps where peers without an endpoint were heard from, for the launcher."""
        while True:
            await asyncio.sleep(_LEARN)
            for directory in list(self._files.glob("*")):
                try:
                    async with self._held[directory.name]:  # what was read is not written over what came since
                        await self._learn_of(directory.name)
                except (OSError, ValueError, KeyError, TypeError) as error:
                    log.debug("%s: %s", directory.name, error)

    async def _learn_of(self, name: str) -> None:
        files = self._of(name)
        if nameless := files.to_learn():
            live = parse_uapi(await wgsocket.ask(name, _ANSWER))
            files.learn({key: place for key, place in live.endpoints.items() if key in nameless})

    def _of(self, name: str) -> Files:
        return Files(self._files / name)


def _matters(said: News) -> bool:
    return bool(said.space) or _NAME.fullmatch(said.name) is not None


async def _taken(port: int) -> DriverError:
    who = await asyncio.to_thread(holder, port) or "somebody who has let go of it just now"
    return DriverError(
        f"UDP port {port}, which the network has on this node, is taken by {who}: end it, or have it use another port; the "
        "network takes the port soon after it is free"
    )
