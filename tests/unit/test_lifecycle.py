"""When a guest is started again: policies, backoff, crash loops, and what mending it does."""

from __future__ import annotations

from dataclasses import replace

import pytest

from zos.api.meta import Reason
from zos.api.zmachine import RunPolicy
from zos.kinds.zmachine.lifecycle import Course, course
from zos.plan.crashes import LOOP, SLOW, WINDOW
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


@pytest.mark.parametrize("policy", [ALWAYS, ON_FAILURE, ONCE])
@pytest.mark.parametrize("fact", [None, DomainFact(running=True), DomainFact(running=False, ended="stopped")])
def test_under_maintenance_nothing_runs_and_after_it_what_ran_does(policy: RunPolicy, fact: DomainFact | None) -> None:
    for mended in (False, True):
        found = course(policy, fact, 1000.0, "u", mended=mended, maintenance=True)
        assert not found.running
        assert found.wake_at is None
        assert found.problem is not None
        assert found.problem.reason is Reason.NODE_MAINTENANCE
    assert course(policy, fact, 1000.0, "u").running


def test_maintenance_is_not_why_something_does_not_run_that_would_not_anyway() -> None:
    for policy, fact in ((HALTED, None), (ONCE, ended("exit", 0)), (ON_FAILURE, ended("exit", 0)), (ALWAYS, ended())):
        assert course(policy, fact, 1000.0, "u", maintenance=True) == course(policy, fact, 1000.0, "u")


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


def again(*crashes: float, started: float) -> DomainFact:
    """One that was started again after it ended at each of ``crashes``."""
    return DomainFact(running=True, booted=True, started_at=started, crashes=crashes)


LOOPING = tuple(1000.0 + number for number in range(LOOP))


@pytest.mark.parametrize("policy", [ALWAYS, ON_FAILURE])
def test_a_try_in_a_crash_loop_is_no_recovery_until_it_has_lasted(policy: RunPolicy) -> None:
    tried = again(*LOOPING, started=1060.0)
    for now in (1060.0, 1100.0, 1060.0 + WINDOW - 0.1):
        found = course(policy, tried, now, "u")
        assert found.running
        assert found.problem is not None
        assert found.problem.reason is Reason.CRASH_LOOP
        assert found.wake_at == 1060.0 + WINDOW
    assert course(policy, tried, 1060.0 + WINDOW, "u") == Course(True)
    assert course(policy, replace(tried, crashes=LOOPING[:-1]), 1060.0, "u") == Course(True)  # no loop yet


def test_a_loop_goes_on_as_one_from_try_to_try() -> None:
    crashes, now = [*LOOPING], LOOPING[-1]
    for _ in range(20):
        pause = course(ALWAYS, ended("exit", 1, *crashes[-10:]), now, "u")
        assert pause.wake_at is not None
        now = pause.wake_at
        for asked in (now, now + 30):
            found = course(ALWAYS, again(*crashes[-10:], started=now), asked, "u").problem
            assert found is not None
            assert found.reason is Reason.CRASH_LOOP
        now += 40
        crashes.append(now)


def test_an_old_crash_loop_is_forgotten_when_it_is_started_again() -> None:
    assert course(ALWAYS, again(*LOOPING, started=90_000.0), 90_001.0, "u") == Course(True)


@pytest.mark.parametrize("now", [500.0, 1002.0, 1050.0])
def test_a_clock_that_was_set_back_keeps_no_guest_that_runs_in_a_loop(now: float) -> None:
    assert course(ALWAYS, again(*LOOPING, started=1060.0), now, "u") == Course(True)
