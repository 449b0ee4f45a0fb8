"""The queue: each key once, one worker for each, backoff, and nobody woken for nothing."""

from __future__ import annotations

import asyncio
import time

from zos.api.meta import Key
from zos.kube.queue import Queue


def key(name: str) -> Key:
    return Key("ZMount", "n", name)


def queue() -> Queue:
    return Queue(time.monotonic, lambda: 1.0)


async def test_a_key_wakes_one_worker_and_each_key_gets_one() -> None:
    made, got = queue(), []

    async def worker() -> None:
        while True:
            found = await made.get()
            got.append(found.name)
            made.done(found)

    workers = [asyncio.create_task(worker()) for _ in range(100)]
    await asyncio.sleep(0)
    made.add(key("a"))
    assert sum(idle.done() for idle in made._idle) == 0
    assert len(made._idle) == 99
    for name in "bcd":
        made.add(key(name))
        made.add(key(name))
    await asyncio.sleep(0.01)
    assert sorted(got) == ["a", "b", "c", "d"]
    made.add(key("late"), 0.05)
    made.add(key("later"), 0.1)
    made.add(key("later"), 0.08)
    began = time.monotonic()
    while len(got) < 6:
        await asyncio.sleep(0.001)
    assert got[4:] == ["late", "later"]
    assert 0.07 < time.monotonic() - began < 5
    for task in workers:
        task.cancel()
    await asyncio.gather(*workers, return_exceptions=True)


async def test_a_worker_that_goes_as_it_is_woken_leaves_the_key_to_another() -> None:
    made = queue()
    first, second = asyncio.create_task(made.get()), asyncio.create_task(made.get())
    await asyncio.sleep(0)
    made.add(key("a"))
    first.cancel()
    assert await asyncio.wait_for(second, 1) == key("a")


async def test_what_is_added_while_it_is_worked_on_comes_again_and_failures_wait_longer() -> None:
    made = queue()
    made.add(key("a"))
    assert await made.get() == key("a")
    made.add(key("a"))
    assert len(made) == 0
    made.done(key("a"))
    assert await asyncio.wait_for(made.get(), 1) == key("a")
    assert made.failed(key("a")) == 0.2
    began = time.monotonic()
    assert await asyncio.wait_for(made.get(), 1) == key("a")
    assert time.monotonic() - began > 0.19
    assert made.failed(key("a")) == 0.4
    assert made.waiting == 1


async def test_what_is_refused_for_good_is_tried_after_one_second_two_four_and_at_most_five_minutes() -> None:
    made, pauses = queue(), []
    for _ in range(12):
        made.add(key("a"))
        await made.get()
        pauses.append(made.failed(key("a"), refused=True))
    assert pauses[:4] == [1, 2, 4, 8]
    assert pauses[8:] == [256, 300, 300, 300]
    assert made.waiting == 1
    made.add(key("a"))  # somebody has done something about it
    assert await asyncio.wait_for(made.get(), 0.05) == key("a")


async def test_what_rests_is_heard_at_once_then_seldom_and_at_the_end() -> None:
    made = Queue(time.monotonic, lambda: 1.0, lambda found: 0.1 if found.name == "sum" else 0.0)
    made.add(key("sum"))
    assert await asyncio.wait_for(made.get(), 0.05) == key("sum")
    began = time.monotonic()
    made.done(key("sum"))
    for _ in range(5):
        made.add(key("sum"))
        made.add(key("other"))
        assert await made.get() == key("other")
        made.done(key("other"))
    assert await asyncio.wait_for(made.get(), 1) == key("sum")
    assert time.monotonic() - began > 0.09
    made.add(key("sum"))  # changed while it is worked on
    made.done(key("sum"))
    assert await asyncio.wait_for(made.get(), 1) == key("sum")
    made.done(key("sum"))
    await asyncio.sleep(0.12)
    made.add(key("sum"))
    assert await asyncio.wait_for(made.get(), 0.05) == key("sum")


async def test_who_asks_is_told_when_nothing_is_left() -> None:
    told: list[int] = []
    made = Queue(time.monotonic, lambda: 1.0, idle=lambda: told.append(1))
    for name in "ab":
        made.add(key(name))
    first, second = await made.get(), await made.get()
    made.done(first)
    waiting = asyncio.create_task(made.get())
    await asyncio.sleep(0)
    assert not told  # one is worked on still
    made.done(second)
    other = asyncio.create_task(made.get())
    await asyncio.sleep(0)
    assert told == [1]
    for task in (waiting, other):
        task.cancel()
    await asyncio.gather(waiting, other, return_exceptions=True)


async def test_who_works_off_many_keys_lets_others_have_their_turn() -> None:
    made = queue()
    done = 0

    async def worker() -> None:
        nonlocal done
        while True:
            found = await made.get()
            time.sleep(0.002)
            done += 1
            made.done(found)

    workers = [asyncio.create_task(worker()) for _ in range(20)]
    await asyncio.sleep(0)
    for number in range(500):
        made.add(key(str(number)))
    turns = 0
    while done < 500:
        await asyncio.sleep(0)
        turns += 1
    assert turns >= 10, "a second of work, in turns of a twentieth"
    await asyncio.sleep(0)
    assert len(made._idle) == 20
    for task in workers:
        task.cancel()
    await asyncio.gather(*workers, return_exceptions=True)


async def test_what_went_well_once_begins_from_the_shortest_pause_again() -> None:
    made = queue()
    for _ in range(3):
        made.add(key("a"))
        await made.get()
        made.failed(key("a"))
    made.add(key("a"))
    made.done(await made.get())
    made.add(key("a"))
    assert made.failed(await made.get()) == 0.2
