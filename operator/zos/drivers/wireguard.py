"""WireGuard interfaces: the kernel's where it has them, else wireguard-go's under the supervisor.

Both are made in the node's namespace and then moved into the router's, so that their UDP socket stays in the node's. What a
userspace interface needs lies in files beside it, learned endpoints included: when its process dies, its launcher brings it
back as it was, with the agent or without.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import hashlib
import json
import logging
import os
import re
import shutil
import socket
import struct
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_interface, ip_network
from pathlib import Path
from typing import Any, ClassVar, Literal

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from zos.drivers import DriverError, addresses, netns, news
from zos.drivers.keyring import Keyring
from zos.drivers.looks import Looks
from zos.drivers.means import short_of_means
from zos.drivers.news import News, Watch
from zos.drivers.process import ProcessError, run
from zos.drivers.service import Supervised, Supervisor
from zos.drivers.udpport import holder
from zos.drivers.wgcalls import Calls, Silent
from zos.drivers.wgtext import (
    LAUNCHER,
    ROUTE_PROTOCOL,
    Live,
    callable_peers,
    configuration,
    parse_dump,
    parse_uapi,
    same_peers,
    setup,
    with_endpoints,
)
from zos.files import Durability, write
from zos.plan.diff import Observed, Op
from zos.plan.items import Item, WireGuard

log = logging.getLogger("zos.wireguard")

_SOCKETS = Path("/run/wireguard")
_ALIAS = "zos-wireguard:"
#: Names that api/names.py gives to interfaces.
_NAME = re.compile(r"w-[a-z2-7]{10}")
#: Seconds between looks at where peers without an endpoint were heard from.
_LEARN = 5.0
_START = 8.0
#: Seconds in which wireguard-go answers who looks, and who is about to change something.
_ANSWER, _ANSWER_BEFORE_CHANGE = 2.0, 5.0
#: Seconds after its start in which a launcher calls peers.
_GREETING = 10.0
Kind = Literal["kernel", "userspace"]

_CLONE_NEWNET = 0x40000000
_UCRED = struct.Struct("3i")  # struct ucred, unix(7)
_libc = ctypes.CDLL(None, use_errno=True)


async def probe() -> Kind:
    """What this kernel offers. Raises OSError where that can't be told: who may not try it has not seen that it is missing."""
    with await asyncio.to_thread(_elsewhere) as sock:
        async with AsyncIPRoute(use_socket=sock) as requests:
            try:
                await requests.link("add", ifname="probe", kind="wireguard")
            except NetlinkError as error:
                if error.code == errno.EOPNOTSUPP:
                    return "userspace"
                why = os.strerror(error.code)
                raise OSError(error.code, f"it can't be told whether this kernel has WireGuard: {why}") from error
    return "kernel"


def _elsewhere() -> socket.socket:
    """A netlink socket in a network namespace that nobody else is in: no name is taken there, and what is made there goes with
    the socket, whenever that is."""

    def open_there() -> socket.socket:
        if _libc.unshare(_CLONE_NEWNET) != 0:
            code = ctypes.get_errno()
            raise OSError(code, f"no network namespace can be made: {os.strerror(code)}")
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, netns.ROUTE)
        sock.bind((0, 0))
        return sock

    with ThreadPoolExecutor(1) as thread:  # which ends there
        return thread.submit(open_there).result()


class WireGuardDriver:
    """``state`` holds a directory per interface; ``program`` is wireguard-go."""

    ITEMS: ClassVar[tuple[type[Item], ...]] = (WireGuard,)
    SLOW: ClassVar[bool] = False
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
        directory, service = self._files / name, self._services.get(name)
        try:
            card = json.loads((directory / "card").read_text())
            space, owner = str(card["netns"]), str(card["owner"])
        except (FileNotFoundError, NotADirectoryError):
            if name not in self._services:
                shutil.rmtree(directory, ignore_errors=True)  # half-made: nothing was started with it
            return None
        except (ValueError, KeyError, TypeError):
            return None  # it may well run: made anew where it is wanted, and left alone where not
        self._spaces[name] = space
        # One of the other kind is made anew: a kernel may have got WireGuard, or lost it, since.
        right_kind = name not in self._services if self.kind == "kernel" else service is not None and service.up
        item = self._plan.get(name)
        called = self._being_called(name, directory)  # before, too: they may be hung up after this was read
        live = await self._live(space, name) if right_kind else None
        called |= self._being_called(name, directory)
        key = f"wireguard/{space}/{name}"
        mine = item if item is None or item.key == key else None
        right = await self._judge(mine, space, directory, live, called, card)
        if mine is not None and live is not None and not self._held[name].locked():
            self._silent.hear(mine, live, called)
            if right is mine and (again := self._silent.to_call(mine)):
                self._calls.begin(mine, again)
        return Observed(key, right, owner)

    def silent(self) -> Mapping[str, frozenset[str]]:
        """By interface: the public keys of those who were called and have never answered. From memory."""
        return self._silent.told()

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
            return await self._told(space, name, _ANSWER)
        except TimeoutError:
            return None

    async def _told(self, space: str, name: str, seconds: float) -> Live | None:
        """None where there is none. Raises TimeoutError for one that does not answer."""
        try:
            if self.kind == "userspace":
                return parse_uapi(await _ask(name, seconds))
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
        directory: Path,
        live: Live | None,
        called: frozenset[str],
        card: dict[str, Any],
    ) -> WireGuard | None:
        """The wanted item itself where everything is as it should be."""
        if item is None or live is None:
            # Enough to tell what port and key it has, for those that wait for it, or keep them.
            return WireGuard(
                netns=space, name=directory.name, public_key=str(card.get("public_key", "")),
                listen_port=int(card.get("port", 0)), mtu=0, addresses=(), routes=(), peers=(),
            )  # fmt: skip
        right = (
            card.get("digest") == _digest(item)
            and live.public_key == item.public_key
            and live.listen_port == item.listen_port
            and same_peers(live.peers, item.peers, called)
            and await _interface_right(item)
        )
        return item if right else None

    def _being_called(self, name: str, directory: Path) -> frozenset[str]:
        """The peers that somebody calls at this moment: this driver, or the launcher of an interface that has just begun."""
        if self.kind == "userspace":
            try:
                begun = time.time() - (directory / "up").stat().st_mtime
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
        directory = self._files / item.name
        cut_off = await self._calls.end(item.name)
        try:
            live = await self._told(item.netns, item.name, _ANSWER_BEFORE_CHANGE)
        except TimeoutError as error:
            raise DriverError(str(error)) from None
        learned = self._learned(item, directory, live)
        if self.kind == "kernel" and await self._dismiss(item.name):
            live = None
        if live is None or live.listen_port != item.listen_port:
            await self._needs_port(item)
        known = {peer.public_key for peer in live.peers} - cut_off if live is not None else set()
        await asyncio.to_thread(self._write, item, directory, private, learned, done=False)
        if self.kind == "userspace":
            argv = ("/bin/sh", "-c", LAUNCHER, f"wireguard {item.name}", item.name, item.netns, str(directory), self._program)
            service = Supervised(item.name, argv, owner=item.owner)
            await self._supervisor.ensure(service)
            async with asyncio.timeout(_START):
                while not (directory / "up").exists() or not await _exists(item.netns, item.name):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
        elif live is None or not await _exists(item.netns, item.name):
            live = None
            await self._make_in_kernel(item, directory)
        if live is not None:
            await run("wg", "syncconf", item.name, str(directory / "conf"), netns=item.netns)
            await self._trim(item)
            await run("ip", "-batch", str(directory / "setup"), netns=item.netns)
        self._calls.begin(item, [peer for peer in callable_peers(item, learned) if peer.public_key not in known])
        await asyncio.to_thread(self._write, item, directory, private, learned, done=True)

    async def _needs_port(self, item: WireGuard) -> None:
        """Raises DriverError where somebody else has it: nothing is changed then, and nothing begun that ends at once."""
        if self.kind == "userspace" and item.name not in await self._supervisor.services():
            await self._unlink(item.netns, item.name)  # the kernel's, of a time when it had WireGuard
        if await asyncio.to_thread(holder, item.listen_port) is None:
            return
        live = await self._live(item.netns, item.name)  # it may have come up by itself in the meantime
        if live is None or live.listen_port != item.listen_port:
            raise await _taken(item.listen_port)

    async def _make_in_kernel(self, item: WireGuard, directory: Path) -> None:
        await self._unlink(item.netns, item.name)
        async with netns.netlink("") as sock:
            await sock.link("add", ifname=item.name, kind="wireguard")
            (index,) = await sock.link_lookup(ifname=item.name)
            await sock.link("set", index=index, IFLA_IFALIAS=_ALIAS + item.owner)
            await run("wg", "setconf", item.name, str(directory / "conf"))
            await sock.link("set", index=index, net_ns_fd=item.netns)
        await run("ip", "-batch", str(directory / "setup"), netns=item.netns)

    def _write(self, item: WireGuard, directory: Path, private: str, learned: Mapping[str, str], *, done: bool) -> None:
        """``done`` says that the interface is as the files say; until then it counts as wrong."""
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        write(directory / "conf", configuration(item, private, learned), Durability.VOLATILE)
        write(directory / "setup", setup(item), Durability.VOLATILE)
        calls = "".join(f"{peer.public_key} {peer.keepalive}\n" for peer in callable_peers(item, learned))
        write(directory / "calls", calls, Durability.VOLATILE)
        card = {
            "netns": item.netns,
            "owner": item.owner,
            "port": item.listen_port,
            "digest": _digest(item) if done else "",
            "public_key": item.public_key,
            "item": {
                "peers": [[p.public_key, p.endpoint, list(p.allowed_ips), p.keepalive] for p in item.peers],
            },
            "learned": dict(sorted(learned.items())),
        }
        write(directory / "card", json.dumps(card), Durability.VOLATILE)

    async def _trim(self, item: WireGuard) -> None:
        """Gives a running interface its addresses, and takes away routes that it should not have; ``setup`` adds what lacks."""
        async with netns.netlink(item.netns) as sock:
            (index,) = await sock.link_lookup(ifname=item.name)
            await addresses.put(sock, index, item.addresses)
            for route in _ours(await addresses.routes_into(sock, index), index):
                if route not in {str(ip_network(wanted)) for wanted in item.routes}:
                    await sock.route("del", dst=route, oif=index, proto=ROUTE_PROTOCOL)

    async def _remove(self, space: str, name: str) -> None:
        await self._calls.end(name)
        await self._dismiss(name)
        await self._unlink(space, name)
        await asyncio.to_thread(shutil.rmtree, self._files / name, ignore_errors=True)
        self._spaces.pop(name, None)
        self._silent.forget(name)

    async def _dismiss(self, name: str) -> bool:
        """Ends the service of an interface, whatever this kernel offers now; gives whether there was one."""
        if name not in await self._supervisor.services():
            return False
        await self._supervisor.remove(name)
        (_SOCKETS / f"{name}.sock").unlink(missing_ok=True)
        return True

    async def _unlink(self, space: str, name: str) -> None:
        for where in ("", *((space,) if space in netns.ours() else ())):
            async with netns.netlink(where) as sock:
                for index in await sock.link_lookup(ifname=name):
                    await sock.link("del", index=index)

    # -- learned endpoints ---------------------------------------------------------------------------------------------

    def _learned(self, item: WireGuard, directory: Path, live: Live | None) -> dict[str, str]:
        try:
            saved: dict[str, str] = dict(json.loads((directory / "card").read_text())["learned"])
        except (OSError, ValueError, KeyError, TypeError):
            saved = {}
        heard = {**saved, **(live.endpoints if live is not None else {})}
        return {
            peer.public_key: heard[peer.public_key] for peer in item.peers if peer.endpoint is None and peer.public_key in heard
        }

    async def _learn(self) -> None:
        """Keeps where peers without an endpoint were heard from, for the launcher."""
        while True:
            await asyncio.sleep(_LEARN)
            for directory in list(self._files.glob("*")):
                try:
                    async with self._held[directory.name]:  # what was read is not written over what came since
                        await self._learn_one(directory)
                except (OSError, ValueError, KeyError, TypeError) as error:
                    log.debug("%s: %s", directory.name, error)

    async def _learn_one(self, directory: Path) -> None:
        card = json.loads((directory / "card").read_text())
        nameless = {key for key, endpoint, _, _ in card["item"]["peers"] if endpoint is None}
        if not nameless or not card["digest"]:
            return
        live = parse_uapi(await _ask(directory.name))
        heard = {**card["learned"], **{k: e for k, e in live.endpoints.items() if k in nameless}}
        if heard == card["learned"]:
            return
        conf = (directory / "conf").read_text()
        write(directory / "conf", with_endpoints(conf, heard), Durability.VOLATILE)
        keepalives = {key: keepalive for key, _, _, keepalive in card["item"]["peers"]}
        reachable = [key for key, endpoint, _, _ in card["item"]["peers"] if endpoint is not None or key in heard]
        write(directory / "calls", "".join(f"{key} {keepalives[key]}\n" for key in reachable), Durability.VOLATILE)
        write(directory / "card", json.dumps({**card, "learned": heard}), Durability.VOLATILE)


def _matters(said: News) -> bool:
    return bool(said.space) or _NAME.fullmatch(said.name) is not None


async def _taken(port: int) -> DriverError:
    who = await asyncio.to_thread(holder, port) or "somebody who has let go of it just now"
    return DriverError(
        f"UDP port {port}, which the network has on this node, is taken by {who}: end it, or have it use another port; the "
        "network takes the port soon after it is free"
    )


async def _ask(name: str, seconds: float = _ANSWER) -> str:
    """A running userspace interface's answer over its socket. Raises TimeoutError with a text for who reads it."""
    process = 0
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_unix_connection(str(_SOCKETS / f"{name}.sock"))
            try:
                peer = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
                process, _, _ = _UCRED.unpack(peer)
                writer.write(b"get=1\n\n")
                return (await reader.readuntil(b"\n\n")).decode()
            except asyncio.IncompleteReadError as error:
                raise ValueError("no answer") from error
            finally:
                writer.close()
    except TimeoutError:
        raise TimeoutError(
            f"its wireguard-go (process {process}) has not answered for {seconds:g} s: if it is stopped, let it go on "
            f"(kill -CONT {process}); if it hangs, end it (kill -9 {process}), and another one begins"
        ) from None


async def _exists(space: str, name: str) -> bool:
    async with netns.netlink(space) as sock:
        return bool(await sock.link_lookup(ifname=name))


async def _interface_right(item: WireGuard) -> bool:
    try:
        async with netns.netlink(item.netns) as sock:
            for index in await sock.link_lookup(ifname=item.name):
                (link,) = [message async for message in await sock.get_links(index)]
                found, routes = await addresses.held(sock, index), await addresses.routes_into(sock, index)
                wanted = {str(ip_interface(address)) for address in item.addresses}
                return (
                    bool(link["flags"] & 1)
                    and link.get_attr("IFLA_MTU") == item.mtu
                    and addresses.working(found, routes).get(index, frozenset()) == wanted
                    and set(_ours(routes, index)) == {str(ip_network(route)) for route in item.routes}
                )
    except (DriverError, NetlinkError, OSError) as error:
        if short_of_means(error):
            raise
    return False


def _ours(routes: Sequence[Any], index: int) -> list[str]:
    """Destinations of our routes into an interface, among netlink's messages."""
    return [
        f"{message.get_attr('RTA_DST')}/{message['dst_len']}"
        for message in routes
        if message["proto"] == ROUTE_PROTOCOL and message.get_attr("RTA_OIF") == index
    ]


def _digest(item: WireGuard) -> str:
    parts = (item.netns, item.name, item.public_key, item.listen_port, item.mtu, item.addresses, item.routes, item.peers)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
