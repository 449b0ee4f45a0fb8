"""How a node carries operations out, and looks at what it has: nobody waits for what hangs, nothing spins, nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pytest

from virtual import clock, virtual
from zos.agent.execution import Execution, Operations
from zos.agent.observation import Observation
from zos.drivers import Driver, DriverError
from zos.plan.diff import Observed, Op
from zos.plan.items import File, Image, Item, Netns


class Quick:
    """A driver that does what the test says: ``takes`` seconds by key (None: for ever), ``errors`` by key."""

    ITEMS: ClassVar[tuple[type[Item], ...]] = (File,)
    SLOW: ClassVar[bool] = False

    def __init__(self) -> None:
        self.takes: dict[str, float | None] = {}
        self.errors: dict[str, Exception] = {}
        self.there: dict[str, Observed] = {}
        self.began: list[str] = []
        self.ended: list[str] = []
        self.looks = 0
        self.looking: float | None = 0.0
        self.blind: Exception | None = None
        self.asked: list[list[str]] = []
        self.distrusted = 0
        self.stubborn = False

    async def apply(self, op: Op) -> None:
        self.began.append(op.key)
        await self._take(self.takes.get(op.key, 0.0))
        if op.key in self.errors:
            raise self.errors[op.key]
        self.ended.append(op.key)

    async def observe(self, wanted: Sequence[Item]) -> Mapping[str, Observed]:
        self.looks += 1
        self.asked.append([item.key for item in wanted])
        found = dict(self.there)
        await self._take(self.looking)
        if self.blind is not None:
            raise self.blind
        return found

    async def _take(self, seconds: float | None) -> None:
        end = clock() + (seconds if seconds is not None else 1e9)
        while (left := end - clock()) > 0:
            try:
                await asyncio.sleep(left)
            except asyncio.CancelledError:
                if not self.stubborn:
                    raise

    def distrust(self) -> None:
        self.distrusted += 1

    def watch(self, dirty: Any) -> None: ...

    async def close(self) -> None: ...


class Slow(Quick):
    ITEMS = (Image,)
    SLOW = True
    LAST_RETRY = 20.0

    def __init__(self) -> None:
        super().__init__()
        self.said = ""

    def progress(self, key: str) -> str:
        return self.said


class Hand:
    """Operations of these two drivers, and what it told."""

    def __init__(self) -> None:
        self.quick, self.slow = Quick(), Slow()
        self.told: list[tuple[Driver, str, bool]] = []
        self.time = 0.0
        self.wishes: dict[str, Item] = {}
        self.kept: set[str] = set()
        self.operations = Operations(
            (self.quick, self.slow), lambda driver, op, ok: self.told.append((driver, op.key, ok)), lambda: self.time
        )

    async def do(self, *items: Item, unknown: frozenset[Driver] = frozenset()) -> Execution:
        ops = [Op("create", item.key, item) for item in items]
        wanted = self.wishes or {item.key: item for item in items}
        return await self.operations.execute(ops, wanted, {}, unknown, lambda owner: owner in self.kept)

    def error(self, item: Item) -> str:
        failure = self.operations.failures.get(item.key)
        return failure.error if failure is not None else ""


def file(name: object, *needs: str) -> File:
    return File(path=str(name), content="", owner="w", needs=needs)


IMAGE = Image(ref="oci://r/i:1", owner="w")
A, B = file("a"), file("b")


@virtual
async def test_who_takes_longer_than_two_seconds_goes_on_beside_the_others() -> None:
    hand = Hand()
    hand.quick.takes = {A.key: 1.9, B.key: 2.1}
    began = clock()
    found = await hand.do(A, B, file("c", B.key))
    assert clock() - began == pytest.approx(2.0)
    assert [op.key for op in found.done] == [A.key]
    assert found.blocked == {"file/c": B.key}
    assert found.touched == {hand.quick}
    assert (set(hand.operations.running), hand.operations.progress(B.key)) == ({B.key}, "in progress")
    assert (await hand.do(B)).done == ()  # it is not begun twice
    await asyncio.sleep(0.2)
    assert hand.told == [(hand.quick, B.key, True)]
    assert (hand.operations.running, hand.quick.began.count(B.key)) == ({}, 1)


@virtual
async def test_sixteen_at_once_and_who_hangs_holds_a_place() -> None:
    hand = Hand()
    many = [file(number) for number in range(40)]
    hand.quick.takes = {one.key: 0.5 for one in many}
    began = clock()
    assert len((await hand.do(*many)).done) == 40
    assert clock() - began == pytest.approx(1.5)
    hung = [file(f"hung{number}") for number in range(16)]
    hand.quick.takes = {one.key: None for one in hung}
    await hand.do(*hung)
    assert len(hand.operations.running) == 16
    began = clock()
    hand.wishes = {one.key: one for one in (*hung, A)}
    found = await hand.do(A)
    assert clock() - began == pytest.approx(2.0)
    assert found.blocked[A.key] in hand.operations.running
    assert A.key not in hand.quick.began
    assert (await hand.do(IMAGE)).blocked == {}  # of another driver
    await asyncio.sleep(1)
    assert hand.slow.ended == [IMAGE.key]
    hand.wishes = {one.key: one for one in (*hung[1:], A)}
    await hand.do()  # one is not wanted any more, so it is called off
    await asyncio.sleep(0)
    await hand.do(A)
    assert A.key in hand.quick.ended
    await hand.operations.close()


@virtual
async def test_failures_are_tried_again_after_a_time_that_grows() -> None:
    hand = Hand()
    hand.quick.errors[A.key] = DriverError("no room")
    pauses = []
    for number in range(11):
        found = await hand.do(A)
        assert [op.key for op in found.failed] == [A.key]
        assert hand.operations.failures[A.key].tries == number + 1
        at = hand.operations.retry_at()
        assert at is not None
        pauses.append(at - hand.time)
        hand.time = at - 0.01
        assert (await hand.do(A)).failed == ()
        hand.time = at
    for pause, mean in zip(pauses, (1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300), strict=True):
        assert 0.8 * mean <= pause <= 1.2 * mean
    hand.quick.errors = {A.key: KeyError("bug")}
    await hand.do(A)
    assert hand.error(A) == "KeyError: 'bug'"
    hand.quick.errors = {A.key: DriverError()}
    hand.time += 400
    await hand.do(A)
    assert hand.error(A) == "DriverError"
    await hand.do(B)  # nobody asks for it any more
    assert (hand.error(A), hand.operations.retry_at()) == ("", None)
    found = await hand.do(Netns(name="x"))
    assert hand.error(Netns(name="x")) == "this agent has no driver for netns"


@virtual
async def test_a_slow_operation_has_a_driver_that_says_how_long_a_pause_may_be() -> None:
    hand = Hand()
    hand.slow.errors[IMAGE.key] = DriverError("away")
    pauses = []
    for _ in range(8):
        await hand.do(IMAGE)
        await asyncio.sleep(0.1)
        at = hand.operations.retry_at()
        assert at is not None
        pauses.append(at - hand.time)
        hand.time = at
    assert 16 <= pauses[-1] <= 24
    assert {ok for *_, ok in hand.told} == {False}


@virtual
async def test_what_a_slow_operation_says_of_itself() -> None:
    hand = Hand()
    hand.slow.takes[IMAGE.key] = 60
    assert (await hand.do(IMAGE)).done == ()
    assert hand.operations.progress(IMAGE.key) == "in progress"
    hand.slow.said = "34 %"
    assert hand.operations.progress(IMAGE.key) == "34 %"
    await hand.do(IMAGE)
    await asyncio.sleep(61)
    assert (hand.slow.ended, hand.told) == ([IMAGE.key], [(hand.slow, IMAGE.key, True)])
    there = Observed(IMAGE.key, IMAGE, "w")
    await hand.operations.execute([Op("remove", IMAGE.key, None, there)], {}, {IMAGE.key: there}, frozenset(), lambda _: False)
    hand.slow.said = ""
    assert hand.operations.progress(IMAGE.key) == "removing"
    await hand.operations.close()


@virtual
async def test_a_slow_operation_that_does_not_stick_is_one_that_failed() -> None:
    """Once may be chance."""

    hand = Hand()
    for _ in range(2):
        await hand.do(IMAGE)
        await asyncio.sleep(0.1)
        assert hand.error(IMAGE) == ""
    assert len(hand.slow.began) == 2
    await hand.do(IMAGE)
    assert hand.error(IMAGE) == "it was made, but is not there as it should be"
    assert len(hand.slow.began) == 2
    at = hand.operations.retry_at()
    assert at is not None
    hand.time = at
    await hand.do(IMAGE)
    await asyncio.sleep(0.1)
    assert len(hand.slow.began) <= 3
    await hand.do()  # now it is there
    assert hand.operations.retry_at() is None
    await hand.do(IMAGE)
    await asyncio.sleep(0.1)
    assert hand.error(IMAGE) == "", "and nothing of that is remembered"


@virtual
async def test_what_nobody_wants_any_more_is_called_off_but_for_whom_it_is_kept() -> None:
    hand = Hand()
    hand.slow.takes[IMAGE.key] = 60
    await hand.do(IMAGE)
    hand.kept = {"w"}
    await hand.do()
    await asyncio.sleep(1)
    assert set(hand.operations.running) == {IMAGE.key}
    hand.kept.clear()
    await hand.do()
    await asyncio.sleep(1)
    assert (hand.operations.running, hand.told) == ({}, [(hand.slow, IMAGE.key, False)])
    assert hand.error(IMAGE) == ""


@virtual
async def test_nothing_is_done_through_a_driver_that_can_not_look() -> None:
    hand = Hand()
    found = await hand.do(A, file("b", A.key), unknown=frozenset({hand.quick}))
    assert (found.done, hand.quick.began) == ((), [])
    found = await hand.do(A, IMAGE, unknown=frozenset({hand.slow}))
    await asyncio.sleep(0.1)
    assert (hand.quick.ended, hand.slow.began) == ([A.key], [])


@virtual
async def test_at_the_end_everything_is_called_off_and_what_hangs_is_left_behind() -> None:
    hand = Hand()
    hand.slow.takes[IMAGE.key] = 60
    await hand.do(IMAGE)
    began = clock()
    await hand.operations.close()
    assert clock() == began
    hand = Hand()
    hand.slow.takes[IMAGE.key], hand.slow.stubborn = 60, True
    await hand.do(IMAGE)
    began = clock()
    await hand.operations.close()
    assert clock() - began == pytest.approx(10)
    await asyncio.sleep(60)


# -- looking


class Eye:
    def __init__(self) -> None:
        self.quick, self.slow = Quick(), Slow()
        self.answers = 0
        self.observation = Observation((self.quick, self.slow), clock, 15.0, self._answered)

    def _answered(self) -> None:
        self.answers += 1

    async def look(self, *wanted: Item) -> None:
        await self.observation.refresh(wanted)


@virtual
async def test_who_has_looked_is_asked_again_only_when_something_may_have_changed() -> None:
    eye = Eye()
    assert eye.observation.blind == {eye.quick: "not looked at yet", eye.slow: "not looked at yet"}
    assert not eye.observation.complete
    await eye.look(A, IMAGE)
    await eye.look(A, IMAGE)
    assert (eye.quick.looks, eye.slow.looks, eye.quick.asked) == (1, 1, [[A.key]])
    assert eye.observation.complete
    assert eye.observation.blind == {}
    eye.quick.there[A.key] = Observed(A.key, A, "w")
    eye.observation.mark(eye.quick)
    await eye.look(A)
    assert (eye.quick.looks, eye.slow.looks) == (2, 1)
    assert set(eye.observation.seen()) == {A.key}
    eye.observation.mark_all()
    await eye.look(A, IMAGE)
    assert (eye.quick.looks, eye.slow.looks, eye.quick.distrusted, eye.slow.distrusted) == (3, 2, 1, 1)


@virtual
async def test_other_wishes_are_a_cause_to_look_where_they_are_of_what_is_there_or_known_by_wishes_only() -> None:
    eye = Eye()
    eye.quick.there[A.key] = Observed(A.key, A, "w")
    await eye.look(A)
    for wanted, quick, slow in (
        ([A], 1, 1),
        ([A, B], 1, 1),  # what is not there is not there, whatever is wanted of it
        ([File(path="a", content="other", owner="w")], 2, 1),
        ([IMAGE], 2, 2),
        ([IMAGE], 2, 2),
    ):
        eye.observation.compare(wanted)
        await eye.look(*wanted)
        assert (eye.quick.looks, eye.slow.looks) == (quick, slow), wanted


@virtual
async def test_a_change_while_it_looks_is_looked_at_as_well() -> None:
    eye = Eye()
    eye.quick.looking = 1.0
    look = asyncio.create_task(eye.look())
    await asyncio.sleep(0.5)
    eye.quick.there[A.key] = Observed(A.key, A, "w")
    eye.observation.mark(eye.quick)
    await look
    assert eye.observation.seen() == {}
    assert eye.observation.stale
    await eye.look()
    assert set(eye.observation.seen()) == {A.key}
    assert not eye.observation.stale


@virtual
async def test_who_does_not_answer_is_waited_for_once_and_believed_when_he_does() -> None:
    eye = Eye()
    eye.quick.there[A.key] = Observed(A.key, A, "w")
    await eye.look()
    eye.quick.there.clear()
    eye.quick.looking = 100.0
    eye.observation.mark(eye.quick)
    began = clock()
    await eye.look()
    assert clock() - began == pytest.approx(15)
    assert eye.observation.errors == {eye.quick: "the quick driver has not answered for 15 s, and is waited for"}
    assert set(eye.observation.seen()) == {A.key}  # what it saw last
    assert not eye.observation.complete
    assert eye.observation.retry_at() is None
    eye.observation.mark(eye.quick)
    await eye.look()
    assert (clock() - began, eye.quick.looks) == (pytest.approx(15), 2)
    await asyncio.sleep(90)
    assert eye.answers == 1
    assert (eye.observation.errors, eye.observation.seen()) == ({}, {})
    eye.quick.looking = 0.0
    await eye.look()  # it was stirred meanwhile
    assert eye.quick.looks == 3


@virtual
async def test_who_can_not_look_is_asked_again_after_a_time_that_grows(caplog: pytest.LogCaptureFixture) -> None:
    eye = Eye()
    eye.quick.blind = DriverError("away")
    pauses = []
    for _ in range(8):
        looks = eye.quick.looks
        await eye.look()
        assert eye.quick.looks == looks + 1
        at = eye.observation.retry_at()
        assert at is not None
        pauses.append(at - clock())
        await asyncio.sleep(pauses[-1] - 0.01)
        await eye.look()
        assert eye.quick.looks == looks + 1
        await asyncio.sleep(0.02)
    assert [round(pause, 3) for pause in pauses] == [1, 2, 4, 8, 16, 30, 30, 30]
    assert eye.observation.errors == {eye.quick: "away"}
    assert len(caplog.records) == 1  # said once
    eye.quick.blind = OSError(5, "I/O")
    await eye.look()
    assert eye.observation.errors == {eye.quick: "OSError: [Errno 5] I/O"}
    assert len(caplog.records) == 2
    assert not caplog.records[-1].exc_info
    eye.quick.blind = KeyError("bug")
    eye.observation.mark(eye.quick)
    await eye.look()
    assert caplog.records[-1].exc_info
    eye.quick.blind = None
    eye.observation.mark(eye.quick)
    await eye.look()
    assert (eye.observation.errors, eye.observation.retry_at()) == ({}, None)
    eye.quick.blind = DriverError("away")
    eye.observation.mark(eye.quick)
    await eye.look()
    assert eye.observation.retry_at() == clock() + 1


@virtual
async def test_a_look_that_hangs_holds_up_no_end() -> None:
    eye = Eye()
    eye.quick.looking = 60.0
    await eye.look()
    began = clock()
    await eye.observation.close(5.0)
    assert clock() == began
    eye = Eye()
    eye.quick.looking, eye.quick.stubborn = 60.0, True
    await eye.look()
    began = clock()
    await eye.observation.close(5.0)
    assert clock() - began == pytest.approx(5)
    await asyncio.sleep(60)
