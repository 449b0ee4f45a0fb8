"""The queue: each key once, one worker for each, backoff, and nobody woken for nothing."""

from __future__ import annotations

import asyncio

from virtual import busy, clock, virtual
from zos.api.meta import Key
from zos.kube.queue import Queue


def key(name: str) -> Key:
    return Key("ZMount", "n", name)


def queue() -> Queue:
    return Queue(clock, lambda: 1.0)


@virtual
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
    assert made.idle == 99
    for name in "bcd":
        made.add(key(name))
        made.add(key(name))
    await asyncio.sleep(0.01)
    assert sorted(got) == ["a", "b", "c", "d"]
    made.add(key("late"), 0.05)
    made.add(key("later"), 0.1)
    made.add(key("later"), 0.08)
    began = clock()
    while len(got) < 6:
        await asyncio.sleep(0.001)
    assert got[4:] == ["late", "later"]
    assert 0.08 <= clock() - began < 0.11
    for task in workers:
        task.cancel()
    await asyncio.gather(*workers, return_exceptions=True)


@virtual
async def test_a_worker_that_goes_as_it_is_woken_leaves_the_key_to_another() -> None:
    made = queue()
    first, second = asyncio.create_task(made.get()), asyncio.create_task(made.get())
    await asyncio.sleep(0)
    made.add(key("a"))
    first.cancel()
    assert await asyncio.wait_for(second, 1) == key("a")


@virtual
async def test_what_is_added_while_it_is_worked_on_comes_again_and_failures_wait_longer() -> None:
    made = queue()
    made.add(key("a"))
    assert await made.get() == key("a")
    made.add(key("a"))
    assert len(made) == 0
    made.done(key("a"))
    assert await asyncio.wait_for(made.get(), 1) == key("a")
    assert made.failed(key("a")) == 0.2
    began = clock()
    assert await asyncio.wait_for(made.get(), 1) == key("a")
    assert clock() - began > 0.19
    assert made.failed(key("a")) == 0.4
    assert made.waiting == 1


@virtual
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


@virtual
async def test_what_rests_is_heard_at_once_then_seldom_and_at_the_end() -> None:
    made = Queue(clock, lambda: 1.0, lambda found: 0.1 if found.name == "sum" else 0.0)
    made.add(key("sum"))
    assert await asyncio.wait_for(made.get(), 0.05) == key("sum")
    began = clock()
    made.done(key("sum"))
    for _ in range(5):
        made.add(key("sum"))
        made.add(key("other"))
        assert await made.get() == key("other")
        made.done(key("other"))
    assert await asyncio.wait_for(made.get(), 1) == key("sum")
    assert clock() - began > 0.09
    made.add(key("sum"))  # changed while it is worked on
    made.done(key("sum"))
    assert await asyncio.wait_for(made.get(), 1) == key("sum")
    made.done(key("sum"))
    await asyncio.sleep(0.12)
    made.add(key("sum"))
    assert await asyncio.wait_for(made.get(), 0.05) == key("sum")


@virtual
async def test_who_asks_is_told_when_nothing_is_left() -> None:
    told: list[int] = []
    made = Queue(clock, lambda: 1.0, idle=lambda: told.append(1))
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


@virtual
async def test_who_works_off_many_keys_lets_others_have_their_turn() -> None:
    made = queue()
    done = 0

    async def worker() -> None:
        nonlocal done
        while True:
            found = await made.get()
            busy(0.002)
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
    assert made.idle == 20
    for task in workers:
        task.cancel()
    await asyncio.gather(*workers, return_exceptions=True)


@virtual
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


@virtual
async def test_what_fails_on_and_on_is_tried_once_a_minute_with_some_jitter() -> None:
    made, pauses = Queue(clock, lambda: 1.1), []
    for _ in range(40):
        made.add(key("a"))
        pauses.append(made.failed(await made.get()))
    assert pauses[0] == 0.2 * 1.1
    assert pauses[-1] == 60 * 1.1


@virtual
async def test_news_of_what_just_failed_is_not_kept_waiting() -> None:
    made = queue()
    for _ in range(10):
        made.add(key("a"))
        made.failed(await made.get())
    made.add(key("a"))
    await made.get()
    made.add(key("a"))  # while it is worked on
    made.failed(key("a"))
    began = clock()
    assert await made.get() == key("a")
    assert 0.1 < clock() - began < 0.25, "soon, but not at once: what it heard of may be its own doing"
    made.done(key("a"))
    assert (len(made), made.waiting) == (0, 0), "once is enough"


@virtual
async def test_of_several_wishes_the_earliest_counts_and_each_key_comes_once() -> None:
    made, got = queue(), []
    began = clock()

    async def worker() -> None:
        while True:
            found = await made.get()
            got.append((found.name, round(clock() - began, 3)))
            made.done(found)

    task = asyncio.create_task(worker())
    made.add(key("a"), 5)
    made.add(key("a"), 3)
    made.add(key("a"), 4)
    made.add(key("b"), 2)
    made.add(key("c"), 6)
    made.add(key("c"))  # now, and then not once more
    made.add(key("d"), 1)
    await asyncio.sleep(10)
    assert got == [("c", 0), ("d", 1), ("b", 2), ("a", 3)]
    made.add(key("e"), 1)
    made.add(key("e"))
    made.add(key("e"), 1)
    assert made.waiting == 0, "it comes at once"
    task.cancel()


@virtual
async def test_what_is_due_while_it_is_worked_on_comes_when_that_is_done() -> None:
    made = queue()
    made.add(key("a"))
    await made.get()
    made.add(key("a"), 1)
    await asyncio.sleep(2)
    assert len(made) == 0, "one works on it"
    made.done(key("a"))
    assert len(made) == 1


@virtual
async def test_what_rests_comes_when_its_rest_is_over_even_if_it_failed_meanwhile() -> None:
    made = Queue(clock, lambda: 1.0, lambda _: 1.0)
    made.add(key("sum"))
    made.done(await made.get())
    made.add(key("sum"))
    assert (len(made), made.waiting) == (0, 1)
    began = clock()
    await made.get()
    assert clock() - began == 1.0
    made.done(key("sum"))
    await asyncio.sleep(1)
    made.add(key("sum"))
    assert len(made) == 1, "it has rested"
