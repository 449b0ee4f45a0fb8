"""Service items: programs that run beside the guests, each as a user of its own, under s6 and a launcher of ours."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from zos.drivers import DriverError, mounts, ownprogram, servicedir, servicelook, servicestatus
from zos.drivers.accounts import Accounts
from zos.drivers.inotify import Inotify
from zos.drivers.netns import NETNS, is_namespace
from zos.drivers.process import run
from zos.drivers.s6 import MARK, ScanDirectory, Status, status, write
from zos.drivers.servicedir import Kept
from zos.drivers.servicelook import Seen, as_it_runs, moved, wrong
from zos.plan.diff import Observed, Op
from zos.plan.facts import Fact, Known, ServiceFact
from zos.plan.items import Item, MetricsEndpoint, Service

PREFIX = "zos-svc-"
_SIGNALS = {"HUP": "-h", "USR1": "-1", "USR2": "-2"}
#: Seconds beyond its grace in which a program and all that it left behind are gone.
_STOP_TIMEOUT = 30.0


@dataclass(frozen=True)
class MetricsSource:
    """Where the metrics of a service that runs are, and whose service it is: ``owner`` is the NodeWorkload's name. At a socket
    nobody but ``uid`` is listened to."""

    service: str
    owner: str
    netns: str
    uid: int
    where: MetricsEndpoint


class ServiceDriver:
    """``scan`` is the node's scan directory; ``clock`` gives seconds since the epoch."""

    ITEMS: ClassVar[tuple[type[Item], ...]] = (Service,)
    SLOW: ClassVar[bool] = False
    FACTS: ClassVar[tuple[type[Fact], ...]] = (ServiceFact,)

    def __init__(
        self,
        scan: Path,
        logs: Path,
        accounts: Accounts,
        volumes: Callable[[str], Path] = Path,
        clock: Callable[[], float] = time.time,
        meaning: Callable[[str], str] = str,
    ) -> None:
        """``volumes`` gives the directory of a volume by its name, ``meaning`` what a program's words on its trouble mean."""
        self._volumes = volumes
        self._meaning = meaning
        self._scan: ScanDirectory[Seen | None] = ScanDirectory(scan, logs, PREFIX, self._look, ("files",), self._leave_nothing)
        self._place = scan
        self._accounts = accounts
        self._clock = clock
        self._seen: Mapping[str, Seen | None] = {}
        self._making: dict[int, str] = {}
        self._vacating: set[str] = set()
        self._dirty: Callable[[], None] = lambda: None
        self._spaces: Inotify | None = None
        self._rooms: Inotify | None = None
        self._troubles: Mapping[Path, str] = {}
        self._alarm: asyncio.TimerHandle | None = None

    async def observe(self, wanted: Sequence[Item]) -> Mapping[str, Observed]:
        if self._spaces is not None:
            self._spaces.watch([Path(NETNS)])
        self._seen = await self._scan.see()
        self._await_overdue()
        self._hear()
        observed: dict[str, Observed] = {}
        for name, seen in self._seen.items():
            key = f"service/{name}"
            observed[key] = _observed(key, seen.item) if seen is not None else Observed(key, None)
        for name, directory in self._scan.ending().items():
            if name not in self._seen:
                kept = await asyncio.to_thread(servicedir.read, directory, self._accounts.uid)
                key = f"service/{name}"
                observed[key] = _observed(key, wrong(kept.item)) if kept is not None else Observed(key, None)
        return observed

    def facts(self) -> Known:
        """By type and name. From memory, as of the last ``observe``; ``dirty`` is called whenever they change."""
        known = {name: seen for name, seen in self._seen.items() if seen is not None}
        return {ServiceFact: {name: replace(seen.fact, trouble=self._trouble(name)) for name, seen in known.items()}}

    def endpoints(self) -> tuple[MetricsSource, ...]:
        """Of the services that run and tell metrics. From memory, as of the last ``observe``."""
        found = []
        for name, seen in self._seen.items():
            if seen is not None and seen.fact.up and (where := seen.item.metrics) is not None:
                socket = servicedir.within(self._scan.path(name), where.socket)
                found.append(MetricsSource(name, seen.item.owner, seen.item.netns, seen.uid, replace(where, socket=socket)))
        return tuple(found)

    async def apply(self, op: Op) -> None:
        try:
            if isinstance(op.item, Service):
                await self._ensure(op.item)
            else:
                await asyncio.to_thread(self._check_unused, op.observed)
                await self._scan.take_out(op.key.removeprefix("service/"))
        except TimeoutError:
            raise DriverError(f"{op.key}: its processes don't end") from None
        except OSError as error:
            raise DriverError(f"{op.key}: {error}") from error

    def _check_unused(self, seen: Observed | None) -> None:
        """What several had is not taken from one of whom nobody knew just now. Raises DriverError."""
        item = seen.item if seen is not None else None
        if isinstance(item, Service) and item.shared and item.mount and (users := mounts.given(Path(item.mount))):
            raise DriverError(f"{item.key}: guests have what it has mounted (virtiofsd {', '.join(map(str, users))})")

    async def vacate(self, volume: str) -> Sequence[str]:
        """Ends the programs that have a volume, and gives the names of their services. They stay down, which is not as they
        should be: they are asked for again when what they need is in place. Raises DriverError."""
        ended = []
        for path in sorted(self._place.glob(f"{PREFIX}*")):
            kept = await asyncio.to_thread(servicedir.read, path, self._accounts.uid)
            if kept is None or kept.item.volume != volume or (await status(path)) == Status():
                continue
            if await self._ended(path, kept.item):
                ended.append(kept.item.name)
        return ended

    async def _ended(self, path: Path, item: Service) -> bool:
        """False: it has just been taken out. Whoever changes a service starts it as well, so only one of the two is done at a
        time, and the other is tried again."""
        if item.name in self._making.values():
            raise DriverError(f"service {item.name}, which has volume {item.volume}, is being changed")
        self._vacating.add(item.name)
        try:
            await _stop(path, item.grace)
        except FileNotFoundError:
            return False
        except TimeoutError:
            raise DriverError(f"volume {item.volume}: the processes of {item.name}, which has it, don't end") from None
        finally:
            self._vacating.discard(item.name)
            self._scan.stir(item.name)
        return True

    def watch(self, dirty: Callable[[], None]) -> None:
        self._dirty = dirty
        self._scan.watch(dirty)
        self._spaces = Inotify(dirty, self._space_changed)
        self._rooms = Inotify(dirty, self._said_more)

    def distrust(self) -> None:
        self._scan.distrust()

    async def close(self) -> None:
        self._scan.close()
        for notices in (self._spaces, self._rooms):
            if notices is not None:
                notices.close()
        if self._alarm is not None:
            self._alarm.cancel()

    # -- looking -------------------------------------------------------------------------------------------------------

    async def _look(self, path: Path) -> Seen | None:
        seen = await servicelook.look(path, self._accounts.uid, self._clock)
        if seen is None:
            return None
        log = str(self._scan.log(path.name.removeprefix(PREFIX)))
        return replace(seen, fact=replace(seen.fact, log=log))

    def _hear(self) -> None:
        """What services say of themselves: from now on each word is heard, and what was said until now. Small files in memory,
        read at once, so that nothing is said in between."""
        talking = [name for name, seen in self._seen.items() if seen is not None and seen.fact.up and seen.item.status]
        files = [self._status_file(name) for name in talking]
        if self._rooms is not None:
            self._rooms.watch({file.parent for file in files})
        self._troubles = {file: servicestatus.trouble(file) for file in files}

    def _trouble(self, name: str) -> str:
        seen = self._seen[name]
        told = self._troubles.get(self._status_file(name), "") if seen is not None and seen.item.status else ""
        return self._meaning(told) if told else ""

    def _said_more(self, room: Path | None, name: str) -> bool:
        """Numbers change all the time in what they say; what is wrong seldom does."""
        files = [file for file in self._troubles if room in (None, file.parent) and name in ("", file.name)]
        return any(servicestatus.trouble(file) != self._troubles[file] for file in files)

    def _status_file(self, name: str) -> Path:
        seen = self._seen[name]
        assert seen is not None
        return Path(servicedir.within(self._scan.path(name), seen.item.status))

    def _space_changed(self, _: Path | None, name: str) -> bool:
        """A namespace was made or removed; whoever lives in one of that name may live in another one now."""
        lives = [service for service, seen in self._seen.items() if seen is not None and seen.item.netns]
        moved = [service for service in lives if (seen := self._seen[service]) is not None and name in ("", seen.item.netns)]
        for service in moved:
            self._scan.stir(service)
        return bool(moved)

    def _await_overdue(self) -> None:
        """Nothing happens when a service is not ready in time, so that it has to be looked for."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        due = {name: seen.due for name, seen in self._seen.items() if seen is not None and seen.due is not None}
        if due and self._spaces is not None:
            first = min(due, key=lambda name: due[name])
            delay = max(0.05, due[first] - self._clock() + 0.01)
            self._alarm = asyncio.get_running_loop().call_later(delay, self._overdue, first)

    def _overdue(self, name: str) -> None:
        self._scan.stir(name)
        self._dirty()

    # -- making --------------------------------------------------------------------------------------------------------

    async def _ensure(self, item: Service) -> None:
        path = self._scan.path(item.name)
        if item.netns and not is_namespace(f"{NETNS}/{item.netns}"):
            raise DriverError(f"no network namespace {item.netns}")
        if item.program:
            await asyncio.to_thread(ownprogram.check)
        identity = await asyncio.to_thread(servicedir.Identity.of, item, self._accounts.uid)
        uid = identity.uid
        if item.name in self._vacating:
            raise DriverError(f"service {item.name} is being ended, so that its volume can be mended")
        if self._making.setdefault(uid, item.name) != item.name:
            raise DriverError(f"the account {item.account} is that of service {self._making[uid]}")
        try:
            await asyncio.to_thread(self._alone, item, uid)
            await self._scan.end_of(item.name)
            kept = await asyncio.to_thread(servicedir.read, path, self._accounts.uid)
            if kept is not None:
                await self._change(path, kept, item, identity)
                await self._scan.take_up(item.name)
                return
            if path.exists():
                await self._scan.take_out(item.name)
            group, volume = self._group(item.name), self._volume(item)
            await self._scan.put(item.name, lambda new: servicedir.fill(new, path, item, identity, group, volume))
        finally:
            self._making.pop(uid, None)
            self._scan.stir(item.name)

    async def _change(self, path: Path, kept: Kept, item: Service, identity: servicedir.Identity) -> None:
        """Makes a service another one in its place. What the launcher is told comes first: from then on until the program was
        started again, or told, the service is seen to be wrong, should this be cut short."""
        files, uid = kept.item.files != item.files, identity.uid
        generation = kept.generation + files
        told = servicedir.launch(path, item, identity, self._group(item.name), self._volume(item), generation)
        settings = servicedir.settings_of(told)

        def put() -> None:
            if kept.odd or kept.settings != settings or files:
                write(path / "launch.json", told, 0o600)
            if files or kept.uid != uid:
                servicedir.write_files(path, item, uid)
            servicedir.put_scripts(path, item)
            if servicedir.mark(kept.item) != servicedir.mark(item):
                write(path / MARK, servicedir.mark(item), 0o600)

        # What the user before left behind ends, and what was served elsewhere goes, while the launcher still knows of that. The
        # directories stay as long as the service: a guest that has them would not see others of their names (ADR 0018).
        if kept.uid != uid or kept.item.mount != item.mount:
            await _stop(path, kept.item.grace)
        if kept.item.mount not in ("", item.mount):
            await self._clear(path, item.name, kept.uid, kept.item.mount)
            await asyncio.to_thread(servicedir.note_former_mount, path, kept.item.mount)
        await asyncio.to_thread(put)
        kept, state, forgotten = await as_it_runs(path, kept)
        same = kept.runs(state) and kept.settled_as(settings) and not moved(item, state.pid)
        if same and replace(kept, generation=generation).informed(settings):
            return
        if same and item.change == "reload" and (state.ready or item.ready is None):  # before it may not know the signal
            await run("s6-svc", _SIGNALS[item.reload], str(path))
            write(path / "reloaded", f"{generation}\n", 0o600)
        elif kept.runs(state) or forgotten or files or kept.settings != settings:
            await _stop(path, item.grace)

    def _alone(self, item: Service, uid: int) -> None:
        """Whoever has a user number to himself can be ended by it."""
        for directory in (*self._place.glob(f"{PREFIX}*"), *self._place.glob(f".gone-{PREFIX}*/service")):
            told = servicedir.told(directory)
            if told is not None and told.uid == uid and told.name != item.name:
                raise DriverError(f"the account {item.account} is that of service {told.name}")

    async def _leave_nothing(self, directory: Path) -> None:
        """Whatever has become of it. Raises ProcessError where something of it still runs."""
        name = directory.parent.name.removeprefix(f".gone-{PREFIX}").rpartition("-")[0]
        told = await asyncio.to_thread(servicedir.told_anyhow, directory, name, self._accounts.uid)
        await self._clear(directory, name, told.uid, told.mount)
        places = [*filter(None, (told.mount, *servicedir.former_mounts(directory)))]
        if places and name not in self._making.values():  # else another one comes in its place, and guests wait for that there
            await run(*servicedir.launcher("forget", *places), timeout=_STOP_TIMEOUT)

    async def _clear(self, directory: Path, name: str, uid: int, mount: str) -> None:
        last = servicedir.launcher("end", str(uid), mount, self._group(name), str(directory / "var"))
        await run(*last, timeout=_STOP_TIMEOUT)

    def _volume(self, item: Service) -> str:
        return str(self._volumes(item.volume)) if item.volume else ""

    def _group(self, name: str) -> str:
        """Control groups are the machine's: other nodes may be on it."""
        place = self._place.stat()
        return f"zos-service-{place.st_dev:x}-{place.st_ino:x}-{name}"


def _observed(key: str, item: Service) -> Observed:
    return Observed(key, item, item.owner, shared=item.shared)


def told_accounts(scan: Path) -> Iterable[tuple[str, int]]:
    """Accounts and their numbers, as the services that there are tell of them."""
    found = (servicedir.told(directory) for directory in scan.glob(f"{PREFIX}*"))
    return [(told.account, told.uid) for told in found if told is not None]


async def _stop(path: Path, grace: int) -> None:
    """Until all of it has ended; it is not a crash."""
    write(path / "asked", "", 0o600)
    wait = grace + _STOP_TIMEOUT
    done = await run("s6-svc", "-wD", "-T", str(int(wait * 1000)), "-d", str(path), timeout=wait + 5, check=False)
    if done.code == 99:
        raise TimeoutError
