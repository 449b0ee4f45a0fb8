"""The one place that turns a verdict into conditions (kstatus: Ready always, Reconciling and Stalled only while true)."""

from __future__ import annotations

from collections.abc import Iterable

from zos.api.meta import STALLED_REASONS, Condition
from zos.api.text import sentence
from zos.world.resolution import Verdict

#: Types that this function alone decides on.
_OWN = ("Ready", "Reconciling", "Stalled")
#: As many as admission takes: what a node says of a machine may be that many already.
_MOST = 16


def conditions(
    verdict: Verdict, further: Iterable[Condition], previous: Iterable[Condition], generation: int, now: str
) -> tuple[Condition, ...]:
    """Conditions of an object judged at ``generation``.

    ``further`` carry type, status, reason and message. ``lastTransitionTime`` is kept from ``previous`` where the status is
    the same, else ``now`` (RFC 3339): the same judgement twice gives equal values, so nothing is written.
    """
    wanted = [
        Condition(type="Ready", status="True" if verdict.ready else "False", reason=verdict.reason, message=verdict.message)
    ]
    if not verdict.ready:
        kind = "Stalled" if verdict.stalled or verdict.reason in STALLED_REASONS else "Reconciling"
        wanted.append(Condition(type=kind, status="True", reason=verdict.reason, message=verdict.message))
    wanted.extend(condition for condition in further if condition.type not in _OWN)
    before = {condition.type: condition for condition in previous}
    return tuple(
        condition.model_copy(
            update={
                "message": sentence(condition.message),
                "observed_generation": generation,
                "last_transition_time": seen.last_transition_time
                if (seen := before.get(condition.type)) is not None and seen.status == condition.status
                else now,
            }
        )
        for condition in wanted[:_MOST]
    )
