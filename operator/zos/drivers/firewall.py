"""nftables: each item is one table, replaced in one transaction, marked with its owner and the digest of its text.

The kernel shows a table in its own words. So what it showed right after a table was made is remembered (until the next boot,
like the table); anything else later means that somebody changed it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from zos.drivers import DriverError, netns, news, nftables
from zos.drivers.looks import Looks
from zos.drivers.news import News, Watch
from zos.drivers.process import run
from zos.files import Durability, write
from zos.plan.diff import Observed, Op
from zos.plan.items import Firewall, Item

_MARK = re.compile(r'^\tcomment "zos (?P<digest>[0-9a-f]{32}) (?P<owner>\S*)"$', re.MULTILINE)
#: Names that api/names.py gives to tables. (Others may have names with anything in them.)
_OURS = re.compile(r"zos-[a-z2-7]{10}(-[a-z0-9]+)?")


class FirewallDriver:
    """``run_dir`` is emptied by a reboot."""

    ITEMS: ClassVar[tuple[type[Item], ...]] = (Firewall,)
    SLOW: ClassVar[bool] = False

    def __init__(self, run_dir: Path) -> None:
        self._memory = run_dir / "firewall"
        self._memory.mkdir(parents=True, exist_ok=True)
        self._watch: Watch | None = None
        self._names = Looks(_names)
        self._texts = Looks(_text)
        self._there: Mapping[str, tuple[str, ...]] = {}  # keys of our tables by namespace, as of the last look

    async def observe(self, wanted: Sequence[Item]) -> Mapping[str, Observed]:
        ours = netns.ours()
        if self._watch is not None:
            self._watch.follow(ours)
        plan = {item.key: item for item in wanted if isinstance(item, Firewall)}
        self._there = await self._names.see(("", *sorted(ours)))
        texts = await self._texts.see(key for keys in self._there.values() for key in keys)
        return {key: self._judge(key, text, plan.get(key)) for key, text in texts.items() if text is not None}

    async def apply(self, op: Op) -> None:
        space, family, name = _parts(op.key)
        try:
            await self._apply(op, space, family, name)
        finally:
            self._names.stir(space)
            self._texts.stir(op.key)

    async def _apply(self, op: Op, space: str, family: str, name: str) -> None:
        if op.item is None:
            if not space or space in netns.ours():
                await run("nft", "-f", "-", netns=space, input=f"table {family} {name}\ndelete table {family} {name}\n")
            self._remembered(op.key).unlink(missing_ok=True)
            return
        assert isinstance(op.item, Firewall)
        comment = f'comment "zos {_digest(op.item.body)} {op.item.owner}"'
        script = (
            f"table {family} {name}\ndelete table {family} {name}\ntable {family} {name} {{\n{comment}\n{op.item.body}\n}}\n"
        )
        await run("nft", "-f", "-", netns=space, input=script)
        shown = await _text(op.key)
        if shown is None:
            raise DriverError(f"{op.key}: it vanished as soon as it was made")
        write(self._remembered(op.key), _digest(shown), Durability.VOLATILE)

    def watch(self, dirty: Callable[[], None]) -> None:
        def matters(said: News) -> bool:
            if _OURS.fullmatch(said.name) is None:
                return False
            self._texts.stir(_key(said.space, said.family, said.name))
            return True

        self._watch = Watch(netns.NETFILTER, (news.NFTABLES,), matters, dirty, self._stirred)
        self._names.keep()
        self._texts.keep()

    def distrust(self) -> None:
        self._names.doubt()
        self._texts.doubt()

    def _stirred(self, space: str | None) -> None:
        self._names.stir(space)
        if space is None:
            self._texts.stir(None)
        elif space:  # it may be another one by the same name, or nobody has listened there up to now
            for key in self._there.get(space, ()):
                self._texts.stir(key)

    async def close(self) -> None:
        if self._watch is not None:
            self._watch.close()

    def _judge(self, key: str, text: str, item: Firewall | None) -> Observed:
        mark = _MARK.search(text)
        owner = mark["owner"] if mark is not None else ""
        try:
            untouched = self._remembered(key).read_text() == _digest(text)
        except FileNotFoundError:
            untouched = False
        right = item is not None and mark is not None and untouched and mark["digest"] == _digest(item.body)
        return Observed(key, item if right else None, owner)

    def _remembered(self, key: str) -> Path:
        return self._memory / hashlib.sha256(key.encode()).hexdigest()[:32]


def _key(space: str, family: str, name: str) -> str:
    return f"firewall/{space}/{family}/{name}"


def _parts(key: str) -> tuple[str, str, str]:
    _, space, family, name = key.split("/")
    return space, family, name


async def _names(space: str) -> tuple[str, ...]:
    """Keys of the tables of ours in a namespace."""
    try:
        return tuple(_key(space, family, name) for family, name in await nftables.names(space) if _OURS.fullmatch(name))
    except (DriverError, OSError):
        if _went_away(space):
            return ()
        raise


async def _text(key: str) -> str | None:
    """How the kernel shows a table; None: it is gone."""
    space, family, name = _parts(key)
    try:
        shown = await nftables.shown(space, family, name)
    except (DriverError, OSError):
        if _went_away(space):
            return None
        raise
    return shown.partition("{\n")[2].rstrip().removesuffix("}").rstrip() if shown is not None else None


def _went_away(space: str) -> bool:
    return bool(space) and space not in netns.ours()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
