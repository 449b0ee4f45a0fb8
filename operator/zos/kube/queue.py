"""A queue of keys: each is in it once, is worked on by one at a time, and backs off by itself when it fails."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import deque
from collections.abc import Callable

from zos.api.meta import Key

#: Seconds before the first retry, and at most.
FIRST, LAST = 0.2, 60.0
#: The same for what was refused for good: only somebody's doing changes that.
FIRST_REFUSED, LAST_REFUSED = 1.0, 300.0
#: Seconds for which keys are handed out before everybody else in the event loop has a turn: whoever renews a lease must not
#: wait until thousands of objects have been looked at.
_TURN = 0.05


class Queue:
    """``clock`` gives seconds, ``jitter`` a factor around 1. A key that is added while it is worked on comes again.

    ``rest`` gives the seconds for which a key that was done does not come again: for those that sum up many others, which
    change together. The first change is heard at once, and the last is never lost. ``idle`` is called when nothing is ready
    or worked on any more.

    Each key wakes one worker: waking all of a thousand for every key would be most of what a controller does.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        jitter: Callable[[], float],
        rest: Callable[[Key], float] = lambda _: 0.0,
        idle: Callable[[], None] = lambda: None,
    ) -> None:
        self._clock = clock
        self._jitter = jitter
        self._rest = rest
        self._nothing_left = idle
        self._resting: dict[Key, float] = {}  # until when
        self._ready: dict[Key, None] = {}  # insertion-ordered
        self._working: set[Key] = set()
        self._again: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._due: dict[Key, float] = {}
        self._later: list[tuple[float, int, Key]] = []
        self._order = itertools.count()
        self._idle: deque[asyncio.Future[None]] = deque()  # workers
        self._timer: asyncio.TimerHandle | None = None
        self._armed: float | None = None  # for when
        self._turn: float | None = None  # since when, in this turn of the event loop

    def __len__(self) -> int:
        return len(self._ready)

    @property
    def waiting(self) -> int:
        """Keys that wait for their time."""
        return len(self._due)

    def add(self, key: Key, after: float = 0.0) -> None:
        """Now, or ``after`` seconds; the earlier of two wishes counts."""
        if after > 0:
            due = self._clock() + after
            if key in self._ready or self._due.get(key, due + 1) <= due:
                return
            self._due[key] = due
            heapq.heappush(self._later, (due, next(self._order), key))
            self._arm()
        elif key in self._working:
            self._again.add(key)
        elif (left := self._resting.get(key, 0.0) - self._clock()) > 0:
            self.add(key, left)
        else:
            self._resting.pop(key, None)
            self._due.pop(key, None)
            self._ready[key] = None
            self._wake()

    async def get(self) -> Key:
        """The next key. It must be given back with `done` or `failed`."""
        while True:
            self._promote()
            if self._ready and not self._turn_is_over():
                key = next(iter(self._ready))
                del self._ready[key]
                self._working.add(key)
                return key
            if not self._ready and not self._working:
                self._nothing_left()
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._idle.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._wake()  # woken and cancelled at once: the key is another worker's
                raise

    def _turn_is_over(self) -> bool:
        """Whether the rest has to wait until the event loop has been around once more."""
        now = self._clock()
        if self._turn is None:
            self._turn = now
            asyncio.get_running_loop().call_soon(self._next_turn)
        return now - self._turn >= _TURN

    @property
    def idle(self) -> int:
        """Workers that wait for a key."""
        return len(self._idle)

    def _next_turn(self) -> None:
        self._turn = None
        for _ in range(min(len(self._ready), len(self._idle))):
            self._wake()

    def done(self, key: Key) -> None:
        self._failures.pop(key, None)
        if (rest := self._rest(key)) > 0:
            self._resting[key] = self._clock() + rest
        self._finish(key)

    def failed(self, key: Key, refused: bool = False) -> float:
        """It comes again by itself, soon if it was added meanwhile, which is news; gives in how many seconds."""
        count = self._failures[key] = self._failures.get(key, 0) + 1
        first, last = (FIRST_REFUSED, LAST_REFUSED) if refused else (FIRST, LAST)
        pause: float = min(last, first * 2.0 ** min(count - 1, 20)) * self._jitter()
        again = key in self._again
        self._again.discard(key)
        self._working.discard(key)
        self.add(key, min(pause, FIRST) if again else pause)
        return pause

    def _finish(self, key: Key) -> None:
        self._working.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    def _wake(self) -> None:
        while self._idle:
            idle = self._idle.popleft()
            if not idle.done():
                idle.set_result(None)
                return

    def _arm(self) -> None:
        """Sees to it that what waits for its time is noticed then."""
        due = self._later[0][0] if self._later else None
        if due == self._armed:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._armed = due
        self._timer = (
            asyncio.get_running_loop().call_later(max(0.0, due - self._clock()), self._ring) if due is not None else None
        )

    def _ring(self) -> None:
        self._armed = self._timer = None
        self._promote()
        self._arm()

    def _promote(self) -> None:
        if not self._later:
            return
        now = self._clock()
        while self._later and self._later[0][0] <= now:
            due, _, key = heapq.heappop(self._later)
            if self._due.get(key) == due:
                del self._due[key]
                if key in self._working:
                    self._again.add(key)
                else:
                    self._ready[key] = None
                    self._wake()
