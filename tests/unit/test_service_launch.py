"""What a service's launcher decides, and how its end is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import ModuleType

import pytest

from zos.api.meta import Reason
from zos.plan.crashes import WINDOW
from zos.plan.facts import ServiceEnd, ServiceFact
from zos.plan.items import Readiness, Service, ServiceFile
from zos.plan.standing import Standing, standing
from zos.programs import enclosing, fusemount, history, launch

NOW = 10_000.0


def ends(*rans: float, asked: Sequence[int] = (), last: float = NOW) -> list[dict[str, object]]:
    return [{"at": last, "ran": ran, "asked": number in asked} for number, ran in enumerate(rans)]


def test_a_program_that_keeps_ending_waits_longer_and_longer() -> None:
    waits = [history.pause(ends(*[0.1] * count), NOW) for count in range(12)]
    assert waits == [0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60, 60]


@pytest.mark.parametrize(
    ("told", "now", "wait"),
    [
        (ends(0.1, 0.1, 61.0), NOW, 0),  # it has worked
        (ends(0.1, 0.1, 0.1, asked=[2]), NOW, 0),  # the agent ended it
        (ends(61.0, 0.1, 0.1), NOW, 1),
        (ends(0.1, 0.1, 0.1), NOW + 1.5, 0.5),  # the wait is from its end
        (ends(0.1, 0.1, 0.1), NOW + 100, 0),
        (ends(*[0.1] * 9), NOW - 5, 0),  # the clock was set back
    ],
)
def test_a_wait_counts_what_was(told: list[dict[str, object]], now: float, wait: float) -> None:
    assert history.pause(told, now) == wait


def test_a_launcher_needs_nothing_of_the_rest() -> None:
    def imported(program: ModuleType) -> set[ModuleType]:
        return {value for value in vars(program).values() if isinstance(value, ModuleType) and "zos" in value.__name__}

    assert imported(launch) == {enclosing, fusemount, history}
    assert imported(enclosing) == {fusemount}
    assert imported(fusemount) == imported(history) == set()


def test_files_stand_in_one_order_and_say_nothing() -> None:
    files = (ServiceFile(path="b", content="secret"), ServiceFile(path="a", content="secret"))
    one, other = Service(name="x", argv=("x",), files=files), Service(name="x", argv=("x",), files=files[::-1])
    assert one == other
    assert "secret" not in repr(one)
    assert list(one.grounds()) == []
    assert list(Service(name="x", argv=("x",), netns="n", user="u", mount="/m").grounds()) == ["netns/n"]
    assert list(Service(name="x", argv=("x",), netns="n", user="u", mount="/m").exclusives()) == ["account u", "mount /m"]


SERVICE = Service(name="zdb", argv=("zdb",), ready=Readiness(by="notification", timeout=30.0))
END = ServiceEnd(at=NOW - 1, code=3)


def fact(**more: object) -> ServiceFact:
    return ServiceFact(**{"up": True, "ready": True, "since": NOW - 1000, "log": "/log", **more})  # type: ignore[arg-type]


def told(found: Standing) -> tuple[Reason, str]:
    assert found.problem is not None
    return found.problem.reason, found.problem.message


def test_how_a_service_stands() -> None:
    assert standing(SERVICE, fact(), NOW) == Standing()
    assert told(standing(SERVICE, None, NOW)) == (Reason.PROGRESSING, "zdb is being started")
    assert told(standing(SERVICE, fact(up=False, ready=False), NOW)) == (Reason.PROGRESSING, "zdb is being started")
    assert told(standing(SERVICE, fact(ready=False), NOW)) == (Reason.PROGRESSING, "zdb runs and is not ready yet")
    late = fact(ready=False, overdue=True)
    assert told(standing(SERVICE, late, NOW))[1] == "zdb runs and is not ready after 30 s: see its log in /log on the node"


def test_one_end_is_no_loop_and_four_are_until_it_has_lasted() -> None:
    once = fact(up=False, ready=False, last_exit=END, crashes=(NOW - 1,))
    assert told(standing(SERVICE, once, NOW)) == (
        Reason.PROGRESSING,
        "zdb ended with exit code 3 and is being started; what it said is in /log on the node, for the node's administrator",
    )
    twice = replace(once, crashes=(NOW - 3, NOW - 1))
    assert "zdb ended with exit code 3, 2 times in a row, and is being started" in told(standing(SERVICE, twice, NOW))[1]
    four = (NOW - 30, NOW - 20, NOW - 10, NOW - 1)
    loop = standing(SERVICE, fact(up=False, ready=False, last_exit=END, crashes=four), NOW)
    assert told(loop)[0] is Reason.CRASH_LOOP
    assert "zdb ended with exit code 3, 4 times in a row, and is started again about once a minute" in told(loop)[1]
    tries = standing(SERVICE, fact(since=NOW - 0.5, last_exit=END, crashes=four), NOW)
    assert (told(tries)[0], tries.wake_at) == (Reason.CRASH_LOOP, NOW - 0.5 + WINDOW)
    assert standing(SERVICE, fact(since=NOW - 0.5, last_exit=END, crashes=four), NOW + WINDOW) == Standing()
    assert standing(SERVICE, fact(crashes=four), NOW - 100) == Standing()  # the clock was set back
    killed = ServiceEnd(at=NOW, signal="SIGKILL")
    assert "zdb ended by SIGKILL, 4 times" in told(standing(SERVICE, fact(up=False, last_exit=killed, crashes=four), NOW))[1]
