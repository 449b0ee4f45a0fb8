"""The only writer of NodeWorkload.status, and of the end of a deletion. Writes what changed, when it is worth a write."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from zos.api.meta import AGENT_FINALIZER, Condition, Reason
from zos.api.nodeworkload import NodeWorkload, NodeWorkloadStatus
from zos.kinds.kind import Report
from zos.kube.client import ApiError, Client, Conflict, NotFound, Raw, Unavailable
from zos.world.conditions import conditions

log = logging.getLogger("zos.agent")

#: Seconds that something unfinished gets before it is worth a write: most things are ready by then, and need only one.
_GRACE = 0.7
#: Seconds that the next phase gets of what is said to be under way already.
_NEXT = 6.0
#: Seconds that something gets to end in: most things have by then, and need none.
_LEAVING = 3.0
#: Seconds until it is written that what stands as it stood is of a later generation, where nobody waits for that.
_BOOKKEEPING = 30.0
#: Seconds between two writes that differ in nothing but the words (progress).
_WORDS = 3.0
_FIRST_RETRY = 0.5
_LAST_RETRY = 15.0
#: Seconds until a write that was refused for good is tried again, at first and at most: somebody has to change something, and
#: nobody tells when they have.
_FIRST_APPEAL, _LAST_APPEAL = 1.0, 300.0


@dataclass(frozen=True)
class _Offer:
    workloads: Mapping[str, NodeWorkload]
    reports: Mapping[str, Report[Any]]
    clean: frozenset[str]


@dataclass(frozen=True)
class _Known:
    """What the API server has, as far as we know."""

    uid: str
    status: NodeWorkloadStatus
    at: float


@dataclass(frozen=True)
class _Refused:
    """A write that the API server refused for good: of what, why, how often, and when to try again."""

    of: tuple[object, ...]
    error: str
    tries: int
    until: float


class Statuses:
    """``shown`` gives a workload as the API server showed it last, by name; ``clock`` seconds of any origin, ``now``
    RFC 3339. ``run`` until cancelled; ``offer`` never waits."""

    def __init__(
        self,
        client: Client,
        shown: Callable[[str], NodeWorkload | None],
        clock: Callable[[], float],
        now: Callable[[], str],
    ) -> None:
        self._client = client
        self._shown = shown
        self._clock = clock
        self._now = now
        self._offer = _Offer({}, {}, frozenset())
        self._wake = asyncio.Event()
        self._known: dict[str, _Known] = {}
        self._held: dict[str, float] = {}  # not yet written, since when
        self._released: set[str] = set()  # uids
        self._refused: dict[str, _Refused] = {}  # by name
        self._tries = 0

    @property
    def refused(self) -> int:
        """How many workloads' statuses the API server does not take."""
        return len(self._refused)

    def rewound(self) -> None:
        """The API server's versions went back: what was written and released may be so no more."""
        self.distrust()
        self._released.clear()

    def offer(self, workloads: Mapping[str, NodeWorkload], reports: Mapping[str, Report[Any]], clean: frozenset[str]) -> None:
        """The newest judgement replaces the last."""
        self._offer = _Offer(workloads, reports, clean)
        self._wake.set()

    def distrust(self) -> None:
        """Forgets what was written: the next judgement is compared with what the API server shows."""
        self._known.clear()

    async def run(self) -> None:
        while True:
            self._wake.clear()
            delay = await self.write()
            try:
                async with asyncio.timeout(delay):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def write(self) -> float | None:
        """One round of writes. Seconds after which to do another one, None: when there is news."""
        offer, now = self._offer, self._clock()
        later: list[float] = []
        work = []
        for name, report in offer.reports.items():
            workload = offer.workloads[name]
            previous = self._previous(workload)
            status = _status(workload, report, previous, self._now())
            if status == previous:
                self._held.pop(name, None)
                continue
            of = (workload.uid, workload.metadata.generation, report.verdict.ready, report.verdict.reason)
            wait = self._worth_waiting(workload, report, status, previous, now) or self._appeal(name, of, now)
            if wait > 0:
                later.append(wait)
            else:
                work.append(self._write_status(workload, status, previous, of))
        for name in offer.clean:
            workload = offer.workloads[name]
            if workload.uid in self._released or AGENT_FINALIZER not in workload.metadata.finalizers:
                continue
            clean = (workload.uid, "clean")
            if (wait := self._appeal(name, clean, now)) > 0:
                later.append(wait)
            else:
                work.append(self._release(workload, clean))
        for name in (self._known.keys() | self._refused.keys()) - offer.workloads.keys():
            self._known.pop(name, None)
            self._held.pop(name, None)
            self._refused.pop(name, None)
        results = await asyncio.gather(*work)
        if all(results):
            self._tries = 0
        else:
            later.append(min(_LAST_RETRY, _FIRST_RETRY * 2 ** min(self._tries, 10)))
            self._tries += 1
        return min(later, default=None)

    def _previous(self, workload: NodeWorkload) -> NodeWorkloadStatus:
        known = self._known.get(workload.name)
        if known is not None and known.uid == workload.uid:
            return known.status
        shown = self._shown(workload.name)
        return shown.status if shown is not None and shown.uid == workload.uid else workload.status

    def _worth_waiting(
        self,
        workload: NodeWorkload,
        report: Report[Any],
        status: NodeWorkloadStatus,
        previous: NodeWorkloadStatus,
        now: float,
    ) -> float:
        """Seconds by which to put the write off; something ready or in need of a person is written at once."""
        name = workload.name
        passing = status.condition("Reconciling") is not None
        leaving = workload.deleting or workload.spec.unwanted
        if leaving and (report.verdict.ready or report.verdict.reason is Reason.DELETING):
            grace = _LEAVING
        elif report.state is not None and report.state.marked and _timeless(status) == _timeless(previous):
            grace = _BOOKKEEPING
        elif not passing:
            self._held.pop(name, None)
            return 0.0
        elif _in_words(status) == _in_words(previous):
            known = self._known.get(name)
            return known.at + _WORDS - now if known is not None else 0.0
        else:
            under_way = previous.condition("Reconciling")
            grace = _NEXT if under_way is not None and under_way.reason == report.verdict.reason else _GRACE
        return self._held.setdefault(name, now) + grace - now

    def _appeal(self, name: str, of: tuple[object, ...], now: float) -> float:
        """Seconds until a write that was refused is tried again; one of something else is tried at once."""
        refused = self._refused.get(name)
        return max(0.0, refused.until - now) if refused is not None and refused.of == of else 0.0

    def _refuse(self, name: str, of: tuple[object, ...], what: str, error: ApiError) -> bool:
        """Takes note of a refusal that only somebody's doing changes. False: it may go better soon."""
        if not error.permanent:
            return False
        before = self._refused.get(name)
        tries = before.tries + 1 if before is not None and before.of == of else 1
        if before is None or before.error != str(error):
            log.error("%s is refused, and is tried again less and less often: %s", what, error, extra={"workload": name})
        pause = min(_LAST_APPEAL, _FIRST_APPEAL * 2.0 ** min(tries - 1, 20))
        self._refused[name] = _Refused(of, str(error), tries, self._clock() + pause)
        self._wake.set()  # for the time of the next attempt
        return True

    async def _write_status(
        self, workload: NodeWorkload, status: NodeWorkloadStatus, previous: NodeWorkloadStatus, of: tuple[object, ...]
    ) -> bool:
        body = {"metadata": {"uid": workload.uid}, "status": replacing(status.wire(), previous.wire())}
        name = workload.name
        try:
            await self._client.patch(NodeWorkload, workload.namespace, name, body, subresource="status")
        except (NotFound, Conflict):
            return True  # gone, or another incarnation: its own event comes
        except (ApiError, Unavailable) as error:
            if isinstance(error, ApiError) and self._refuse(name, of, "status", error):
                return True
            log.warning("status not written: %s", error, extra={"workload": name})
            return False
        self._refused.pop(name, None)
        self._known[name] = _Known(workload.uid, status, self._clock())
        self._held.pop(name, None)
        return True

    async def _release(self, judged: NodeWorkload, of: tuple[object, ...]) -> bool:
        workload = self._shown(judged.name)
        if workload is None or workload.uid != judged.uid:
            return True
        rest = [finalizer for finalizer in workload.metadata.finalizers if finalizer != AGENT_FINALIZER]
        meta: Raw = {"uid": workload.uid, "resourceVersion": workload.metadata.resource_version, "finalizers": rest}
        try:
            await self._client.patch(NodeWorkload, workload.namespace, workload.name, {"metadata": meta})
        except NotFound:
            pass
        except Conflict:
            return False  # it changed meanwhile and will be shown anew
        except (ApiError, Unavailable) as error:
            if isinstance(error, ApiError) and self._refuse(judged.name, of, "letting go", error):
                return True
            log.warning("finalizer not removed: %s", error, extra={"workload": workload.name})
            return False
        self._refused.pop(judged.name, None)
        self._released.add(workload.uid)
        log.info("released", extra={"workload": workload.name, "kind": workload.spec.owner.kind})
        return True


def _status(workload: NodeWorkload, report: Report[Any], previous: NodeWorkloadStatus, now: str) -> NodeWorkloadStatus:
    generation = workload.metadata.generation
    made = conditions(report.verdict, report.conditions, previous.conditions, generation, now)
    return workload.saying(report.state, observed_generation=generation, conditions=made)


def _in_words(status: NodeWorkloadStatus) -> tuple[object, ...]:
    """A status but for its messages."""
    wordless: tuple[Condition, ...] = tuple(c.model_copy(update={"message": ""}) for c in status.conditions)
    return (status.observed_generation, wordless, status.state)


def _timeless(status: NodeWorkloadStatus) -> tuple[object, ...]:
    """A status, of whatever generation."""
    ageless = tuple(c.model_copy(update={"observed_generation": 0}) for c in status.conditions)
    return (ageless, status.state, status.older)


def replacing(new: Raw, old: Raw) -> Raw:
    """A JSON merge patch (RFC 7396) that leaves ``new`` where ``old`` was."""
    patch: Raw = dict.fromkeys(old.keys() - new.keys())
    for key, value in new.items():
        before = old.get(key)
        patch[key] = replacing(value, before) if isinstance(value, dict) and isinstance(before, dict) else value
    return patch
