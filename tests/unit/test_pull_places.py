"""Whose pull is next."""

from __future__ import annotations

import asyncio

from virtual import virtual
from zos.drivers.pullplaces import PullPlaces


class Pulls:
    """Each takes so many seconds; ``began`` tells when each had its turn."""

    def __init__(self) -> None:
        self.places = PullPlaces(places=2, most=4, long=60.0)
        self.began: dict[str, float] = {}
        self.start = asyncio.get_running_loop().time()

    async def pull(self, name: str, seconds: float) -> None:
        async with self.places.one():
            self.began[name] = round(asyncio.get_running_loop().time() - self.start)
            await asyncio.sleep(seconds)


@virtual
async def test_few_at_once_in_the_order_in_which_they_came() -> None:
    pulls = Pulls()
    await asyncio.gather(*(pulls.pull(name, 10) for name in "abcde"))
    assert pulls.began == {"a": 0, "b": 0, "c": 10, "d": 10, "e": 20}


@virtual
async def test_one_that_takes_long_gives_its_place_to_the_next_and_goes_on() -> None:
    pulls = Pulls()
    slow = [asyncio.create_task(pulls.pull(name, 1000)) for name in ("slow", "slower")]
    await asyncio.gather(*(pulls.pull(name, 10) for name in "abc"))
    assert pulls.began == {"slow": 0, "slower": 0, "a": 60, "b": 60, "c": 70}
    assert not any(task.done() for task in slow)
    await asyncio.gather(*slow)
    await asyncio.gather(*(pulls.pull(name, 10) for name in "xyz"))
    assert [pulls.began[name] for name in "xyz"] == [1000, 1000, 1010], "each place was left once"


@virtual
async def test_all_of_them_are_bounded() -> None:
    pulls = Pulls()
    slow = [asyncio.create_task(pulls.pull(str(number), 200)) for number in range(4)]
    await asyncio.sleep(130)
    assert len(pulls.began) == 4
    await pulls.pull("next", 1)
    assert pulls.began["next"] == 200
    slow[3].cancel()
    await asyncio.gather(*slow, return_exceptions=True)
