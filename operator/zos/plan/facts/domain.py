"""What is known of guests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from zos.plan.facts.fact import Fact
from zos.plan.items import Domain


@dataclass(frozen=True, kw_only=True)
class DomainFact(Fact):
    """What is known of a guest. ``crashes`` are times (seconds, the agent's monotonic-enough wall clock) of the last
    unexpected ends; ``exit_code`` is the entrypoint's (128 + n for signal n), None while it runs or when it died without
    a word. ``ended``: the entrypoint ended (exit); the guest died (crash); it was asked to, rebooted or went down with the
    node (stopped). ``problem`` is what the guest's init could not do. ``booted``: it runs, and so does its entrypoint.
    ``recipe``: what it was started with last (`Domain.recipe`); ``image``: the digest in that. ``runs``: what a guest that runs
    was started with, as far as that can be told. ``unreadable``: it runs, and not all of that can be. ``because``: what made it
    start again, in words. ``told`` is what a virtual machine's cloud-init says of this boot (`zos.plan.seed`), empty before it
    has said anything. ``full``: disks (names of items) that found no room on the node, so that it is paused;
    ``faults``: those that could not be read or written since it was started. ``took``: seconds of each phase of its start, by
    name: ``queue`` (others were started first), ``start`` (of its process), ``boot`` (until its entrypoint ran, or a virtual
    machine's cloud-init began), ``ready`` (until that was done)."""

    ABOUT: ClassVar[str] = "guests"

    running: bool
    booted: bool = False
    started_at: float | None = None
    ended_at: float | None = None
    ended: Literal["", "exit", "crash", "stopped"] = ""
    exit_code: int | None = None
    restarts: int = 0
    crashes: tuple[float, ...] = ()
    accelerator: Literal["kvm", "tcg"] | None = None
    console: str | None = None
    problem: str = ""
    recipe: str = ""
    image: str = ""
    runs: Domain | None = None
    unreadable: bool = False
    because: str = ""
    told: Literal["", "booting", "ready", "unready"] = ""
    full: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    took: tuple[tuple[str, float], ...] = ()
