"""Kernel settings of a namespace. Set where wanted, left as they are afterwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import ClassVar

from zos.drivers import DriverError, netns
from zos.drivers.means import short_of_means
from zos.plan.diff import Observed, Op
from zos.plan.items import Item, Sysctl


class SysctlDriver:
    ITEMS: ClassVar[tuple[type[Item], ...]] = (Sysctl,)
    SLOW: ClassVar[bool] = False

    async def observe(self, wanted: Sequence[Item]) -> Mapping[str, Observed]:
        observed: dict[str, Observed] = {}
        for item in wanted:
            if isinstance(item, Sysctl):
                try:
                    value = await netns.inside(item.netns, _path(item.path).read_text)
                except (OSError, DriverError) as error:
                    if short_of_means(error):
                        raise
                    continue
                words = " ".join(value.split())
                found = Sysctl(netns=item.netns, path=item.path, value=item.value if words == item.value else words)
                observed[item.key] = Observed(item.key, found)
        return observed  # only what is wanted is seen, so nothing is ever removed

    async def apply(self, op: Op) -> None:
        if isinstance(op.item, Sysctl):
            path, value = _path(op.item.path), op.item.value

            def write() -> None:
                if path.read_text().split() != value.split():
                    path.write_text(value + "\n")

            try:
                await netns.inside(op.item.netns, write)
            except OSError as error:
                raise DriverError(f"{op.item.path} = {value}: {error.strerror or error}") from error

    def watch(self, dirty: Callable[[], None]) -> None:
        """The kernel tells nobody; the resync finds it."""

    async def close(self) -> None:
        pass


def _path(path: str) -> Path:
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts:
        raise DriverError(f"{path!r} is no kernel setting")
    return Path("/proc/sys") / pure
