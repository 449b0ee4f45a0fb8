"""Conditions as kstatus wants them, stable over repetition."""

from __future__ import annotations

from zos.api.meta import Condition, Reason
from zos.world.conditions import conditions
from zos.world.resolution import ready, waiting

T1, T2 = "2030-01-01T00:00:00Z", "2030-01-01T00:01:00Z"


def by_type(result: tuple[Condition, ...]) -> dict[str, Condition]:
    return {condition.type: condition for condition in result}


def test_ready_stands_alone() -> None:
    (only,) = conditions(ready("up"), (), (), 3, T1)
    assert only == Condition(
        type="Ready", status="True", reason="Succeeded", message="up", observed_generation=3, last_transition_time=T1
    )


def test_what_heals_by_itself_is_reconciling_and_what_needs_a_person_is_stalled() -> None:
    assert set(by_type(conditions(waiting(Reason.PROGRESSING, "pulling"), (), (), 1, T1))) == {"Ready", "Reconciling"}
    assert set(by_type(conditions(waiting(Reason.INVALID_SPEC, "no"), (), (), 1, T1))) == {"Ready", "Stalled"}
    on_a_stalled_one = waiting(Reason.DEPENDENCY_NOT_READY, "its disk", stalled=True)
    assert set(by_type(conditions(on_a_stalled_one, (), (), 1, T1))) == {"Ready", "Stalled"}


def test_the_same_judgement_later_changes_nothing() -> None:
    further = (Condition(type="SoftwareEmulation", status="True", reason="SoftwareEmulation"),)
    first = conditions(ready(), further, (), 1, T1)
    assert conditions(ready(), further, first, 1, T2) == first


def test_transition_time_moves_with_the_status_only() -> None:
    first = conditions(waiting(Reason.PROGRESSING, "10 %"), (), (), 1, T1)
    second = by_type(conditions(waiting(Reason.PROGRESSING, "20 %"), (), first, 2, T2))
    assert second["Ready"].last_transition_time == T1
    assert second["Ready"].observed_generation == 2
    third = by_type(conditions(ready(), (), second.values(), 2, T2))
    assert third["Ready"].last_transition_time == T2
    assert "Reconciling" not in third


def test_what_else_is_said_never_stands_for_the_judgement() -> None:
    further = [Condition(type=type, status="True", reason="Succeeded") for type in ("Ready", "Reconciling", "Stalled", "Other")]
    found = conditions(waiting(Reason.PROGRESSING, "not yet"), further, (), 1, T1)
    assert [(c.type, c.status) for c in found] == [("Ready", "False"), ("Reconciling", "True"), ("Other", "True")]


def test_there_are_never_more_than_admission_takes() -> None:
    further = [Condition(type=f"Other{number}", status="True", reason="Succeeded") for number in range(30)]
    found = conditions(ready(), further, (), 1, T1)
    assert len(found) == 16
    assert found[0].type == "Ready"
