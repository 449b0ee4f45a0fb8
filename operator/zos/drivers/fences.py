"""Fence items: what keeps the programs of a group to where images may be fetched from, for as long as there are any."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

from zos.drivers import DriverError
from zos.drivers.fence import Fence as Table
from zos.drivers.fencerules import Network, closed_in
from zos.drivers.news import Watch
from zos.drivers.registry import CLOSED
from zos.plan.diff import Observed, Op
from zos.plan.items import Fence, Item


class FenceDriver:
    """Of the groups that there may be; ``gid_of`` gives their numbers, ``opened`` is as `Sources.networks`."""

    ITEMS: ClassVar[tuple[type[Item], ...]] = (Fence,)
    SLOW: ClassVar[bool] = False

    def __init__(self, groups: Sequence[str], gid_of: Callable[[str], int], opened: Sequence[Network] = ()) -> None:
        self._tables = {group: Table(opened, f"zos-{group}", f"skgid {gid_of(group)}") for group in groups}
        self._watches: list[Watch] = []

    def meaning(self, said: str) -> str:
        """What a program in one of the groups says of a server, in words for who wants to know why."""
        return CLOSED if any(closed_in(said, table.ground) for table in self._tables.values()) else said

    async def observe(self, wanted: Sequence[Item]) -> Mapping[str, Observed]:
        observed: dict[str, Observed] = {}
        for group, table in self._tables.items():
            if (stands := await table.stands()) is not None:
                item = Fence(group=group)
                observed[item.key] = Observed(item.key, item if stands else None, shared=True)
        return observed

    async def apply(self, op: Op) -> None:
        table = self._tables.get(op.key.removeprefix("fence/"))
        if table is None:
            raise DriverError(f"{op.key}: there is no such fence")
        if op.item is not None:
            await table.stand()
        else:
            await table.fall()

    def watch(self, dirty: Callable[[], None]) -> None:
        self._watches = [watch for table in self._tables.values() for watch in table.watches(dirty)]

    async def close(self) -> None:
        for watch in self._watches:
            watch.close()
