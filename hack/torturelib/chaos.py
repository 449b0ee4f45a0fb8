"""The engine of a torture: one harmful action after the other, chosen by a seed, and invariants that are looked at in between.

What is told: the seed, each action with its time, each violated invariant with what was seen, and at the end how to do the same
steps again. An invariant reads the API and the nodes only. What it can't look at now (a server that was just killed) says
nothing about what is there.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from random import Random
from typing import Generic, Protocol, TypeVar

W = TypeVar("W")
Say = Callable[[str], None]


class Unseen(Exception):
    """Could not be looked at now."""


class Refused(Exception):
    """An action that could not be done as things stand, and why."""


class Broken(Exception):
    """An action saw itself what must not be."""


@dataclass(frozen=True)
class Action(Generic[W]):
    """``run`` does it and tells what it did to whom; all chance is in the Random that it is given. ``weight``: how often it is
    chosen, relative to others. ``slow`` ones are not for a short run."""

    name: str
    run: Callable[[W, Random], Awaitable[str]]
    weight: int = 4
    slow: bool = False


@dataclass(frozen=True)
class Step:
    """An action that is wanted by its name. ``number``: of which step it has the chance; None: of its place here."""

    name: str
    number: int | None = None


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
    """``always`` holds at every moment, ``after`` within ``patience`` seconds after each action, ``rest`` after the chaos has
    ended, ``end`` after everything was deleted. ``pause``: at most so many seconds between two actions; ``turn``: between two
    looks. ``in_turn``: each action comes once before any comes again."""

    actions: tuple[Action[W], ...]
    always: tuple[Invariant[W], ...]
    rest: tuple[Invariant[W], ...]
    end: tuple[Invariant[W], ...]
    after: tuple[Invariant[W], ...] = ()
    pause: float = 2.0
    turn: float = 0.5
    patience: float = 120.0
    in_turn: bool = False


@dataclass
class Report:
    """``violations`` has each only once, as it was first seen; ``again`` the steps that they came after."""

    seed: int
    done: Counter[str] = field(default_factory=Counter)
    looks: int = 0
    violations: list[str] = field(default_factory=list)
    again: list[str] = field(default_factory=list)


def choose(actions: Sequence[Action[W]], asked: Sequence[str], *, short: bool) -> list[Action[W]]:
    """``asked``: names, or ``all``. Nothing asked: all that fits into the run. Raises KeyError for a name that there is not."""
    if "all" in asked:
        return list(actions)
    by_name = {action.name: action for action in actions}
    if asked:
        return [by_name[name] for name in asked]
    return [action for action in actions if not (short and action.slow)]


def steps_of(text: str) -> list[Step]:
    """Words with commas between: NAME, or NUMBER:NAME. Raises ValueError."""
    found = []
    for word in filter(None, text.split(",")):
        number, colon, name = word.rpartition(":")
        if not name or (colon and not number.isdecimal()):
            raise ValueError(f"{word}: a step is written as NAME, or as NUMBER:NAME")
        found.append(Step(name, int(number) if colon else None))
    return found


def plan(
    actions: Sequence[Action[W]], seed: int, steps: Sequence[Step] = (), *, in_turn: bool = False
) -> Iterator[tuple[int, Action[W], Random]]:
    """What is done: number, action, and all its chance. Endless, but where ``steps`` are wanted. Raises KeyError for a name
    that there is not."""
    by_name = {action.name: action for action in actions}
    wanted = [(step.number or place, by_name[step.name]) for place, step in enumerate(steps, 1)]
    return iter(_planned(seed, wanted)) if steps else _endless(actions, seed, in_turn=in_turn)


def _planned(seed: int, wanted: Sequence[tuple[int, Action[W]]]) -> Iterator[tuple[int, Action[W], Random]]:
    for number, action in wanted:
        chance = Random(f"{seed}/{number}")
        chance.choices((action,))  # as if it had been chosen
        yield number, action, chance


def _endless(actions: Sequence[Action[W]], seed: int, *, in_turn: bool) -> Iterator[tuple[int, Action[W], Random]]:
    for number in count(1):
        chance = Random(f"{seed}/{number}")  # its own for each: one that draws more or less changes no other
        action = chance.choices(actions, [action.weight for action in actions])[0]
        if in_turn:
            turn, place = divmod(number - 1, len(actions))
            action = Random(f"{seed}/turn {turn}").sample(actions, len(actions))[place]
        yield number, action, chance


def now() -> float:
    """Seconds, of the clock by which everything here waits."""
    return asyncio.get_running_loop().time()


async def torture(
    world: World,
    scenario: Scenario[W],
    actions: Sequence[Action[W]],
    *,
    seed: int,
    seconds: float,
    say: Say,
    steps: Sequence[Step] = (),
    least: int = 0,
) -> Report:
    """``world`` is what ``scenario`` is about. With ``steps``, these and no others, however long that takes; else for
    ``seconds``, and until ``least`` actions were done."""
    run = _Run(world, scenario, seed, say)
    if steps:
        planned = plan(scenario.actions, seed, steps)
        say(f"seed {seed}, {len(steps)} steps: {', '.join(step.name for step in steps)}")
    else:
        planned = plan(actions, seed, in_turn=scenario.in_turn)
        say(f"seed {seed}, {seconds:.0f} s of {len(actions)} actions: {', '.join(action.name for action in actions)}")
    await world.begin()
    run.tell("begun")
    await run.look(scenario.always)
    end = now() + (math.inf if steps else seconds)
    while (now() < end or run.report.done.total() < least) and (following := next(planned, None)) is not None:
        number, action, chance = following
        await run.act(number, action, chance)
        until = min(end, now() + chance.uniform(0, scenario.pause))
        await run.look(scenario.always)
        await run.settle(f"after {number} {action.name}", scenario.after)
        while (left := until - now()) > 0:
            await asyncio.sleep(min(left, scenario.turn))
            await run.look(scenario.always)
    run.tell("chaos is over")
    await world.calm()
    await run.settle("after the chaos", scenario.rest)
    run.tell("at rest")
    await world.clear()
    await run.settle("after the deletion", scenario.end, watched=False)
    run.tell("gone")
    report = run.report
    done = ", ".join(f"{name} {times}" for name, times in sorted(report.done.items()))
    say(
        f"{report.done.total()} actions ({done}), looked {report.looks} times, {len(report.violations)} violations, seed {seed}"
    )
    if report.again:
        say(f"what they came after, again: --seed {seed} --steps {','.join(report.again)}")
    return report


class _Run(Generic[W]):
    def __init__(self, world: World, scenario: Scenario[W], seed: int, say: Say) -> None:
        self._world: W = world  # type: ignore[assignment]
        self._scenario = scenario
        self._say = say
        self._began = now()
        self._step = ""
        self.report = Report(seed)

    def tell(self, text: str) -> None:
        self._say(f"{now() - self._began:7.1f} s  {text}")

    async def act(self, number: int, action: Action[W], chance: Random) -> None:
        self.report.done[action.name] += 1
        self._step = f"{number}:{action.name}"
        try:
            said = await action.run(self._world, chance)
        except Refused as error:
            said = f"could not be done: {error}"
        except Broken as error:
            self.violated(f"{action.name}: {error}")
            said = "went wrong"
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
        if not invariants:
            return
        deadline = now() + self._scenario.patience
        while found := [(invariant.name, what) for invariant in invariants for what in await self._seen(invariant)]:
            if watched:
                await self.look(self._scenario.always)
            if now() > deadline:
                for name, what in found:
                    self.violated(f"{name}, {self._scenario.patience:.0f} s {when}: {what}")
                return
            await asyncio.sleep(self._scenario.turn)
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
            if self._step and self._step not in self.report.again:
                self.report.again.append(self._step)
