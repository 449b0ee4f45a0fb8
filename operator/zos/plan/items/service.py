"""Programs that run beside guests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from zos.plan.items.item import Held, Item, Rank


@dataclass(frozen=True, kw_only=True)
class Service(Item):
    """A long-running process under the node's supervisor, that outlives the agent and is restarted when it dies."""

    name: str
    argv: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()

    FAMILY: ClassVar[str] = "service"
    RANK: ClassVar[int] = Rank.PROGRAM

    @property
    def key(self) -> str:
        return f"{self.FAMILY}/{self.name}"

    @property
    def held(self) -> Held:
        return Held(alive=True)
