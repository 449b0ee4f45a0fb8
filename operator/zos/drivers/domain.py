"""Guests under libvirt: container mode, so far.

Guests are transient domains: libvirt knows what runs, the node's disk (`zos.drivers.domainrun`) what there is. A guest that
runs carries what it was started with in its metadata, so any agent can tell what it is, whatever was lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal
from xml.etree import ElementTree

import libvirt

from zos.drivers import DriverError, shares, unused
from zos.drivers.accelerator import AcceleratorProbe
from zos.drivers.domainrun import SECTOR, Machine, Run, boot_of
from zos.drivers.domainxml import NAMESPACE, Accelerator, Places, Start, container, domain_xml, item_of_xml, start_of
from zos.drivers.hypervisor import Hypervisor, gone
from zos.drivers.inotify import MODIFY, Inotify
from zos.drivers.lastwords import LastWords
from zos.drivers.mounts import Remounts
from zos.drivers.virtiofsd import Watched, Watcher, launcher
from zos.plan.diff import Observed, Op
from zos.plan.facts import DomainFact, Fact, Known
from zos.plan.items import Domain, Item

#: Seconds for a guest to end when asked to; and between two presses of its power button, which a booting guest overlooks.
_GRACE = 30.0
_PRESS_AGAIN = 3.0
#: Seconds for a guest to be gone that has said how it ended.
_LAST_SECONDS = 30.0


@dataclasses.dataclass(frozen=True)
class Seen:
    """A guest of ours that exists: ``item`` is what it runs with; ``start`` is None where its metadata can't be read, and
    ``item`` then what can be told otherwise; ``up``: not just coming or going."""

    uuid: str
    item: Domain
    start: Start | None
    up: bool


class DomainDriver:
    """Domain items. ``state`` holds disks, images and machines; ``guest`` is a directory made by guestbuild."""

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
        grace: float = _GRACE,
        last: float = _LAST_SECONDS,
    ) -> None:
        self._state = state
        self._guest = guest
        self._libvirt_logs = libvirt_logs
        self._grace = grace
        self._machines = state / "machines"
        self._machines.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._boot = boot_of(run_directory)
        self._launcher = launcher(state / "libexec")
        self._probe = AcceleratorProbe(accelerator, guest / "vmlinuz", guest / "initramfs", run_directory)
        self._hypervisor = Hypervisor(uri, self._changed)
        self._watcher = Watcher(libvirt_run, self._lost_share)
        self._remounts = Remounts(self._mounted_anew)
        self._last_words = LastWords(last, self._stays_on)
        self._dirty: Callable[[], None] = lambda: None
        self._records = threading.Lock()
        self._ended: dict[str, asyncio.Event] = {}
        self._progress: dict[str, str] = {}
        self._facts: dict[str, DomainFact] = {}
        self._images: frozenset[str] | None = None
        self._boots: Inotify | None = None
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
        observed, up = await self._hypervisor.call(self._observe, asked)
        self._watcher.watch(up)
        self._await_words(up)
        self._last_words.watch(
            (guest.name, guest.uuid) for guest in up if self._mounts_of(guest) and self._machine(guest.uuid).said_all()
        )
        self._remounts.watch(self._given_mounts(up))
        return observed

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
        self._boots = Inotify(lambda: self._dirty())
        self._begin(self._warm_up())

    async def close(self) -> None:
        self._dirty = lambda: None
        self._watcher.close()
        self._remounts.close()
        self._last_words.watch(())
        if self._boots is not None:
            self._boots.close()
            self._boots = None
        for task in self._tasks:
            task.cancel()
        await self._hypervisor.close()

    async def resize_disk(self, path: Path, size: int) -> bool:
        """Gives a disk its new size through the guest that runs with it; False where none does."""
        return await self._hypervisor.call(self._resize_disk, path, size)

    async def uses_disk(self, path: Path) -> bool:
        """Whether a guest runs with a disk. Raises DriverError where that can't be told."""
        return await self._hypervisor.call(self._user_of, path) is not None

    # --- looking

    def _observe(self, wanted: Mapping[str, Domain]) -> tuple[dict[str, Observed], list[Watched]]:
        """What there is, and the guests that run."""
        running = self._running()
        observed: dict[str, Observed] = {}
        facts: dict[str, DomainFact] = {}
        images: set[str] = set()
        for machine in self._known():
            card = machine.card()
            if card is None or card.name in running:
                continue
            with self._records:
                run = self._settle(machine)
            item = dataclasses.replace(card, running=False)
            observed[card.key] = Observed(card.key, item, card.owner, origin=Domain.origin_of(card.uuid))
            facts[card.name] = dataclasses.replace(_fact(run, machine, running=False), image=card.boot.image)
            images.add(card.boot.image)
        for name, asked in wanted.items():  # one whose card is lost: how it ended is still known
            machine = self._machine(asked.uuid)
            if name not in facts and name not in running and machine.run().over and machine.run().started_at is not None:
                facts[name] = _fact(machine.run(), machine, running=False)
        for name, seen in running.items():
            key = f"domain/{name}"
            machine = self._machine(seen.uuid)
            with self._records:
                run = self._adopt(machine, seen.start) if seen.start is not None else machine.run()
            seen = dataclasses.replace(seen, item=self._with_shares(seen, machine))
            was, now = self._started_as(seen, machine), wanted.get(name)
            item = dataclasses.replace(seen.item, running=True)
            if now is not None and now.running and now.uuid == seen.item.uuid and self._same_run(was, now):
                item = now
            observed[key] = Observed(key, item, item.owner, origin=Domain.origin_of(seen.uuid))
            boot = seen.item.boot
            facts[name] = dataclasses.replace(
                _fact(run, machine, running=True, tells=boot.TELLS), image=boot.image, runs=was, unreadable=seen.start is None
            )
            images.add(boot.image)
        self._facts, self._images = facts, frozenset(images - {""})
        return observed, [Watched(name, seen.uuid, shares.count(seen.item)) for name, seen in running.items() if seen.up]

    def _running(self) -> dict[str, Seen]:
        found: dict[str, Seen] = {}
        for domain in self._hypervisor.connection().listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE):
            try:
                text = domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, NAMESPACE)
                up = domain.state()[0] == libvirt.VIR_DOMAIN_RUNNING
                start = _readable_start(text)
                item = start.item if start is not None else item_of_xml(domain.XMLDesc(), self._state)
            except libvirt.libvirtError as error:
                if gone(error) or error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN_METADATA:
                    continue  # somebody else's
                raise
            found[domain.name()] = Seen(domain.UUIDString(), item, start, up)
        return found

    def _started_as(self, seen: Seen, machine: Machine) -> Domain | None:
        """What a guest that runs was started with. Where it does not tell itself, its card says for which incarnation; where
        that can't be read either nobody knows."""
        if seen.start is not None:
            return dataclasses.replace(seen.item, running=True)
        card = machine.card()
        return dataclasses.replace(seen.item, incarnation=card.incarnation) if card is not None else None

    def _with_shares(self, seen: Seen, machine: Machine) -> Domain:
        """What a guest runs with; for one that does not tell itself what it was given shares of, as its card has them."""
        card = machine.card() if seen.start is None and seen.item.shares else None
        known = {share.tag: share for share in card.shares} if card is not None else {}
        return dataclasses.replace(seen.item, shares=tuple(known.get(share.tag, share) for share in seen.item.shares))

    def _same_run(self, was: Domain | None, now: Domain) -> bool:
        """Whether no restart was asked for since the guest was started. Where that is not known nothing is restarted."""
        return was is None or was.incarnation == now.incarnation

    def _settle(self, machine: Machine) -> Run:
        """The record of a guest that does not run; notes its end the first time it is missed."""
        run = machine.run()
        if not run.over:
            run = run.finished(machine.status(), time.time(), self._boot)
            machine.write_run(run)
        return run

    def _adopt(self, machine: Machine, start: Start) -> Run:
        """The record of a guest that runs, made up for where the agent that started it did not come to write it."""
        run = machine.run()
        if run.started_at != start.started_at or run.ended:
            run = run.begun(start)
            machine.write_card(start.item)
            machine.write_run(run)
        return run

    # --- doing

    async def _make_so(self, item: Domain, key: str) -> None:
        seen = await self._hypervisor.call(self._seen, item.name)
        if seen is not None:
            same = seen.uuid == item.uuid and self._same_run(self._started_as(seen, self._machine(seen.uuid)), item)
            if item.running and same:
                return
        if item.running:
            container(item)  # before anything is stopped for it
        if seen is not None:
            await self._stop(item.name, seen.uuid, key)
        machine = self._machine(item.uuid)
        await self._hypervisor.call(machine.write_card, item)
        if item.running:
            self._progress[key] = "starting"
            start = Start(item=item, started_at=time.time(), boot=self._boot, accelerator=await self.accelerator())
            await self._hypervisor.call(self._start, machine, start)

    def _start(self, machine: Machine, start: Start) -> None:
        places = Places(
            state=self._state,
            machine=machine.directory,
            kernel=self._guest / "vmlinuz",
            initramfs=self._guest / "initramfs",
            virtiofsd=self._launcher,
        )
        image = container(start.item).image
        if not places.image(image).is_dir():
            raise DriverError(f"image {image} is not on this node any more")
        for share in start.item.shares:
            shares.check(self._state, share)
        with self._records:
            run = self._settle(machine).begun(start)
            machine.clear_status()
        for disk in start.item.all_disks:
            unused.end(places.disk(disk.disk))
        self._hypervisor.connection().createXML(domain_xml(start, places), 0)
        with self._records:
            machine.write_run(run)

    async def _stop(self, name: str, uuid: str, key: str) -> None:
        """Power button, time to react, power off."""
        self._progress[key] = "stopping"
        machine = self._machine(uuid)
        ended = self._ended.setdefault(name, asyncio.Event())
        ended.clear()
        await self._hypervisor.call(self._note_stopping, machine)
        deadline = time.monotonic() + self._grace
        try:
            while (left := deadline - time.monotonic()) > 0:
                if not await self._hypervisor.call(self._press, name, uuid, machine):
                    break
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(ended.wait(), min(_PRESS_AGAIN, left))
                    break
            await self._hypervisor.call(self._destroy, name, uuid)
        finally:
            self._ended.pop(name, None)
        await self._hypervisor.call(self._settle_stopped, machine)

    async def _remove(self, name: str, key: str) -> None:
        seen = await self._hypervisor.call(self._seen, name)
        if seen is not None:
            await self._stop(name, seen.uuid, key)
        await self._hypervisor.call(self._erase, name, seen.uuid if seen is not None else None)

    def _seen(self, name: str) -> Seen | None:
        return self._running().get(name)

    def _note_stopping(self, machine: Machine) -> None:
        with self._records:
            run = machine.run()
            if not run.over:
                machine.write_run(dataclasses.replace(run, stopping=True))

    def _press(self, name: str, uuid: str, machine: Machine) -> bool:
        """False when there is nobody to press for."""
        domain = self._hypervisor.find(name)
        if domain is None or domain.UUIDString() != uuid:
            return False
        if machine.status() != "stopping":
            try:
                domain.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)
            except libvirt.libvirtError as error:
                if not gone(error):
                    raise
                return False
        return True

    def _destroy(self, name: str, uuid: str) -> None:
        domain = self._hypervisor.find(name)
        if domain is None or domain.UUIDString() != uuid:
            return
        try:
            domain.destroy()
        except libvirt.libvirtError as error:
            if not gone(error):
                raise

    def _settle_stopped(self, machine: Machine) -> None:
        with self._records:
            self._settle(machine)

    def _erase(self, name: str, uuid: str | None) -> None:
        for machine in self._known():
            card = machine.card()
            if (card is not None and card.name == name) or machine.directory.name == uuid:
                machine.remove()
        for pattern in (f"{name}.log*", f"{name}-fs*-virtiofsd.log*"):
            for log in self._libvirt_logs.glob(pattern):
                log.unlink(missing_ok=True)

    def _resize_disk(self, path: Path, size: int) -> bool:
        name = self._user_of(path)
        domain: Any = self._hypervisor.find(name) if name is not None else None
        if domain is None:
            return False
        domain.blockResize(str(path), size, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)
        return True

    def _user_of(self, path: Path) -> str | None:
        """The guest that runs with a disk."""
        for name, seen in self._running().items():
            for disk in seen.item.all_disks:
                if self._state / "disks" / f"{disk.disk}.raw" == path:
                    return name
        return None

    # --- being told

    def _await_words(self, guests: Sequence[Watched]) -> None:
        """Has us told when the init of a booting guest says that the entrypoint runs; and when one that may not get away
        says that it ended."""
        if self._boots is None:
            return
        facts = self._facts
        booting = {self._machine(guest.uuid) for guest in guests if guest.name in facts and not facts[guest.name].booted}
        held = {self._machine(guest.uuid) for guest in guests if self._mounts_of(guest)}
        self._boots.watch([machine.status_file for machine in booting | held], MODIFY)
        if any(machine.booted() for machine in booting):  # while we looked
            self._dirty()

    def _mounts_of(self, guest: Watched) -> frozenset[Path]:
        fact = self._facts.get(guest.name)
        return shares.mounts_of(self._state, fact.runs) if fact is not None and fact.runs is not None else frozenset()

    def _changed(self, name: str, event: int) -> None:
        if event == libvirt.VIR_DOMAIN_EVENT_STOPPED and name in self._ended:
            self._ended[name].set()
        self._dirty()

    def _lost_share(self, name: str, uuid: str) -> None:
        """Who touches what a virtiofsd that died has shared hangs for ever, while libvirt says that the guest runs: it has
        crashed."""
        self._begin(self._end(self._destroy, name, uuid))

    def _stays_on(self, name: str, uuid: str) -> None:
        self._begin(self._end(self._destroy_ended, name, uuid))

    async def _end(self, how: Callable[[str, str], None], name: str, uuid: str) -> None:
        with contextlib.suppress(DriverError):  # the next look finds it again
            await self._hypervisor.call(how, name, uuid)

    def _destroy_ended(self, name: str, uuid: str) -> None:
        if self._machine(uuid).said_all():  # else it was started again meanwhile
            self._destroy(name, uuid)

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
                await self._hypervisor.call(self._knock, name, self._machine(uuid))
            except DriverError:
                self._remounts.forget(name, uuid)

        self._begin(tell())

    def _knock(self, name: str, machine: Machine) -> None:
        """Makes a guest look at its shares again: its init hears that a disk grows, and of this one it means that."""
        domain: Any = self._hypervisor.find(name)
        if domain is None or domain.UUIDString() != machine.directory.name:
            return
        path = str(machine.status_file)
        try:
            size, _, _ = domain.blockInfo(path)
            domain.blockResize(path, size + SECTOR, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)
        except libvirt.libvirtError as error:
            if not gone(error):
                raise

    async def _warm_up(self) -> None:
        """What would take seconds of the first guest's start: trying KVM, and libvirt's look at what QEMU can do."""
        known = self._probe.found()
        accelerator = await self._probe.accelerator()
        if accelerator != known:
            self._dirty()
        with contextlib.suppress(DriverError):
            await self._hypervisor.call(self._look_at_qemu, "kvm" if accelerator == "kvm" else "qemu")

    def _look_at_qemu(self, kind: str) -> None:
        self._hypervisor.connection().getDomainCapabilities(None, "x86_64", "q35", kind)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _known(self) -> list[Machine]:
        """Guests there is anything of. That somebody deleted the directory of them all is no reason to see nothing any more."""
        return [Machine(directory) for directory in self._machines.glob("*")]

    def _machine(self, uuid: str) -> Machine:
        return Machine(self._machines / uuid)


def _fact(run: Run, machine: Machine, *, running: bool, tells: bool = True) -> DomainFact:
    return DomainFact(
        running=running,
        booted=running and (machine.booted() or not tells),
        started_at=run.started_at,
        ended_at=run.ended_at,
        ended="" if running else run.ended,
        exit_code=run.exit_code,
        restarts=run.restarts,
        crashes=run.crashes,
        accelerator=run.accelerator,
        console=str(machine.console),
        problem=run.problem,
        recipe=run.recipe,
        because=run.because,
    )


def _readable_start(metadata: str) -> Start | None:
    try:
        return start_of(ElementTree.fromstring(metadata).text or "")
    except (ElementTree.ParseError, AttributeError, ValueError, KeyError, TypeError):
        return None
