"""Which changes of an object are told as events."""

from __future__ import annotations

from zos.api.meta import Condition, Meta, Reason
from zos.api.text import is_name
from zos.api.zmount import ZMount, ZMountSpec
from zos.controller.events import GRACE, Reporter
from zos.world.resolution import Notice, Verdict, ready, waiting

MISSING = waiting(Reason.DEPENDENCY_NOT_READY, "network lan does not exist")
BLOCKED = waiting(Reason.DELETION_BLOCKED, "waits for ZMachine web")
LOST = waiting(Reason.NODE_UNREACHABLE, "no node")
FULL = waiting(Reason.INSUFFICIENT_CAPACITY, "node n1 lacks storage")
ON_ITS_WAY = waiting(Reason.PROGRESSING, "being made")


def disk(uid: str = "u", name: str = "d") -> ZMount:
    return ZMount(metadata=Meta(name=name, namespace="default", uid=uid), spec=ZMountSpec(size=1))


def told(reporter: Reporter, *verdicts: Verdict | float, uid: str = "u") -> list[tuple[str, str]]:
    """(type, reason) of the events that a series of verdicts gives, with seconds that go by between them."""
    obj, clock = disk(uid), 1000.0
    before: Condition | None = None
    events = []
    for verdict in verdicts:
        if not isinstance(verdict, Verdict):
            clock += verdict
            continue
        event = reporter.event(obj, before, verdict, clock)
        if event is not None:
            events.append((event["type"], event["reason"]))
        before = Condition(type="Ready", status=str(verdict.ready), reason=verdict.reason, message=verdict.message)
    return events


def test_a_plain_success_is_not_news() -> None:
    assert told(Reporter("c"), ON_ITS_WAY, ready(), ready()) == []


def test_trouble_is_told_once_for_each_reason_and_its_end_is_told_also_after_progress() -> None:
    assert told(Reporter("c"), LOST, LOST, FULL, ON_ITS_WAY, ready(), ready()) == [
        ("Warning", "NodeUnreachable"),
        ("Warning", "InsufficientCapacity"),
        ("Normal", "Succeeded"),
    ]


def test_a_new_controller_tells_the_end_of_trouble_that_it_did_not_see_begin() -> None:
    reporter = Reporter("c")
    before = Condition(type="Ready", status="False", reason=Reason.CONFLICT, message="taken")
    event = reporter.event(disk(), before, ready(), 0.0)
    assert event is not None
    assert (event["type"], event["involvedObject"]["name"], event["message"]) == ("Normal", "d", "ready again")


def test_one_objects_trouble_is_not_anothers() -> None:
    reporter = Reporter("c")
    assert told(reporter, LOST, uid="one") == [("Warning", "NodeUnreachable")]
    assert told(reporter, ON_ITS_WAY, ready(), uid="other") == []


def test_what_comes_by_itself_is_not_told_nor_its_end() -> None:
    assert told(Reporter("c"), MISSING, GRACE - 1, MISSING, ON_ITS_WAY, ready()) == []
    assert told(Reporter("c"), ON_ITS_WAY, MISSING, GRACE - 1, ready(), MISSING, GRACE - 1, ready()) == []


def test_what_does_not_come_is_told_once_it_has_lasted() -> None:
    reporter, obj = Reporter("c"), disk()
    assert reporter.event(obj, None, MISSING, 1000.0) is None
    assert reporter.due(obj, 1010.0) == GRACE - 10
    assert told(Reporter("c"), MISSING, GRACE, MISSING, MISSING, GRACE, MISSING, ready()) == [
        ("Warning", "DependencyNotReady"),
        ("Normal", "Succeeded"),
    ]
    assert told(Reporter("c"), MISSING, GRACE - 1, BLOCKED, GRACE - 1, BLOCKED, 1.0, BLOCKED) == [
        ("Warning", "DeletionBlocked")
    ]
    reporter.forget(obj)
    assert reporter.due(obj, 1010.0) == 0.0


def test_trouble_of_another_kind_is_told_at_once_and_waits_for_nothing_more() -> None:
    reporter = Reporter("c")
    assert told(reporter, MISSING, 1.0, FULL, MISSING, 1.0, FULL, ready()) == [
        ("Warning", "InsufficientCapacity"),
        ("Warning", "InsufficientCapacity"),
        ("Normal", "Succeeded"),
    ]
    assert reporter.due(disk(), 1000.0) == 0.0


def test_the_same_thing_has_the_same_name_whoever_tells_it() -> None:
    def name(obj: ZMount, reason: Reason, once: str) -> str:
        return str(Reporter("c").notice(obj, Notice(reason, "words", once))["metadata"]["name"])

    placed = name(disk(), Reason.PLACED, "n1")
    assert placed == name(disk(), Reason.PLACED, "n1")
    others = (name(disk(), Reason.PLACED, "n2"), name(disk(), Reason.JOINED, "n1"), name(disk("v"), Reason.PLACED, "n1"))
    assert placed not in others
    long = name(disk(name="x" * 199 + "-" + "y" * 50), Reason.PLACED, "n1")
    assert is_name(long)


def test_a_change_that_is_seen_again_is_the_same_event_until_there_was_another() -> None:
    def name(before: Condition | None, verdict: Verdict) -> str:
        event = Reporter("c").event(disk(), before, verdict, 0.0)
        assert event is not None
        return str(event["metadata"]["name"])

    before = Condition(type="Ready", status="True", reason=Reason.SUCCEEDED, last_transition_time="2030-01-01T00:00:00Z")
    later = before.model_copy(update={"last_transition_time": "2030-01-01T01:00:00Z"})
    assert name(before, FULL) == name(before, FULL)
    assert len({name(before, FULL), name(later, FULL), name(before, LOST), name(None, FULL)}) == 4


def test_trouble_that_passed_and_comes_again_has_its_time_anew() -> None:
    assert told(Reporter("c"), ON_ITS_WAY, MISSING, GRACE - 1, ON_ITS_WAY, ready(), 2.0, MISSING, GRACE - 1, MISSING) == []
    again = told(Reporter("c"), ON_ITS_WAY, MISSING, GRACE - 1, ON_ITS_WAY, ready(), 2.0, MISSING, GRACE, MISSING)
    assert again == [("Warning", "DependencyNotReady")]


def test_it_is_known_when_what_is_not_told_yet_is_due() -> None:
    reporter, obj = Reporter("c"), disk()
    assert reporter.due(obj, 1000.0) == 0
    reporter.event(obj, None, MISSING, 1000.0)
    assert reporter.due(obj, 1010.0) == GRACE - 10
    assert reporter.due(obj, 1000.0 + 2 * GRACE) == 0
    reporter.forget(obj)
    assert reporter.due(obj, 1010.0) == 0
