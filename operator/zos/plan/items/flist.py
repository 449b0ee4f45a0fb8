"""What an flist needs beside the service that mounts it (ADR 0024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from zos.plan.items.item import Item, Rank

#: The group of all programs that mount flists.
FLISTS = "flists"


@dataclass(frozen=True, kw_only=True)
class Fence(Item):
    """What keeps the programs of an account's ``group`` to where images may be fetched from."""

    group: str

    FAMILY: ClassVar[str] = "fence"
    RANK: ClassVar[int] = Rank.FIREWALL
    SHARED: ClassVar[bool] = True

    @property
    def key(self) -> str:
        return f"{self.FAMILY}/{self.group}"


@dataclass(frozen=True, kw_only=True)
class Flist(Item):
    """The tree of an flist that is mounted, looked through once: it is an image like others then. It goes with that."""

    digest: str

    FAMILY: ClassVar[str] = "flist"
    RANK: ClassVar[int] = Rank.IMAGE
    SHARED: ClassVar[bool] = True

    @property
    def key(self) -> str:
        return f"{self.FAMILY}/{self.digest}"
