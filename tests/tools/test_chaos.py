"""The engine of `hack/torture`: the same seed does the same, and a violation is told once."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from random import Random

import pytest

from torturelib.chaos import (
    Action,
    Broken,
    Invariant,
    Refused,
    Report,
    Scenario,
    Step,
    Unseen,
    choose,
    plan,
    steps_of,
    torture,
)  # fmt: skip
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


async def spoil(world: Counter, chance: Random) -> str:
    raise Broken("it is in pieces")


async def even(world: Counter) -> list[str]:
    return [f"{world.number} is odd"] if world.number % 2 else []


def names(*planned: tuple[int, Action[Counter], Random]) -> list[tuple[int, str, float]]:
    return [(number, action.name, chance.random()) for number, action, chance in planned]


def test_a_plan_comes_from_its_seed() -> None:
    one, same, other = (names(*islice(plan(ACTIONS, seed), 40)) for seed in (7, 7, 8))
    assert one == same != other
    assert {name for _, name, _ in one} == {action.name for action in ACTIONS}


def test_in_turn_each_comes_once_before_any_comes_again() -> None:
    planned = [name for _, name, _ in names(*islice(plan(ACTIONS, 7, in_turn=True), 12))]
    turns = [planned[at : at + 4] for at in (0, 4, 8)]
    assert all(sorted(turn) == sorted(action.name for action in ACTIONS) for turn in turns)
    assert len({tuple(turn) for turn in turns}) > 1


@pytest.mark.parametrize("in_turn", [False, True])
def test_a_step_that_was_told_has_the_same_chance_when_it_is_wanted_again(in_turn: bool) -> None:
    *_, last = names(*islice(plan(ACTIONS, 7, in_turn=in_turn), 9))
    assert names(*plan(ACTIONS, 7, steps_of(f"{last[0]}:{last[1]}"))) == [last]


def test_steps_are_written_by_name_and_number() -> None:
    assert steps_of("add,12:slow,") == [Step("add"), Step("slow", 12)]
    assert [number for number, _, _ in plan(ACTIONS, 7, steps_of("add,12:slow,add"))] == [1, 12, 3]
    for wrong in ("x:add", "12:", ":add"):
        with pytest.raises(ValueError, match="NUMBER:NAME"):
            steps_of(wrong)
    with pytest.raises(KeyError):
        plan(ACTIONS, 7, steps_of("typo"))


@virtual
async def test_wanted_steps_are_done_once_and_what_they_break_can_be_done_again() -> None:
    world, said = Counter(), list[str]()
    actions = (*ACTIONS, Action("spoil", spoil))
    limit = Invariant("even", even)
    wanted = Scenario(actions, always=(), after=(limit,), rest=(), end=(), pause=0.001, patience=1)
    steps = steps_of("add,spoil,blind,spoil")
    report = await torture(world, wanted, (), seed=4, seconds=0, say=said.append, steps=steps)
    assert report.done == {"add": 1, "spoil": 2, "blind": 1}
    odd = [f"even, 1 s after 1 add: {world.number} is odd"] if world.number % 2 else []
    assert [one for one in report.violations if "after 1" in one] == odd
    assert "spoil: it is in pieces" in report.violations
    assert "2:spoil" in report.again
    assert said[-1] == f"what they came after, again: --seed 4 --steps {','.join(report.again)}"
