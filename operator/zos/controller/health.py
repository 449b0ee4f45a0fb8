"""Whether a controller that leads works: what /healthz says of it."""

from __future__ import annotations

from collections.abc import Callable

#: Seconds without hearing of everything, or without any work while there is some, after which a leader is stuck.
_STUCK = 60.0


class Health:
    """``clock`` gives seconds and never goes back."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._led_at: float | None = None
        self._worked_at = clock()

    def leads(self, leading: bool) -> None:
        self._led_at = self._worked_at = self._clock()
        if not leading:
            self._led_at = None

    def worked(self) -> None:
        """Something was taken from the queue."""
        self._worked_at = self._clock()

    def problem(self, *, listed: bool, waiting: int) -> str | None:
        """What is wrong that a restart may mend; None: nothing. ``waiting``: how many objects could be worked on now."""
        if self._led_at is None:
            return None
        if not listed and (since := self._clock() - self._led_at) > _STUCK:
            return f"leads for {since:.0f} s without having heard of everything: the log says what is not served"
        if listed and waiting and (since := self._clock() - self._worked_at) > _STUCK:
            return f"{waiting} objects wait, and none was worked on for {since:.0f} s"
        return None
