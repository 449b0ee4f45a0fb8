"""The engine of `hack/torture`: the same seed does the same, and a violation is told once."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

import pytest

from torturelib.chaos import Action, Invariant, Refused, Report, Scenario, Unseen, choose, torture
from virtual import virtual


@dataclass
class Counter:
    """A world with one number."""

    number: int = 0
    seen: list[int] = field(default_factory=list)
    blind: bool = False
    cleared: bool = False

    async def begin(self) -> None:
        self.number = 1

    async def calm(self) -> None:
        self.blind = False

    async def clear(self) -> None:
        self.cleared = True


async def add(world: Counter, chance: Random) -> str:
    world.number += chance.randint(1, 9)
    world.seen.append(world.number)
    return f"now {world.number}"


async def refuse(world: Counter, chance: Random) -> str:
    raise Refused("not today")


async def blind(world: Counter, chance: Random) -> str:
    world.blind = True
    return "nothing is seen"


async def below(world: Counter) -> list[str]:
    if world.blind:
        raise Unseen("dark")
    return ["it is twenty or more"] if world.number >= 20 else []


async def cleared(world: Counter) -> list[str]:
    return [] if world.cleared else ["not cleared"]


def scenario(limit: Invariant[Counter]) -> Scenario[Counter]:
    return Scenario(ACTIONS, always=(limit,), rest=(), end=(Invariant("cleared", cleared),), pause=0.001, patience=1)


ACTIONS = (Action("add", add), Action("refuse", refuse), Action("blind", blind, slow=True), Action("slow", add, slow=True))
BELOW = Invariant("below twenty", below)


async def tortured(seed: int, *asked: str) -> tuple[Counter, Report, list[str]]:
    world, said = Counter(), list[str]()
    chosen = choose(ACTIONS, asked, short=True)
    return world, await torture(world, scenario(BELOW), chosen, seed=seed, seconds=0.05, say=said.append), said


@virtual
async def test_the_same_seed_does_the_same() -> None:
    one, other = (await tortured(7, "add"))[0].seen, (await tortured(7, "add"))[0].seen
    both = min(len(one), len(other))
    assert both > 2
    assert one[:both] == other[:both]
    assert (await tortured(8, "add"))[0].seen[:both] != one[:both]


@virtual
async def test_a_violation_is_told_once_and_what_can_not_be_seen_is_none() -> None:
    world, report, said = await tortured(1, "add")
    assert world.number >= 20
    assert report.violations == ["below twenty: it is twenty or more"]
    assert sum("VIOLATED" in line for line in said) == 1
    assert said[0].startswith("seed 1, ")
    _, report, said = await tortured(1, "blind")
    assert report.violations == []
    _, report, said = await tortured(1, "refuse")
    assert any("could not be done: not today" in line for line in said)


def test_what_takes_long_is_done_in_short_runs_only_when_asked_for() -> None:
    assert [action.name for action in choose(ACTIONS, (), short=True)] == ["add", "refuse"]
    assert [action.name for action in choose(ACTIONS, (), short=False)] == ["add", "refuse", "blind", "slow"]
    assert [action.name for action in choose(ACTIONS, ("blind",), short=True)] == ["blind"]
    assert len(choose(ACTIONS, ("all",), short=True)) == 4
    with pytest.raises(KeyError):
        choose(ACTIONS, ("typo",), short=True)
