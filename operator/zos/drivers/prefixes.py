"""The networks that the node is connected to, as the kernel tells: a fact, nothing that is made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from ipaddress import IPv4Network, collapse_addresses
from typing import Any, ClassVar

from zos.drivers import netns, news
from zos.drivers.devices import Link
from zos.drivers.news import News, Watch
from zos.plan.diff import Observed, Op
from zos.plan.facts import ConnectedFact, Fact, Known
from zos.plan.items import Item

_AF_INET = 2
_UNICAST = 1
#: Lengths of routes that count. One without a gateway is to a network that the node is connected to; a shorter one is a way to
#: the world (PPP, VPN), and one to a single host is a container's, of which there are many that come and go.
_ON_LINK = range(8, 32)


class PrefixDriver:
    """A driver without items: it looks when told that something changed, and is asked again when it could not."""

    ITEMS: ClassVar[tuple[type[Item], ...]] = ()
    SLOW: ClassVar[bool] = False
    FACTS: ClassVar[tuple[type[Fact], ...]] = (ConnectedFact,)

    def __init__(self) -> None:
        self._watch: Watch | None = None
        self._ours: frozenset[int] = frozenset()
        self._carrying: frozenset[int] = frozenset()  # interfaces of others that a network is known by
        self._known: tuple[str, ...] | None = None

    def facts(self) -> Known:
        """IPv4 networks but loopback, sorted, none inside another, the node's own addresses within; as of the last look that
        succeeded. None: there was none yet."""
        return {ConnectedFact: {"": ConnectedFact(self._known)}} if self._known is not None else {}

    async def observe(self, wanted: Sequence[Item]) -> Mapping[str, Observed]:
        async with netns.netlink("") as sock:
            links = [Link("", message) async for message in await sock.get_links()]
            addresses = [message async for message in await sock.get_addr(family=_AF_INET)]
            # Of every family: asked for one, the kernel takes a table that was never used for a mistake.
            told = await sock.get_routes(table=netns.MAIN_TABLE)
            routes = [message async for message in told if message["family"] == _AF_INET]
        theirs = {link.index for link in links if not link.ours}
        self._ours = frozenset(link.index for link in links if link.ours)
        indexes = (*(message["index"] for message in addresses), *(message.get_attr("RTA_OIF") for message in routes))
        self._carrying = frozenset(index for index in indexes if index in theirs)
        found = [
            *(network for message in addresses if message["index"] in theirs for network in _of_address(message)),
            *(network for message in routes if message.get_attr("RTA_OIF") in theirs for network in _of_route(message)),
        ]
        self._known = tuple(str(network) for network in collapse_addresses(found) if not network.is_loopback)
        return {}

    async def apply(self, op: Op) -> None:
        raise AssertionError(op)

    def watch(self, dirty: Callable[[], None]) -> None:
        groups = (news.LINKS, news.ADDRESSES, news.ROUTES)
        self._watch = Watch(netns.ROUTE, groups, self._matters, dirty, follows=False)

    async def close(self) -> None:
        if self._watch is not None:
            self._watch.close()

    def _matters(self, said: News) -> bool:
        """Of others' interfaces those with networks: with one that goes down, its IPv4 routes go without a word."""
        if said.about == "route":
            counts = said.table == netns.MAIN_TABLE and said.type == _UNICAST and said.length in _ON_LINK and not said.gateway
        else:
            counts = said.about == "address" or said.index in self._carrying
        return counts and said.index not in self._ours


def _of_address(message: Any) -> Iterator[IPv4Network]:
    """Its network, and itself, which on a point-to-point link lies elsewhere."""
    local, far = message.get_attr("IFA_LOCAL"), message.get_attr("IFA_ADDRESS")
    yield IPv4Network(f"{far or local}/{message['prefixlen']}", strict=False)
    yield IPv4Network(local or far)


def _of_route(message: Any) -> Iterator[IPv4Network]:
    behind_another = message.get_attr("RTA_GATEWAY") or message.get_attr("RTA_VIA")
    if message["type"] == _UNICAST and message["dst_len"] in _ON_LINK and not behind_another:
        yield IPv4Network(f"{message.get_attr('RTA_DST')}/{message['dst_len']}")
