"""Kernel settings of a namespace. Set where wanted, left as they are afterwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
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
                except FileNotFoundError:
                    if not item.optional:
                        continue
                    value = item.value
                except (OSError, DriverError) as error:
                    if short_of_means(error):
                        raise
                    continue
                words = " ".join(value.split())
                observed[item.key] = Observed(item.key, item if words == item.value else replace(item, value=words))
        return observed  # only what is wanted is seen, so nothing is ever removed

    async def apply(self, op: Op) -> None:
        if isinstance(op.item, Sysctl):
            path, value, optional = _path(op.item.path), op.item.value, op.item.optional

            def write() -> None:
                if optional and not path.exists():
                    return
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
