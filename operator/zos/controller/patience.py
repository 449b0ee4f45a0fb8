"""How long plain progress is kept quiet: most of it is over soon, which saves a write for each object."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from zos.api.meta import Key, Object, Reason, Status
from zos.world.resolution import Verdict

#: Seconds that plain progress, or an end, may take before it is worth a write of its own, and progress of what is shown as
#: Ready. When more than so many objects are being written, which progress would only slow down: until when not at all, and how
#: often it is looked whether that is over.
_PATIENCE, _PATIENCE_OF_READY = {Reason.PROGRESSING: 3.0, Reason.DELETING: 3.0}, 0.2
_BUSY, _PATIENCE_WHEN_BUSY, _LOOK_WHEN_BUSY = 32, 30.0, 3.0


class Patience:
    """``clock`` gives seconds. ``underway``: how many objects are being written."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since: dict[Key, float] = {}  # when an object was first seen to make progress
        self.underway = 0

    @contextmanager
    def writing(self) -> Iterator[None]:
        self.underway += 1
        try:
            yield
        finally:
            self.underway -= 1

    def pause(self, obj: Object, verdict: Verdict) -> float:
        """Seconds until it is worth looking again whether to write how the object stands; not positive: write it now."""
        patience = _PATIENCE.get(verdict.reason)
        if patience is None:
            self._since.pop(obj.key, None)
            return 0.0
        status = getattr(obj, "status", None)
        if verdict.reason is Reason.PROGRESSING and isinstance(status, Status) and status.says("Ready"):
            patience = _PATIENCE_OF_READY
        waited = self._clock() - self._since.setdefault(obj.key, self._clock())
        if self.underway > _BUSY and waited < _PATIENCE_WHEN_BUSY:
            return _LOOK_WHEN_BUSY
        return patience - waited

    def forget(self, obj: Object) -> None:
        """The object is gone."""
        self._since.pop(obj.key, None)
