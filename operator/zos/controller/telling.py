"""How objects stand, as it is told: conditions and the rest of the status, events, and what the API server refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from zos.api.meta import Condition, Key, Object, Reason, Status
from zos.controller.events import Reporter
from zos.controller.ledger import Denied
from zos.controller.outbox import Outbox
from zos.controller.writing import MANAGER, Exchange, status_patch
from zos.kube.client import ApiError, NotFound
from zos.kube.lease import now
from zos.world.conditions import conditions
from zos.world.resolution import Notice, Resolution, Verdict


class Telling:
    """``clock`` gives seconds."""

    def __init__(self, exchange: Exchange, clock: Callable[[], float]) -> None:
        self._client = exchange.client
        self._world = exchange.world
        self._absorb = exchange.absorb
        self._again = exchange.again
        self._clock = clock
        self._reporter = Reporter(MANAGER)
        self._outbox = Outbox(exchange.client, clock)
        self._refusals: dict[Key, tuple[str, ...]] = {}  # what the API server refused of an object last time

    async def close(self) -> None:
        await self._outbox.close()

    def forget(self, obj: Object) -> None:
        """The object is gone."""
        self._refusals.pop(obj.key, None)
        self._reporter.forget(obj)

    # -- what is refused

    def refused(self, obj: Object, found: Iterable[str]) -> bool:
        """What the API server refuses of an object's writes this time, for its condition. Whether that is news."""
        before, found = self._refusals.get(obj.key, ()), tuple(found)
        if found:
            self._refusals[obj.key] = found
        else:
            self._refusals.pop(obj.key, None)
        return before != found

    async def stopped(self, obj: Object, resolution: Resolution, error: ApiError) -> bool:
        """What was refused for good stopped everything else. Says so by the conditions, which are written on their own; False
        where there is no object any more to say it of."""
        current = self._world.peek(obj.key)
        if current is None or current.uid != obj.uid or not hasattr(current, "status"):
            return False
        self.refused(obj, [str(error) if isinstance(error, Denied) else f"the API server refuses it: {error}"])
        verdict = self.verdict(obj, resolution.verdict)
        self.event(obj, verdict)
        await self.write(current, _judged(current, current.status, verdict, resolution.conditions))
        return True

    def verdict(self, obj: Object, verdict: Verdict) -> Verdict:
        """The resolution's, and what the API server refused."""
        refused = self._refusals.get(obj.key)
        if not refused:
            return verdict
        besides = not verdict.ready and verdict.reason is not Reason.PROGRESSING  # which it does not
        said = [verdict.message] if besides and verdict.message else []
        return Verdict(False, Reason.REFUSED, "; ".join([*refused, *said]))

    # -- events

    def event(self, obj: Object, verdict: Verdict) -> None:
        """A change of how it stands, where a person would want to be told; what may pass by itself is looked at again."""
        if not hasattr(obj, "status"):
            return
        event = self._reporter.event(obj, obj.status.condition("Ready"), verdict, self._clock())
        if event is not None:
            self._outbox.put(event)
        elif pause := self._reporter.due(obj, self._clock()):
            self._again(obj.key, pause)

    def notices(self, obj: Object, notices: Iterable[Notice]) -> None:
        for notice in notices:
            self._outbox.put(self._reporter.notice(obj, notice))

    # -- status

    def status(self, obj: Object, resolution: Resolution) -> Status:
        """What the object's status is to be."""
        before: Status = obj.status  # type: ignore[attr-defined]
        status = resolution.status if resolution.status is not None else before
        return _judged(obj, status, self.verdict(obj, resolution.verdict), resolution.conditions)

    def waits(self, obj: Object, resolution: Resolution, verdict: Verdict) -> Status | None:
        """What the status is to be of an object that is being deleted, with what it waits for, over what others have written by
        now of a status that is not its alone. None: it is gone."""
        self.event(obj, verdict)
        current: Any = self._world.peek(obj.key)
        if current is None or current.uid != obj.uid:
            return None
        status: Status = current.status
        if resolution.status is not None:
            others = {*status.AGENTS, *((obj.POOL,) if obj.POOL is not None else ())}
            status = resolution.status.model_copy(update={name: getattr(status, name) for name in others})
        return _judged(obj, status, verdict, ())

    async def write(self, obj: Object, status: Status) -> None:
        """What differs of it from what the API server has."""
        current = self._world.peek(obj.key)
        if current is None or current.uid != obj.uid or not hasattr(current, "status") or current.status == status:
            return
        patch = status_patch(current.status, status)
        if not patch:
            return
        try:
            raw = await self._client.patch(
                type(obj), obj.namespace, obj.name, {"status": patch}, subresource="status", manager=MANAGER
            )
        except NotFound:
            return
        self._absorb(obj.key, raw, current.model_copy(update={"status": status}))


def _judged(obj: Object, status: Status, verdict: Verdict, further: tuple[Condition, ...]) -> Status:
    """The status with the conditions that follow from those that the object has."""
    before: Status = obj.status  # type: ignore[attr-defined]
    generation = obj.metadata.generation
    made = conditions(verdict, further, before.conditions, generation, now()[:19] + "Z")
    return status.model_copy(update={"conditions": made, "observed_generation": generation})
