"""What a service's directory, its supervisor and its processes say of it together: whether all of it is as it was made, and
the fact of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from zos.drivers import servicedir
from zos.drivers.netns import NETNS
from zos.drivers.s6 import Status, deaths, status
from zos.drivers.servicedir import Kept
from zos.plan.facts import ServiceEnd, ServiceFact
from zos.plan.items import Service


@dataclass(frozen=True)
class Seen:
    """``item`` is what is wanted there only if all of it is right. ``due``: when the service is overdue, if nothing happens."""

    item: Service
    uid: int
    fact: ServiceFact
    due: float | None


async def look(path: Path, uid_of: Callable[[str], int], clock: Callable[[], float]) -> Seen | None:
    """None: the directory is too broken to say what it is. ``uid_of`` gives the number of an account, ``clock`` seconds since
    the epoch. Raises OSError, ProcessError."""
    kept = await asyncio.to_thread(servicedir.read, path, uid_of)
    if kept is None:
        return None
    kept, state, forgotten = await as_it_runs(path, kept)
    runs = kept.runs(state)
    untold = await untold_ends(path) if state.wanted_up and not runs else []
    right = state.wanted_up and not kept.odd and kept.informed(kept.settings) and not forgotten
    right = right and not (runs and moved(kept.item, state.pid))
    fact = _fact_of(kept, state, untold, clock())
    ready, due = kept.item.ready, None
    if ready is not None and fact.since is not None and not fact.ready and not fact.overdue:
        due = fact.since + ready.timeout
    return Seen(kept.item if right else wrong(kept.item), kept.uid, fact, due)


def _fact_of(kept: Kept, state: Status, untold: Sequence[ServiceEnd], now: float) -> ServiceFact:
    """What the supervisor and the launcher tell. ``untold``: ends that only the supervisor knows of."""
    run = kept.history.started if kept.runs(state) else None
    ready = run is not None and (kept.item.ready is None or state.ready)
    told = [ServiceEnd(at=end.at, code=end.code, signal=end.signal, asked=end.asked) for end in kept.history.ends]
    ends = [*told, *untold]
    return ServiceFact(
        up=run is not None,
        ready=ready,
        overdue=run is not None and not ready and kept.item.ready is not None and now >= run.at + kept.item.ready.timeout,
        since=run.at if run is not None else None,
        next_start=kept.history.next_start if run is None else None,
        restarts=max(0, kept.history.starts - 1),
        last_exit=ends[-1] if ends else None,
        crashes=tuple(end.at for end in ends if not end.asked),
    )


def wrong(item: Service) -> Service:
    """One that nobody can want: it is not as it should be, and still stands where it stands."""
    return replace(item, argv=())


def moved(item: Service, pid: int) -> bool:
    """Whether a program lives in another network namespace than the one that has the name now."""
    if not item.netns:
        return False
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        there, named = os.stat(f"/proc/{pid}/ns/net"), os.stat(f"{NETNS}/{item.netns}")
        return (there.st_dev, there.st_ino) != (named.st_dev, named.st_ino)
    return True


async def as_it_runs(path: Path, kept: Kept) -> tuple[Kept, Status, bool]:
    """With its present history, and whether its program runs and nobody knows any more what it was started with. (What has the
    service's user already is no launcher, which has written that down by then.)"""
    state = await status(path)
    runs = state.up and _has_user(state.pid, kept.uid)
    kept = replace(kept, history=await asyncio.to_thread(servicedir.history, path))
    return kept, state, runs and kept.history.started is None


async def untold_ends(path: Path) -> list[ServiceEnd]:
    """Ends after the last thing that was written down of the service as it is now: of a launcher, too, that does not get as far
    as that."""
    since = max(_written(path / "launch.json"), _written(path / "history.json"))
    asked = _written(path / "asked")
    found: list[ServiceEnd] = []
    for end in await deaths(path):
        if end.at > since:
            found.append(replace(end, asked=since < asked <= end.at))
            since = end.at
    return found


def _written(file: Path) -> float:
    """When it was, in seconds since the epoch; 0 where it is not there. In memory, and so at once."""
    with contextlib.suppress(FileNotFoundError):
        return file.stat().st_mtime
    return 0.0


def _has_user(pid: int, uid: int) -> bool:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return f"Uid:\t{uid}\t" in Path(f"/proc/{pid}/status").read_text()
    return False
