"""What is known of services."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from zos.plan.facts.fact import Fact


@dataclass(frozen=True, kw_only=True)
class ServiceEnd:
    """How a service's program ended, and when (seconds since the epoch): ``code`` is its exit code, or ``signal`` the name of
    what ended it ("SIGKILL"). ``asked``: the agent had it end."""

    at: float
    code: int | None = None
    signal: str = ""
    asked: bool = False

    def __str__(self) -> str:
        return f"ended by {self.signal}" if self.signal else f"ended with exit code {self.code}"


@dataclass(frozen=True, kw_only=True)
class ServiceFact(Fact):
    """What is known of a service. ``up``: its program runs, ``since`` then (seconds since the epoch), and ``ready`` where it
    has said so, or has no way to; ``overdue``: that takes longer than it should. ``next_start``: when it is started again,
    where that is put off. ``restarts`` and ``crashes`` (the times of the last ends that nobody asked for) are counted since it
    was made or changed. ``log`` is the directory of its log on the node. What is in that is no fact: facts come into
    conditions, and what a program says may be a secret. ``trouble`` is what it says for conditions (`Service.status`), as it
    said it last; empty: nothing."""

    ABOUT: ClassVar[str] = "services"

    up: bool
    ready: bool = False
    overdue: bool = False
    since: float | None = None
    next_start: float | None = None
    restarts: int = 0
    last_exit: ServiceEnd | None = None
    crashes: tuple[float, ...] = ()
    log: str = ""
    trouble: str = ""
