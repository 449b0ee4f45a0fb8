"""Many places: few at once, and again only where something changed."""

from __future__ import annotations

import asyncio

import pytest

from zos.drivers.looks import AT_ONCE, FEW, Looks, Turns

PLACES = [f"place-{number}" for number in range(50)]


class Ground:
    def __init__(self) -> None:
        self.asked: list[str] = []
        self.now = self.most = 0
        self.failing: set[str] = set()

    async def look(self, place: str) -> int:
        self.asked.append(place)
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0)
        self.now -= 1
        if place in self.failing:
            raise OSError(f"{place} is away")
        return self.asked.count(place)


async def test_few_at_once_and_each_once() -> None:
    ground = Ground()
    looks = Looks(ground.look)
    looks.keep()
    assert await looks.see(PLACES) == dict.fromkeys(PLACES, 1)
    assert ground.most == AT_ONCE
    assert await looks.see(PLACES) == dict.fromkeys(PLACES, 1)
    assert sorted(ground.asked) == sorted(PLACES)


async def test_what_is_stirred_is_looked_at_again() -> None:
    ground = Ground()
    looks = Looks(ground.look)
    looks.keep()
    await looks.see(PLACES)
    looks.stir(PLACES[7])
    assert [place for place, times in (await looks.see(PLACES)).items() if times == 2] == [PLACES[7]]
    looks.stir(None)
    assert sum((await looks.see(PLACES)).values()) == 2 * len(PLACES) + 1


async def test_what_is_doubted_comes_round() -> None:
    ground = Ground()
    looks = Looks(ground.look)
    looks.keep()
    many = [f"place-{number:03}" for number in range(400)]
    for number in range(11):
        await looks.see(many)
        assert len(ground.asked) == 400 + number * 40
        looks.doubt()
    assert {ground.asked.count(place) for place in many} == {2}
    few = many[:FEW]
    await looks.see(few)
    ground.asked.clear()
    looks.doubt()
    await looks.see(few)
    assert sorted(ground.asked) == few


async def test_nothing_is_kept_where_nobody_tells() -> None:
    looks = Looks(Ground().look)
    await looks.see(PLACES)
    assert set((await looks.see(PLACES)).values()) == {2}


@pytest.mark.parametrize("place", ["here", None])
async def test_what_changes_during_a_look_is_looked_at_again(place: str | None) -> None:
    async def look(_: str) -> int:
        nonlocal times
        times += 1
        if times == 1:
            looks.stir(place)
        return times

    times = 0
    looks = Looks(look)
    looks.keep()
    assert [await looks.see(["here"]) for _ in range(3)] == [{"here": 1}, {"here": 2}, {"here": 2}]


async def test_a_look_that_fails_says_nothing_about_what_is_there() -> None:
    ground = Ground()
    looks = Looks(ground.look)
    looks.keep()
    ground.failing = {PLACES[3]}
    with pytest.raises(OSError, match="place-3 is away"):
        await looks.see(PLACES)
    ground.failing = set()
    assert await looks.see(PLACES) == {place: 2 if place == PLACES[3] else 1 for place in PLACES}


async def test_what_is_gone_is_forgotten() -> None:
    looks = Looks(Ground().look)
    looks.keep()
    await looks.see(PLACES)
    assert await looks.see(PLACES[:1]) == {PLACES[0]: 1}
    assert (await looks.see(PLACES))[PLACES[1]] == 2


@pytest.mark.parametrize(("many", "each"), [(0, 0), (1, 1), (FEW, FEW), (FEW + 1, FEW), (1000, 100)])
def test_turns_come_round_and_name_nobody_twice(many: int, each: int) -> None:
    places, turned, turns = [f"place-{number:04}" for number in range(many)], set[str](), Turns()
    for _ in range(10):
        turn = turns.take(reversed(places))
        assert len(turn) == len(set(turn)) == each
        turned |= set(turn)
    assert turned == set(places)
