"""Events: what ``kubectl describe`` tells of an object's troubles and recoveries."""

from __future__ import annotations

import uuid
from typing import Any

from zos.api.meta import Condition, Object, Reason
from zos.kube.lease import now
from zos.world.resolution import Verdict

#: Ways of not being ready that are no trouble.
_CALM = frozenset(
    {Reason.PROGRESSING, Reason.IMAGE_PULLING, Reason.DELETING, Reason.SUSPENDED, Reason.COMPLETED, Reason.SUCCEEDED}
)


class Reporter:
    """Decides what is worth an event. ``name`` is who reports."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._troubled: set[str] = set()  # uids: trouble may turn into progress before it is over

    def forget(self, obj: Object) -> None:
        """The object is gone."""
        self._troubled.discard(obj.uid)

    def notice(self, obj: Object, reason: Reason, message: str) -> dict[str, Any]:
        """A core/v1 Event of something that happened and is over."""
        return _event(obj, "Normal", Verdict(True, reason, message), self._name)

    def event(self, obj: Object, before: Condition | None, verdict: Verdict) -> dict[str, Any] | None:
        """A core/v1 Event for a change of reason: a Warning when trouble begins or changes, a Normal one when it is over.
        None: nothing that a person would want to be told."""
        if before is not None and before.reason not in _CALM:
            self._troubled.add(obj.uid)
        if before is not None and before.reason == verdict.reason:
            return None
        if verdict.reason not in _CALM:
            self._troubled.add(obj.uid)
            return _event(obj, "Warning", verdict, self._name)
        if verdict.ready and obj.uid in self._troubled:
            self._troubled.discard(obj.uid)
            return _event(obj, "Normal", verdict, self._name)
        return None


def _event(obj: Object, type: str, verdict: Verdict, reporter: str) -> dict[str, Any]:
    namespace = obj.namespace or "default"
    time = now()
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{obj.name[:200]}.{uuid.uuid4().hex[:16]}", "namespace": namespace},
        "involvedObject": {
            "apiVersion": obj.API_VERSION,
            "kind": obj.KIND,
            "name": obj.name,
            "namespace": obj.namespace,
            "uid": obj.uid,
            "resourceVersion": obj.metadata.resource_version,
        },
        "reason": str(verdict.reason),
        "message": (verdict.message or "ready again")[:1024],
        "type": type,
        "source": {"component": reporter},
        "reportingComponent": reporter,
        "reportingInstance": reporter,
        "action": "Reconcile",
        "firstTimestamp": time[:19] + "Z",
        "lastTimestamp": time[:19] + "Z",
        "count": 1,
    }
