"""nftables: each item is one table, replaced in one transaction, marked with its owner and the digest of its text.

The kernel shows a table in its own words. So what it showed right after a table was made is remembered (until the next boot,
like the table); anything else later means that somebody changed it.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from zos.drivers import DriverError, netns, news
from zos.drivers.looks import Looks
from zos.drivers.news import News, Watch
from zos.drivers.process import run
from zos.plan.diff import Observed, Op
from zos.plan.items import Firewall, Item

_HEADER = re.compile(r"^table (?P<family>\S+) (?P<name>\S+) \{$")
_MARK = re.compile(r'^\tcomment "zos (?P<digest>[0-9a-f]{32}) (?P<owner>\S*)"$', re.MULTILINE)
#: Names that api/names.py gives to tables.
_OURS = re.compile(r"zos-[a-z2-7]{10}(-\S+)?")


class FirewallDriver:
    """``run_dir`` is emptied by a reboot."""

    ITEMS: ClassVar[tuple[type[Item], ...]] = (Firewall,)
    SLOW: ClassVar[bool] = False

    def __init__(self, run_dir: Path) -> None:
        self._memory = run_dir / "firewall"
        self._memory.mkdir(parents=True, exist_ok=True)
        self._watch: Watch | None = None
        self._looks = Looks(_tables)

    async def observe(self, wanted: Sequence[Item]) -> Mapping[str, Observed]:
        ours = netns.ours()
        if self._watch is not None:
            self._watch.follow(ours)
        plan = {item.key: item for item in wanted if isinstance(item, Firewall)}
        observed: dict[str, Observed] = {}
        for space, tables in (await self._looks.see(("", *sorted(ours)))).items():
            for (family, name), text in tables.items():
                seen = self._judge(space, family, name, text, plan)
                observed[seen.key] = seen
        return observed

    async def apply(self, op: Op) -> None:
        space, family, name = op.key.removeprefix("firewall/").split("/", 2)
        try:
            await self._apply(op, space, family, name)
        finally:
            self._looks.stir(space)

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
        shown = (await _tables(space)).get((family, name))
        if shown is None:
            raise DriverError(f"{op.key}: it vanished as soon as it was made")
        memory = self._remembered(op.key)
        memory.with_suffix(".new").write_text(_digest(shown))
        memory.with_suffix(".new").rename(memory)

    def watch(self, dirty: Callable[[], None]) -> None:
        def matters(said: News) -> bool:
            return _OURS.fullmatch(said.name) is not None

        self._watch = Watch(netns.NETFILTER, (news.NFTABLES,), matters, dirty, self._looks.stir)
        self._looks.keep()

    def distrust(self) -> None:
        self._looks.doubt()

    async def close(self) -> None:
        if self._watch is not None:
            self._watch.close()

    def _judge(self, space: str, family: str, name: str, text: str, plan: Mapping[str, Firewall]) -> Observed:
        key = f"firewall/{space}/{family}/{name}"
        mark = _MARK.search(text)
        owner = mark["owner"] if mark is not None else ""
        item = plan.get(key)
        try:
            untouched = self._remembered(key).read_text() == _digest(text)
        except FileNotFoundError:
            untouched = False
        right = item is not None and mark is not None and untouched and mark["digest"] == _digest(item.body)
        return Observed(key, item if right else None, owner)

    def _remembered(self, key: str) -> Path:
        return self._memory / hashlib.sha256(key.encode()).hexdigest()[:32]


async def _tables(space: str) -> dict[tuple[str, str], str]:
    """Tables of ours in a namespace and how the kernel shows them."""
    if space and not os.path.exists(f"{netns.NETNS}/{space}"):  # noqa: ASYNC240 - a stat in a tmpfs
        return {}
    names = []
    for line in (await run("nft", "list", "tables", netns=space)).stdout.splitlines():
        words = line.split()
        if len(words) == 3 and _OURS.fullmatch(words[2]):
            names.append((words[1], words[2]))
    if not names:
        return {}
    commands = "".join(f"list table {family} {name}\n" for family, name in names)
    listed = await run("nft", "-s", "-f", "-", netns=space, input=commands, check=False)
    if listed.code != 0:  # one of them vanished between the two looks: say what is there, one by one
        parts = [await run("nft", "-s", "list", "table", *name, netns=space, check=False) for name in names]
        return _parse("".join(part.stdout for part in parts))
    return _parse(listed.stdout)


def _parse(text: str) -> dict[tuple[str, str], str]:
    tables: dict[tuple[str, str], str] = {}
    header: tuple[str, str] | None = None
    lines: list[str] = []
    for line in text.splitlines():
        if (start := _HEADER.match(line)) is not None:
            header, lines = (start["family"], start["name"]), []
        elif line == "}" and header is not None:
            tables[header] = "\n".join(lines)
            header = None
        else:
            lines.append(line)
    return tables


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
