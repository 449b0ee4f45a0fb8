"""When a guest is started again: policies, backoff, crash loops, and what mending it does."""

from __future__ import annotations

import pytest

from zos.api.meta import Reason
from zos.api.zmachine import RunPolicy
from zos.kinds.zmachine.lifecycle import LOOP, SLOW, course
from zos.plan.facts import DomainFact

ALWAYS, ON_FAILURE, ONCE, HALTED = RunPolicy.ALWAYS, RunPolicy.ON_FAILURE, RunPolicy.ONCE, RunPolicy.HALTED


def ended(how: str = "exit", code: int | None = 1, *crashes: float) -> DomainFact:
    """One that ended at the last of ``crashes``, or at 1000."""
    times = crashes or (1000.0,)
    return DomainFact(running=False, ended=how, exit_code=code, ended_at=times[-1], crashes=times)  # type: ignore[arg-type]


@pytest.mark.parametrize("policy", [ALWAYS, ON_FAILURE, ONCE])
def test_what_never_ran_runs_and_has_stopped_by_order_or_reboot_too(policy: RunPolicy) -> None:
    for fact in (None, DomainFact(running=True), DomainFact(running=False, ended="stopped", exit_code=143)):
        assert course(policy, fact, 1000.0, "u").running


@pytest.mark.parametrize("fact", [None, DomainFact(running=True), ended()])
def test_halted_is_halted(fact: DomainFact | None) -> None:
    found = course(HALTED, fact, 1000.0, "u", mended=True)
    assert not found.running
    assert found.problem is not None
    assert found.problem.reason is Reason.SUSPENDED


@pytest.mark.parametrize(
    ("policy", "fact", "reason"),
    [
        (ONCE, ended("exit", 0), Reason.COMPLETED),
        (ONCE, ended("exit", 3), Reason.FAILED),
        (ONCE, ended("crash", None), Reason.FAILED),
        (ON_FAILURE, ended("exit", 0), Reason.COMPLETED),
    ],
)
def test_what_is_over_stays_over_even_when_it_is_changed(policy: RunPolicy, fact: DomainFact, reason: Reason) -> None:
    for mended in (False, True):
        found = course(policy, fact, 99999.0, "u", mended=mended)
        assert not found.running
        assert found.wake_at is None
        assert found.problem is not None
        assert found.problem.reason is reason


@pytest.mark.parametrize("policy", [ALWAYS, ON_FAILURE])
def test_each_end_waits_longer_until_it_is_a_loop(policy: RunPolicy) -> None:
    crashes: list[float] = []
    waits: list[float] = []
    now = 1000.0
    for _ in range(LOOP + 2):
        crashes.append(now)
        found = course(policy, ended("exit", 1, *crashes), now, "u")
        assert not found.running
        assert found.wake_at is not None
        assert found.problem is not None
        assert (found.problem.reason is Reason.CRASH_LOOP) == (len(crashes) >= LOOP)
        waits.append(found.wake_at - now)
        assert course(policy, ended("exit", 1, *crashes), found.wake_at, "u").running
        now = found.wake_at + 5
    assert waits[: LOOP - 1] == sorted(waits[: LOOP - 1])
    assert all(0.75 * SLOW <= wait <= 1.25 * SLOW for wait in waits[LOOP - 1 :])


def test_a_long_life_in_between_is_no_loop() -> None:
    found = course(ALWAYS, ended("crash", None, 0.0, 1.0, 2.0, 3.0, 1000.0), 1000.0, "u")
    assert found.problem is not None
    assert found.problem.reason is Reason.PROGRESSING


@pytest.mark.parametrize("policy", [ALWAYS, ON_FAILURE])
def test_what_was_mended_is_tried_at_once(policy: RunPolicy) -> None:
    looping = ended("exit", 1, 996.0, 997.0, 998.0, 999.0)
    assert not course(policy, looping, 1000.0, "u").running
    assert course(policy, looping, 1000.0, "u", mended=True).running


@pytest.mark.parametrize("off", [3600.0, -3600.0])
@pytest.mark.parametrize("crashes", [1, 2, 3, LOOP, LOOP + 3])
def test_a_clock_an_hour_off_keeps_nothing_down(off: float, crashes: int) -> None:
    """The guest ended by a clock that was set back, or forth, since."""
    ends = [10_000.0 + 10 * number for number in range(crashes)]
    now = ends[-1] + off
    assert course(ALWAYS, ended("exit", 1, *ends), now, "u").running
    again = ended("exit", 1, *ends, now)  # it goes on crashing, by the new clock
    assert course(ALWAYS, again, now + 1.25 * SLOW, "u").running


def test_ends_that_are_yet_to_come_make_no_crash_loop() -> None:
    ahead = [13_600.0 + number for number in range(LOOP)]
    found = course(ALWAYS, ended("exit", 1, *ahead, 10_000.0), 10_000.0, "u")
    assert found.problem is not None
    assert found.problem.reason is Reason.PROGRESSING
    assert found.wake_at is not None
    assert found.wake_at < 10_002.0
