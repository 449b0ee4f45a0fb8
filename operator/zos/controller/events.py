"""Events: what ``kubectl describe`` tells of an object's way, of its troubles and of its recoveries.

An event's name says what it is about: whoever tells it again, this controller or the next, finds it there.
"""

from __future__ import annotations

import hashlib

from zos.api.meta import Condition, Object, Reason
from zos.kube.client import Raw
from zos.kube.lease import now
from zos.world.resolution import Notice, Verdict

#: Ways of not being ready that are no trouble.
_CALM = frozenset(
    {Reason.PROGRESSING, Reason.IMAGE_PULLING, Reason.DELETING, Reason.SUSPENDED, Reason.COMPLETED, Reason.SUCCEEDED}
)
#: Ways that are trouble only when they last: what is applied together comes one after the other, and goes so.
_PASSING = frozenset({Reason.DEPENDENCY_NOT_READY, Reason.DELETION_BLOCKED})
#: Seconds that these get.
GRACE = 60.0


class Reporter:
    """Decides what is worth an event. ``name`` is who reports."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._troubled: set[str] = set()  # uids: trouble may turn into progress before it is over
        self._untold: dict[str, tuple[Reason, float]] = {}  # by uid what may be over by itself: since when

    def forget(self, obj: Object) -> None:
        """The object is gone."""
        self._troubled.discard(obj.uid)
        self._untold.pop(obj.uid, None)

    def notice(self, obj: Object, notice: Notice) -> Raw:
        """A core/v1 Event of something that happened and is over."""
        return _event(obj, "Normal", notice.reason, notice.message, notice.once, self._name)

    def event(self, obj: Object, before: Condition | None, verdict: Verdict, clock: float) -> Raw | None:
        """A core/v1 Event for a change of reason: a Warning when trouble begins or changes, a Normal one when it is over.
        None: nothing that a person would want to be told (yet: see `due`). ``clock`` in seconds."""
        was = before.reason if before is not None else ""
        if verdict.reason in _PASSING:
            return self._passing(obj, before, verdict, clock)
        if was in _CALM:
            self._untold.pop(obj.uid, None)
        elif was and obj.uid not in self._untold:
            self._troubled.add(obj.uid)
        if was == verdict.reason:
            return None
        if verdict.reason not in _CALM:
            return self._warning(obj, before, verdict)
        if not verdict.ready:
            return None
        self._untold.pop(obj.uid, None)
        if obj.uid not in self._troubled:
            return None
        self._troubled.discard(obj.uid)
        return self._told(obj, "Normal", before, verdict)

    def due(self, obj: Object, clock: float) -> float:
        """Seconds until what is not told of an object yet is worth it. 0: there is nothing."""
        found = self._untold.get(obj.uid)
        return 0.0 if found is None else max(0.0, found[1] + GRACE - clock)

    def _passing(self, obj: Object, before: Condition | None, verdict: Verdict, clock: float) -> Raw | None:
        reason, since = self._untold.get(obj.uid, (None, clock))
        if reason is None and before is not None and before.reason == verdict.reason:
            return None  # it was told, or is as it was before this controller came
        if reason != verdict.reason:
            self._untold[obj.uid] = verdict.reason, clock
            return None
        return self._warning(obj, before, verdict) if clock - since >= GRACE else None

    def _warning(self, obj: Object, before: Condition | None, verdict: Verdict) -> Raw:
        self._untold.pop(obj.uid, None)
        self._troubled.add(obj.uid)
        return self._told(obj, "Warning", before, verdict)

    def _told(self, obj: Object, type: str, before: Condition | None, verdict: Verdict) -> Raw:
        """The same change seen again, as its status is not written yet, is the same event."""
        since = f"{before.reason}/{before.last_transition_time}" if before is not None else ""
        once = f"{type}/{since}/{verdict.message}"
        return _event(obj, type, verdict.reason, verdict.message or "ready again", once, self._name)


def warning(obj: Object, reason: Reason, message: str, once: str, reporter: str) -> Raw:
    """A core/v1 Event about what is no object of the grid, and has no conditions to say it."""
    return _event(obj, "Warning", reason, message, once, reporter)


def _event(obj: Object, type: str, reason: Reason, message: str, once: str, reporter: str) -> Raw:
    namespace = obj.namespace or "default"
    time = now()
    about = hashlib.sha256(f"{obj.uid}/{reason}/{once}".encode()).hexdigest()[:20]
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{obj.name[:200].rstrip('.-')}.{about}", "namespace": namespace},
        "involvedObject": {
            "apiVersion": obj.API_VERSION,
            "kind": obj.KIND,
            "name": obj.name,
            "namespace": obj.namespace,
            "uid": obj.uid,
            "resourceVersion": obj.metadata.resource_version,
        },
        "reason": str(reason),
        "message": message[:1024],
        "type": type,
        "source": {"component": reporter},
        "reportingComponent": reporter,
        "reportingInstance": reporter,
        "action": "Reconcile",
        "firstTimestamp": time[:19] + "Z",
        "lastTimestamp": time[:19] + "Z",
        "count": 1,
    }
