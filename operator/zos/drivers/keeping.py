"""What disks and volumes have in common, as both hold data: how they come, change and go, sizes in whole blocks, and the words
for what is refused."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from zos.drivers import DriverError
from zos.drivers.inotify import DELETE, MOVED_FROM, Inotify
from zos.drivers.reservation import amount
from zos.drivers.thread import in_thread
from zos.plan.diff import Observed, Op
from zos.plan.items import Item
from zos.plan.items.storage import Kept

log = logging.getLogger("zos.keeping")

K = TypeVar("K", bound=Kept)

#: QEMU shows a file's last sector to the guest whole, and makes the file longer when it is written; a file system has blocks.
BLOCK = 4096


class KeptDriver(Generic[K]):
    """Things of one kind, each a file in a directory of their own, with a card ``<name>.json`` beside it that says whose it is.

    What is here is never made anew, only mended; nothing empty comes in the place of what must exist. How one is looked at,
    made, mended, taken over and erased is each driver's own."""

    SLOW: ClassVar[bool] = False
    #: What is heard of its directory (`inotify`).
    HEARD: ClassVar[int] = DELETE | MOVED_FROM

    def __init__(self, kind: type[K], directory: Path) -> None:
        """``directory`` is there. A card is written before the file has its name, and goes after it: one that a crash in
        between has left is cleared. (Of a file that was lost and is brought back, its name says enough.)"""
        self._kind = kind
        self._directory = directory
        self._files: Inotify | None = None
        self._clear_cards()

    async def observe(self, wanted: Sequence[Item]) -> Mapping[str, Observed]:
        return await asyncio.to_thread(self._observe, {item.name: item for item in wanted if isinstance(item, self._kind)})

    async def apply(self, op: Op) -> None:
        try:
            if not isinstance(op.item, self._kind):
                never_used = op.observed is not None and op.observed.unused
                await in_thread(self._remove, op.key.removeprefix(f"{self._kind.FAMILY}/"), never_used)
            elif op.observed is None:
                await self._create(in_blocks(op.item))
            else:
                await self._update(in_blocks(op.item))
        except OSError as error:
            raise DriverError(f"{op.key}: {error.strerror or error}") from error

    def watch(self, dirty: Callable[[], None]) -> None:
        """What is heard of is that files go: the thing itself, or what is beside it."""
        self._files = Inotify(dirty)
        self._files.watch([self._directory], self.HEARD)

    async def close(self) -> None:
        if self._files is not None:
            self._files.close()
            self._files = None

    async def _create(self, item: K) -> None:
        self._refuse_impossible(item)
        if not await in_thread(self._is_here, item.name):  # since the last look; whatever it is, it is not empty then
            if item.must_exist and not item.adopt:
                raise DriverError(missing(item))
            try:
                await (self._adopt(item) if item.adopt else self._make(item))
            finally:
                await in_thread(self._forget_absent, item.name)
        await self._update(item)

    async def _update(self, item: K) -> None:
        if item.adopt:
            if is_there(self._file(item.adopted)):
                raise DriverError(here_already(item))
            await in_thread(self._forget, item.adopted)  # taking it over was cut off just before
        await self._mend(item)

    def _is_here(self, name: str) -> bool:
        """Raises OSError where that can't be seen."""
        return is_there(self._file(name))

    def _forget_absent(self, name: str) -> None:
        if not self._is_here(name):
            self._forget(name)

    def _clear_cards(self) -> None:
        for card in self._directory.glob("[!.]*.json"):
            try:
                self._forget_absent(card.stem)
            except OSError as error:  # it stays as it is, and keeps nothing else from being looked after
                log.warning("%s can't be cleared: %s", card, error)

    # -- each driver's own; what is not async blocks ---------------------------------------------------------------------

    def _file(self, name: str) -> Path:
        """That which holds the data, and has this name only when it is complete."""
        raise NotImplementedError

    def _observe(self, wanted: Mapping[str, K]) -> dict[str, Observed]:
        raise NotImplementedError

    def _refuse_impossible(self, item: K) -> None:
        """Raises DriverError for a name or a size that can't be."""
        raise NotImplementedError

    async def _make(self, item: K) -> None:
        raise NotImplementedError

    async def _adopt(self, item: K) -> None:
        """Takes one over that belongs to nobody any more, with all that is in it. At each step it has exactly one name, and one
        card that says whose it is by that name."""
        raise NotImplementedError

    async def _mend(self, item: K) -> None:
        """Has one that is here be as asked, whatever was done of that before."""
        raise NotImplementedError

    def _remove(self, name: str, never_used: bool) -> None:
        """``never_used``: only if that is still so."""
        raise NotImplementedError

    def _forget(self, name: str) -> None:
        """What is beside the file. Nothing: fine."""
        raise NotImplementedError


def is_there(path: Path) -> bool:
    """Whether a directory has an entry of that name, wherever it leads: a link to a place that is not mounted just now is
    somebody's data all the same. Raises OSError where that can't be seen."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    return True


def in_blocks(item: K) -> K:
    return replace(item, size=-(-item.size // BLOCK) * BLOCK)


def as_asked(there: K, asked: K, old_is_here: bool) -> K:
    """One that is there, in the words of the wish: that it must exist is fulfilled, and what was to become it has, unless that
    is still there as well."""
    size = asked.size if there.size == in_blocks(asked).size else there.size
    return replace(there, size=size, must_exist=asked.must_exist, adopt="" if old_is_here else asked.adopt)


def refuse_to_shrink(item: Kept, size: int, name: str = "") -> None:
    """Raises DriverError for one of ``size`` that can't have the size asked for. ``name``, where it has another one still."""
    if item.size < size:
        raise DriverError(f"{item.FAMILY} {name or item.name} has {amount(size)} and can't shrink to {amount(item.size)}")


def missing(item: Kept) -> str:
    return (
        f"{item.FAMILY} {item.name} holds data and is not on this node; an empty one is not made in its place. Bring its file "
        "back, or, if the data is lost, delete the object and make it anew"
    )


def nothing_to_adopt(item: Kept) -> str:
    kind = item.FAMILY
    return f"{kind} {item.adopted} is not on this node: there is nothing to take over; take giveTo back for an empty {kind}"


def used_meanwhile(family: str, name: str) -> str:
    return f"{family} {name} was used since the node looked last"


def here_already(item: Kept) -> str:
    return (
        f"{item.FAMILY} {item.name} is here already and keeps what it holds, so {item.adopted} stays in quarantine: "
        f"give it to an object that has no {item.FAMILY} yet"
    )
