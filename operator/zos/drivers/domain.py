"""Guests under libvirt.

What is heard of guests, and what is done about that and in which order. What there is of them: `zos.drivers.guestlook`; what is
kept of their runs: `zos.drivers.guestrecords`; the single steps: `zos.drivers.guests`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from zos.drivers import DriverError, shares
from zos.drivers.accelerator import AcceleratorProbe
from zos.drivers.diskfull import Resumer
from zos.drivers.domainrun import boot_of
from zos.drivers.domainxml import Accelerator, Start
from zos.drivers.flistmounts import FlistMounts
from zos.drivers.guestends import GuestEnds
from zos.drivers.guestlook import GuestLook
from zos.drivers.guestrecords import Records, told
from zos.drivers.guests import Guests
from zos.drivers.gueststats import GuestUse
from zos.drivers.hypervisor import Hypervisor
from zos.drivers.inotify import MODIFY, Inotify
from zos.drivers.lastwords import LastWords
from zos.drivers.mounts import Remounts
from zos.drivers.startline import StartLine
from zos.drivers.virtiofsd import Watched, Watcher, launcher
from zos.plan.diff import Observed, Op
from zos.plan.facts import DomainFact, Fact, Known
from zos.plan.items import Domain, Item

#: Seconds between two looks at what guests say: a hostile one may say something all the time.
_WORDS = 0.2
#: What is said of a guest that is not started yet as others boot.
_IN_LINE = "others boot at the moment, and it is the next one's turn as soon as one has (--start-parallel)"
#: Seconds for a guest to be gone that has said how it ended.
_LAST_SECONDS = 30.0


class DomainDriver:
    """Domain items. ``state`` holds disks, images and machines; ``guest`` is a directory made by guestbuild; so many as
    ``start_parallel`` boot at once."""

    ITEMS: ClassVar[tuple[type[Item], ...]] = (Domain,)
    SLOW: ClassVar[bool] = True
    FACTS: ClassVar[tuple[type[Fact], ...]] = (DomainFact,)

    def __init__(
        self,
        state: Path,
        run_directory: Path,
        guest: Path,
        *,
        uri: str = "qemu:///system",
        accelerator: Literal["auto", "kvm", "tcg"] = "auto",
        libvirt_run: Path = Path("/run/libvirt/qemu"),
        libvirt_logs: Path = Path("/var/log/libvirt/qemu"),
        last: float = _LAST_SECONDS,
        start_parallel: int = 4,
    ) -> None:
        self._state = state
        self._boot = boot_of(run_directory)
        self._probe = AcceleratorProbe(accelerator, guest / "vmlinuz", guest / "initramfs", run_directory)
        self._hypervisor = Hypervisor(uri, self._changed, self._failed)
        self._records = Records(state / "machines", libvirt_logs, self._boot)
        self._looks = GuestLook(self._hypervisor, state, self._records)
        self._guests = Guests(
            self._hypervisor,
            self._looks,
            self._records,
            state=state,
            guest=guest,
            launcher=launcher(state / "libexec"),
            logs=libvirt_logs,
        )
        self._ends = GuestEnds(self._hypervisor, self._guests, self._records)
        self._watcher = Watcher(libvirt_run, self._lost_share)
        self._remounts = Remounts(self._mounted_anew)
        self._flists = FlistMounts(state / "images", libvirt_run, self._lost_share)
        self._resumer = Resumer(self._has_room)
        self._starts = StartLine(start_parallel)
        self._noting: set[tuple[str, str]] = set()
        self._last_words = LastWords(last, self._stays_on)
        self._dirty: Callable[[], None] = lambda: None
        self._progress: dict[str, str] = {}
        self._facts: Mapping[str, DomainFact] = {}
        self._images: frozenset[str] | None = None
        self._boots: Inotify | None = None
        self._rest: asyncio.TimerHandle | None = None
        self._more = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def accelerator(self) -> Accelerator:
        """What guests of this node run on; the first call may take some seconds."""
        return await self._probe.accelerator()

    def accelerator_found(self) -> Accelerator | None:
        """The same if it is known already."""
        return self._probe.found()

    def images(self) -> frozenset[str] | None:
        """Digests that guests stand on or will be started from, as of the last look; None: there was none yet."""
        return self._images

    def facts(self) -> Known:
        return {DomainFact: self._facts}

    def progress(self, key: str) -> str:
        return self._progress.get(key, "")

    async def observe(self, wanted: Sequence[Item]) -> Mapping[str, Observed]:
        asked = {item.name: item for item in wanted if isinstance(item, Domain)}
        look = await self._hypervisor.call(self._looks.look, asked)
        self._facts, self._images, up = look.facts, look.images, look.up
        self._watcher.watch(up)
        self._await_words(up)
        self._last_words.watch(
            (guest.name, guest.uuid) for guest in up if self._mounts_of(guest) and self._records.machine(guest.uuid).said_all()
        )
        self._remounts.watch(self._given_mounts(up))
        self._flists.watch({(guest.name, guest.uuid): image for guest in up if (image := self._facts[guest.name].image)})
        self._resumer.watch(look.full)
        self._starts.seen(look.facts)
        return look.observed

    async def apply(self, op: Op) -> None:
        name = op.key.removeprefix("domain/")
        try:
            if isinstance(op.item, Domain):
                await self._make_so(op.item, op.key)
            else:
                await self._remove(name, op.key)
        except OSError as error:
            raise DriverError(f"{op.key}: {error.strerror or error}: {error.filename or ''}") from error
        finally:
            self._progress.pop(op.key, None)

    def watch(self, dirty: Callable[[], None]) -> None:
        self._dirty = dirty
        self._boots = Inotify(self._heard)
        self._begin(self._warm_up())

    async def close(self) -> None:
        self._dirty = lambda: None
        self._watcher.close()
        self._remounts.close()
        self._flists.close()
        self._resumer.close()
        self._starts.close()
        self._last_words.watch(())
        if self._boots is not None:
            self._boots.close()
            self._boots = None
        for task in self._tasks:
            task.cancel()
        await self._hypervisor.close()

    async def resize_disk(self, path: Path, size: int) -> bool:
        """Gives a disk its new size through the guest that runs with it; False where none does."""
        return await self._hypervisor.call(self._guests.resize_disk, path, size)

    async def use(self) -> Mapping[str, GuestUse]:
        """What guests that run have used of the node, by name. Raises DriverError."""
        return await self._hypervisor.call(self._guests.use)

    def known(self) -> Mapping[str, DomainFact]:
        """As of the last look."""
        return self._facts

    async def uses_disk(self, path: Path) -> bool:
        """Whether a guest runs with a disk. Raises DriverError where that can't be told."""
        return await self._hypervisor.call(self._looks.user_of, path) is not None

    # --- doing

    async def _make_so(self, item: Domain, key: str) -> None:
        seen = await self._hypervisor.call(self._looks.seen, item.name)
        if seen is not None and item.running and seen.uuid == item.uuid and self._looks.runs_as(seen, item):
            return
        if seen is not None:
            await self._stop(item.name, seen.uuid, key, item.stop_seconds)
        machine = self._records.machine(item.uuid)
        await self._hypervisor.call(machine.write_card, item)
        if item.running:
            await self._start(item, key, await self.accelerator())

    async def _start(self, item: Domain, key: str, accelerator: Accelerator) -> None:
        machine, asked = self._records.machine(item.uuid), time.monotonic()
        self._progress[key] = _IN_LINE if self._starts.full else "starting"
        await self._starts.enter(item.name)
        try:
            self._progress[key] = "starting"
            waited = time.monotonic() - asked
            start = Start(item=item, started_at=time.time(), boot=self._boot, accelerator=accelerator)
            await self._hypervisor.call(self._guests.start, machine, start, waited)
        except BaseException:
            self._starts.leave(item.name)
            raise
        self._starts.begun(item.name, start.started_at, item.boot.TELLS)

    async def _stop(self, name: str, uuid: str, key: str, seconds: float) -> None:
        self._progress[key] = "stopping"
        await self._ends.stop(name, uuid, seconds)

    async def _remove(self, name: str, key: str) -> None:
        seen = await self._hypervisor.call(self._looks.seen, name)
        if seen is not None:
            await self._stop(name, seen.uuid, key, seen.item.stop_seconds)
        await self._hypervisor.call(self._guests.erase, name, seen.uuid if seen is not None else None)

    # --- being told

    def _heard(self) -> None:
        """The first word at once, what follows soon after together."""
        if self._rest is not None:
            self._more = True
            return
        self._dirty()
        self._rest = asyncio.get_running_loop().call_later(_WORDS, self._rested)

    def _rested(self) -> None:
        self._rest = None
        if self._more:
            self._more = False
            self._heard()

    def _await_words(self, guests: Sequence[Watched]) -> None:
        """Has us told when the init of a booting guest says that the entrypoint runs, or a virtual machine's cloud-init that it
        is done; and when one that may not get away says that it ended."""
        if self._boots is None:
            return
        facts = self._facts
        booting = {self._records.machine(guest.uuid) for guest in guests if guest.name in facts and _boots(facts[guest.name])}
        held = {self._records.machine(guest.uuid) for guest in guests if self._mounts_of(guest)}
        self._boots.watch([machine.status_file for machine in booting | held], MODIFY)
        if any(self._said_more(guest) for guest in guests):
            self._dirty()  # while we looked

    def _said_more(self, guest: Watched) -> bool:
        fact, machine = self._facts.get(guest.name), self._records.machine(guest.uuid)
        if fact is None or not _boots(fact):
            return False
        return told(machine.status()) != fact.told if fact.booted else machine.booted()

    def _mounts_of(self, guest: Watched) -> frozenset[Path]:
        fact = self._facts.get(guest.name)
        return shares.mounts_of(self._state, fact.runs) if fact is not None and fact.runs is not None else frozenset()

    def _changed(self, name: str, event: int) -> None:
        self._ends.heard(name, event)
        self._dirty()

    def _has_room(self, name: str, uuid: str) -> None:
        self._begin(self._attempt(self._guests.resume, name, uuid))

    def _failed(self, name: str, path: str) -> None:
        """A guest may try again and again: of each disk it is written down once."""
        fact = self._facts.get(name)
        if (name, path) in self._noting or (fact is not None and Path(path).stem in fact.faults):
            return
        self._noting.add((name, path))

        async def note() -> None:
            try:
                with contextlib.suppress(DriverError, OSError):  # if it fails again that is heard again
                    await self._hypervisor.call(self._guests.note_fault, name, Path(path))
            finally:
                self._noting.discard((name, path))
            self._dirty()

        self._begin(note())

    def _lost_share(self, name: str, uuid: str) -> None:
        """Its own, or that of an image which is not mounted any more: it has crashed."""
        self._begin(self._ends.cut_off(name, uuid))

    def _stays_on(self, name: str, uuid: str) -> None:
        self._begin(self._attempt(self._guests.destroy_ended, name, uuid))

    async def _attempt(self, how: Callable[[str, str], None], name: str, uuid: str) -> None:
        with contextlib.suppress(DriverError):  # the next look finds it again
            await self._hypervisor.call(how, name, uuid)

    def _given_mounts(self, guests: Iterable[Watched]) -> dict[tuple[str, str], frozenset[Path]]:
        """Of the guests that listen: before its entrypoint runs, one has yet to look itself."""
        given: dict[tuple[str, str], frozenset[Path]] = {}
        for guest in guests:
            mounts = self._mounts_of(guest)
            if mounts and self._facts[guest.name].booted:
                given[guest.name, guest.uuid] = mounts
        return given

    def _mounted_anew(self, name: str, uuid: str) -> None:
        async def tell() -> None:
            try:
                await self._hypervisor.call(self._guests.knock, name, self._records.machine(uuid))
            except DriverError:
                self._remounts.forget(name, uuid)

        self._begin(tell())

    async def _warm_up(self) -> None:
        """What would take seconds of the first guest's start: trying KVM, and libvirt's look at what QEMU can do."""
        known = self._probe.found()
        accelerator = await self._probe.accelerator()
        if accelerator != known:
            self._dirty()
        with contextlib.suppress(DriverError):
            await self._hypervisor.call(self._guests.look_at_qemu, "kvm" if accelerator == "kvm" else "qemu")

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _boots(fact: DomainFact) -> bool:
    """Whether there is more to hear of a guest that runs."""
    if not fact.booted:
        return True
    return fact.runs is not None and not fact.runs.boot.TELLS and fact.told in ("", "booting")
