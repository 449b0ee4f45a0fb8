"""Which agents are alive: judged by Lease renewals that were seen to arrive, on this process's own clock.

A node is dead when its Lease was not renewed for its duration while the API server could be reached, and Leases could be heard,
all that time. So an API server that was away, a watch that was deaf, or a controller that has just started, declares nobody
dead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from zos.api.core import Lease

#: Seconds, for a Lease that names no duration.
_DURATION = 40


@dataclass
class _Beat:
    renew_time: str
    seen_at: float
    duration: int


class Liveness:
    """``clock`` gives seconds and never goes back."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._beats: dict[str, _Beat] = {}
        self._connected_since: float | None = clock()
        self._hearing_since: float | None = clock()

    def heard(self, lease: Lease) -> None:
        """An agent's Lease, by its namespace. Only a changed renewTime counts as a sign of life."""
        renewed = lease.spec.renew_time or ""
        beat = self._beats.get(lease.namespace)
        if beat is None or beat.renew_time != renewed:
            self._beats[lease.namespace] = _Beat(renewed, self._clock(), lease.spec.lease_duration_seconds or _DURATION)

    def gone(self, namespace: str) -> None:
        self._beats.pop(namespace, None)

    def reached(self, answered: bool) -> None:
        """Whether the API server just answered."""
        if not answered:
            self._connected_since = None
        elif self._connected_since is None:
            self._connected_since = self._clock()

    def hears(self, well: bool) -> None:
        """Whether renewals are heard at the moment."""
        if not well:
            self._hearing_since = None
        elif self._hearing_since is None:
            self._hearing_since = self._clock()

    def judge(self) -> Mapping[str, bool]:
        """Namespace → alive, for every agent that ever reported. During an outage, or while nothing is heard, the
        last judgement stands: none is given."""
        if self._connected_since is None or self._hearing_since is None:
            return {}
        since = max(self._connected_since, self._hearing_since)
        now = self._clock()
        return {namespace: now - max(beat.seen_at, since) <= beat.duration for namespace, beat in self._beats.items()}
