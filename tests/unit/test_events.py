"""Which changes of an object are told as events."""

from __future__ import annotations

from zos.api.meta import Condition, Meta, Reason
from zos.api.zmount import ZMount, ZMountSpec
from zos.controller.events import Reporter
from zos.world.resolution import Verdict, ready, waiting

LOST = waiting(Reason.DEPENDENCY_NOT_READY, "no node")
FULL = waiting(Reason.INSUFFICIENT_CAPACITY, "node n1 lacks storage")
ON_ITS_WAY = waiting(Reason.PROGRESSING, "being made")


def told(reporter: Reporter, *verdicts: Verdict, uid: str = "u") -> list[tuple[str, str]]:
    """(type, reason) of the events that a series of verdicts gives."""
    obj = ZMount(metadata=Meta(name="d", namespace="default", uid=uid), spec=ZMountSpec(size=1))
    before: Condition | None = None
    events = []
    for verdict in verdicts:
        event = reporter.event(obj, before, verdict)
        if event is not None:
            events.append((event["type"], event["reason"]))
        before = Condition(type="Ready", status=str(verdict.ready), reason=verdict.reason, message=verdict.message)
    return events


def test_a_plain_success_is_not_news() -> None:
    assert told(Reporter("c"), ON_ITS_WAY, ready(), ready()) == []


def test_trouble_is_told_once_for_each_reason_and_its_end_is_told_also_after_progress() -> None:
    assert told(Reporter("c"), LOST, LOST, FULL, ON_ITS_WAY, ready(), ready()) == [
        ("Warning", "DependencyNotReady"),
        ("Warning", "InsufficientCapacity"),
        ("Normal", "Succeeded"),
    ]


def test_a_new_controller_tells_the_end_of_trouble_that_it_did_not_see_begin() -> None:
    reporter = Reporter("c")
    obj = ZMount(metadata=Meta(name="d", namespace="default", uid="u"), spec=ZMountSpec(size=1))
    before = Condition(type="Ready", status="False", reason=Reason.CONFLICT, message="taken")
    event = reporter.event(obj, before, ready())
    assert event is not None
    assert (event["type"], event["involvedObject"]["name"], event["message"]) == ("Normal", "d", "ready again")


def test_one_objects_trouble_is_not_anothers() -> None:
    reporter = Reporter("c")
    assert told(reporter, LOST, uid="one") == [("Warning", "DependencyNotReady")]
    assert told(reporter, ON_ITS_WAY, ready(), uid="other") == []
