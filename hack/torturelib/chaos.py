"""The engine of a torture: one harmful action after the other, chosen by a seed, and invariants that are looked at in between.

What is told: the seed, each action with its time, and each violated invariant with what was seen. An invariant reads the API
and the nodes only. What it can't look at now (a server that was just killed) says nothing about what is there.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Generic, Protocol, TypeVar

W = TypeVar("W")
Say = Callable[[str], None]

_TURN = 0.5  # seconds between two looks of invariants while nothing is done


class Unseen(Exception):
    """Could not be looked at now."""


class Refused(Exception):
    """An action that could not be done as things stand, and why."""


@dataclass(frozen=True)
class Action(Generic[W]):
    """``run`` does it and tells what it did to whom; all chance is in the Random that it is given. ``weight``: how often it is
    chosen, relative to others. ``slow`` ones are not for a short run."""

    name: str
    run: Callable[[W, Random], Awaitable[str]]
    weight: int = 4
    slow: bool = False


@dataclass(frozen=True)
class Invariant(Generic[W]):
    """``broken`` gives what is wrong, a line each. Raises Unseen."""

    name: str
    broken: Callable[[W], Awaitable[list[str]]]


class World(Protocol):
    """What is tortured."""

    async def begin(self) -> None:
        """Makes what chaos will come over; returns when all of it is well."""

    async def calm(self) -> None:
        """Ends what actions have left behind on purpose: what was stopped runs again, what was taken out is put back."""

    async def clear(self) -> None:
        """Deletes everything that was made; does not wait."""


@dataclass(frozen=True)
class Scenario(Generic[W]):
    """``always`` holds at every moment, ``rest`` within ``patience`` seconds after the chaos has ended, ``end`` within the
    same time after everything was deleted. ``pause``: at most so many seconds between two actions."""

    actions: tuple[Action[W], ...]
    always: tuple[Invariant[W], ...]
    rest: tuple[Invariant[W], ...]
    end: tuple[Invariant[W], ...]
    pause: float = 2.0
    patience: float = 120.0


@dataclass
class Report:
    """``violations`` has each only once, as it was first seen."""

    seed: int
    done: Counter[str] = field(default_factory=Counter)
    looks: int = 0
    violations: list[str] = field(default_factory=list)


def choose(actions: Sequence[Action[W]], asked: Sequence[str], *, short: bool) -> list[Action[W]]:
    """``asked``: names, or ``all``. Nothing asked: all that fits into the run. Raises KeyError for a name that there is not."""
    if "all" in asked:
        return list(actions)
    by_name = {action.name: action for action in actions}
    if asked:
        return [by_name[name] for name in asked]
    return [action for action in actions if not (short and action.slow)]


def now() -> float:
    """Seconds, of the clock by which everything here waits."""
    return asyncio.get_running_loop().time()


async def torture(
    world: World, scenario: Scenario[W], actions: Sequence[Action[W]], *, seed: int, seconds: float, say: Say
) -> Report:
    """``world`` is what ``scenario`` is about."""
    run = _Run(world, scenario, seed, say)
    say(f"seed {seed}, {seconds:.0f} s of {len(actions)} actions: {', '.join(action.name for action in actions)}")
    await world.begin()
    run.tell("begun")
    await run.look(scenario.always)
    end = now() + seconds
    number = 0
    while now() < end:
        number += 1
        chance = Random(f"{seed}/{number}")  # its own for each: one that draws more or less changes no other
        action = chance.choices(actions, [action.weight for action in actions])[0]
        await run.act(number, action, chance)
        until = min(end, now() + chance.uniform(0, scenario.pause))
        await run.look(scenario.always)
        while (left := until - now()) > 0:
            await asyncio.sleep(min(left, _TURN))
            await run.look(scenario.always)
    run.tell("chaos is over")
    await world.calm()
    await run.settle("after the chaos", scenario.rest)
    run.tell("at rest")
    await world.clear()
    await run.settle("after the deletion", scenario.end, watched=False)
    run.tell("gone")
    done = ", ".join(f"{name} {count}" for name, count in sorted(run.report.done.items()))
    say(f"{number} actions ({done}), looked {run.report.looks} times, {len(run.report.violations)} violations, seed {seed}")
    return run.report


class _Run(Generic[W]):
    def __init__(self, world: World, scenario: Scenario[W], seed: int, say: Say) -> None:
        self._world: W = world  # type: ignore[assignment]
        self._scenario = scenario
        self._say = say
        self._began = now()
        self.report = Report(seed)

    def tell(self, text: str) -> None:
        self._say(f"{now() - self._began:7.1f} s  {text}")

    async def act(self, number: int, action: Action[W], chance: Random) -> None:
        self.report.done[action.name] += 1
        try:
            said = await action.run(self._world, chance)
        except Refused as error:
            said = f"could not be done: {error}"
        self.tell(f"{number:4} {action.name}: {said}")

    async def look(self, invariants: Sequence[Invariant[W]]) -> None:
        self.report.looks += 1
        for invariant in invariants:
            try:
                found = await invariant.broken(self._world)
            except Unseen:
                continue
            for what in found:
                self.violated(f"{invariant.name}: {what}")

    async def settle(self, when: str, invariants: Sequence[Invariant[W]], *, watched: bool = True) -> None:
        """All of them hold together within the scenario's patience; ``watched``: and what always holds, meanwhile."""
        deadline = now() + self._scenario.patience
        while found := [(invariant.name, what) for invariant in invariants for what in await self._seen(invariant)]:
            if watched:
                await self.look(self._scenario.always)
            if now() > deadline:
                for name, what in found:
                    self.violated(f"{name}, {self._scenario.patience:.0f} s {when}: {what}")
                return
            await asyncio.sleep(_TURN)
        if watched:
            await self.look(self._scenario.always)

    async def _seen(self, invariant: Invariant[W]) -> list[str]:
        try:
            return await invariant.broken(self._world)
        except Unseen as error:
            return [f"can't be looked at: {error}"]

    def violated(self, what: str) -> None:
        if what not in self.report.violations:
            self.report.violations.append(what)
            self.tell(f"VIOLATED {what}")
