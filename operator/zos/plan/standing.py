"""How a service stands, for the conditions of what it is for.

How it ended, how often, and where its log is; never what it said: a program may log a secret, and many read conditions."""

from __future__ import annotations

from dataclasses import dataclass

from zos.api.meta import Reason
from zos.plan.crashes import LOOP, WINDOW, streak
from zos.plan.facts import ServiceFact
from zos.plan.items import Service
from zos.plan.lowered import Problem


@dataclass(frozen=True)
class Standing:
    """``problem`` is why it can't be used yet, None where it can; ``wake_at``: when to ask again, if nothing happens."""

    problem: Problem | None = None
    wake_at: float | None = None


def standing(service: Service, fact: ServiceFact | None, now: float) -> Standing:
    """``fact`` is None before the service was ever made; ``now`` in seconds since the epoch."""
    if fact is None:
        return Standing(Problem(Reason.PROGRESSING, f"{service.name} is being started"))
    if _in_a_loop(fact, now):
        again = "runs again: ready once it has run for a while" if fact.up else "is started again about once a minute"
        told = f"{service.name} {fact.last_exit}{_often(fact, now)} and {again}{_where(fact)}"
        wake_at = fact.since + WINDOW if fact.up and fact.since is not None else None
        return Standing(Problem(Reason.CRASH_LOOP, told), wake_at)
    if not fact.up:
        unasked = fact.last_exit is not None and not fact.last_exit.asked
        ended = f" {fact.last_exit}{_often(fact, now)} and" if unasked else ""
        return Standing(Problem(Reason.PROGRESSING, f"{service.name}{ended} is being started{_where(fact)}"))
    if not fact.ready:
        late = f" after {service.ready.timeout:g} s: see its log in {fact.log} on the node" if service.ready is not None else ""
        told = f"{service.name} runs and is not ready{late if fact.overdue else ' yet'}"
        return Standing(Problem(Reason.PROGRESSING, told))
    return Standing()


def _in_a_loop(fact: ServiceFact, now: float) -> bool:
    """A start out of a crash loop is a try, until it has lasted."""
    if not any(end <= now for end in fact.crashes) or streak(fact.crashes, now) < LOOP:
        return False
    return not fact.up or (fact.since is not None and fact.since <= now < fact.since + WINDOW)


def _often(fact: ServiceFact, now: float) -> str:
    times = streak(fact.crashes, now)
    return f", {times} times in a row," if times > 1 else ""


def _where(fact: ServiceFact) -> str:
    return f"; what it said is in {fact.log} on the node, for the node's administrator" if fact.crashes else ""
