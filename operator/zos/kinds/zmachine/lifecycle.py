"""Whether a guest should run now: its policy, how it ended, and how often it has crashed of late."""

from __future__ import annotations

from dataclasses import dataclass

from zos.api.meta import Reason
from zos.api.zmachine import RunPolicy
from zos.plan.crashes import LOOP, SLOW, WINDOW, streak
from zos.plan.facts import DomainFact
from zos.plan.lowered import Problem


@dataclass(frozen=True)
class Course:
    """``running``: what the guest should be now; ``wake_at``: when to ask again (seconds since the epoch)."""

    running: bool
    problem: Problem | None = None
    wake_at: float | None = None


#: As its node says it, with what is to be done about it.
_MAINTENANCE = "its node is under maintenance: it {how}, keeps all that it has, and starts again when that ends"


def course(
    policy: RunPolicy,
    fact: DomainFact | None,
    now: float,
    uid: str,
    *,
    mended: bool = False,
    maintenance: bool = False,
) -> Course:
    """What to do with a guest. ``fact`` is None before it was ever made; ``uid`` spreads the jitter; ``mended``: it would be
    started with something else than last time, so there is no reason to wait. ``maintenance``: no guest runs on the node."""
    asked = _course(policy, fact, now, uid, mended=mended)
    if not (maintenance and asked.running):
        return asked
    how = "is being stopped" if fact is not None and fact.running else "is stopped"
    return Course(False, Problem(Reason.NODE_MAINTENANCE, _MAINTENANCE.format(how=how)))


def _course(policy: RunPolicy, fact: DomainFact | None, now: float, uid: str, *, mended: bool) -> Course:
    if policy is RunPolicy.HALTED:
        return Course(False, Problem(Reason.SUSPENDED, "runPolicy is Halted"))
    if fact is not None and fact.running:
        return _on_trial(fact, now)
    if fact is None or fact.ended in ("", "stopped"):
        return Course(True)
    how = _told(fact)
    if policy is RunPolicy.ONCE or (policy is RunPolicy.ON_FAILURE and fact.ended == "exit" and fact.exit_code == 0):
        failed = fact.ended == "crash" or fact.exit_code != 0
        return Course(False, Problem(Reason.FAILED if failed else Reason.COMPLETED, how))
    if mended:
        return Course(True)
    ended = fact.ended_at if fact.ended_at is not None else now
    if ended > now:  # the clock was set back since: nobody knows how long ago it ended
        return Course(True)
    recent = streak((*fact.crashes, ended), now)
    due = ended + _delay(recent, uid)
    if recent >= LOOP:
        problem = Problem(
            Reason.CRASH_LOOP,
            f"{how}; it ended {recent} times in a row, tried again about every {SLOW:.0f} s: see its console log",
        )
        return Course(due <= now, problem, None if due <= now else due)
    if due <= now:
        return Course(True)
    return Course(False, Problem(Reason.PROGRESSING, f"{how}; starting again in {due - now:.0f} s"), due)


def _on_trial(fact: DomainFact, now: float) -> Course:
    """A guest that runs. One that was started out of a crash loop is in it until it has run for a while: a try is no
    recovery."""
    started, ends = fact.started_at, [end for end in fact.crashes if end <= now]
    if started is None or not ends or not max(ends) <= started <= now < started + WINDOW:
        return Course(True)  # also where the clock was set back since: nobody knows how long it runs
    count = streak(ends, now)
    if count < LOOP or started - max(ends) > WINDOW + SLOW:
        return Course(True)
    message = f"it ended {count} times in a row and runs again: ready once it has run for {WINDOW:.0f} s; see its console log"
    return Course(True, Problem(Reason.CRASH_LOOP, message), started + WINDOW)


def _told(fact: DomainFact) -> str:
    if fact.problem:
        return fact.problem
    if fact.ended == "crash" or fact.exit_code is None:
        return "the guest died"
    return f"the entrypoint ended with exit code {fact.exit_code}"


def _delay(recent: int, uid: str) -> float:
    """Seconds: 1, 2, 4, then slow; up to a quarter more or less, constant for the object, so that a node's guests spread."""
    base = SLOW if recent >= LOOP else float(2 ** (recent - 1))
    jitter = (sum(uid.encode()) % 51) / 100 - 0.25
    return base * (1 + jitter)
