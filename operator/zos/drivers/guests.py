"""What there is of guests, and the single steps of what is done to one.

Guests are transient domains: libvirt knows what runs, the node's disk (`zos.drivers.domainrun`) what there is. A guest that
runs carries what it was started with in its metadata, so any agent can tell what it is, whatever was lost.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

import libvirt

from zos.drivers import DriverError, diskfull, kernels, seed, shares, systemcard, unused
from zos.drivers.domainlog import powered_off
from zos.drivers.domainrun import SECTOR, Machine, Run
from zos.drivers.domainxml import NAMESPACE, Places, Start, domain_xml, item_of_xml, start_of
from zos.drivers.gueststats import GuestUse, use_of
from zos.drivers.hypervisor import Hypervisor, gone
from zos.drivers.imagecache import has_tree
from zos.drivers.virtiofsd import Watched
from zos.plan.diff import Observed
from zos.plan.facts import DomainFact
from zos.plan.items import ContainerBoot, Domain

#: What is asked of guests' use of their node.
_COUNTERS = (
    libvirt.VIR_DOMAIN_STATS_CPU_TOTAL
    | libvirt.VIR_DOMAIN_STATS_BALLOON
    | libvirt.VIR_DOMAIN_STATS_INTERFACE
    | libvirt.VIR_DOMAIN_STATS_BLOCK
)


@dataclasses.dataclass(frozen=True)
class Seen:
    """A guest of ours that exists: ``item`` is what it runs with; ``start`` is None where its metadata can't be read, and
    ``item`` then what can be told otherwise; ``up``: not just coming or going. ``full``: files of the disks that it is
    paused for."""

    uuid: str
    item: Domain
    start: Start | None
    up: bool
    full: tuple[Path, ...] = ()


@dataclasses.dataclass(frozen=True)
class Look:
    """What there is of guests, what is known of them by name, the digests of images that they stand on or will be started from,
    those that run, and those that are paused as a disk had no room."""

    observed: Mapping[str, Observed]
    facts: Mapping[str, DomainFact]
    images: frozenset[str]
    up: tuple[Watched, ...]
    full: tuple[diskfull.Full, ...]


class Guests:
    """Everything here blocks, and is called in a thread of its own (`Hypervisor.call`). It raises libvirtError, OSError and
    DriverError."""

    def __init__(self, hypervisor: Hypervisor, state: Path, guest: Path, launcher: Path, logs: Path, boot: str) -> None:
        """``launcher`` is virtiofsd's, ``logs`` libvirt's directory of them, ``boot`` the name of this boot of the node."""
        self._hypervisor = hypervisor
        self._state = state
        self._guest = guest
        self._launcher = launcher
        self._libvirt_logs = logs
        self._boot = boot
        self._machines = state / "machines"
        self._machines.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._records = threading.Lock()

    # --- looking

    def machine(self, uuid: str) -> Machine:
        """What is kept of a guest on the node's disk, if there is anything."""
        return Machine(self._machines / uuid)

    def look(self, wanted: Mapping[str, Domain]) -> Look:
        recorded = {machine: machine.run() for machine in self._known()}
        running = self._running()
        observed: dict[str, Observed] = {}
        facts: dict[str, DomainFact] = {}
        images: set[str] = set()
        for machine, before in recorded.items():
            card = machine.card()
            if card is None or card.name in running:
                continue
            with self._records:
                run = self._settle(machine, before)
            item = dataclasses.replace(card, running=False)
            observed[card.key] = Observed(card.key, item, card.owner, origin=Domain.origin_of(card.uuid))
            facts[card.name] = dataclasses.replace(_fact(run, machine, running=False), image=card.boot.image)
            images.add(card.boot.image)
        for name, asked in wanted.items():  # one whose card is lost: how it ended is still known
            machine = self.machine(asked.uuid)
            if name not in facts and name not in running and machine.run().over and machine.run().started_at is not None:
                facts[name] = _fact(machine.run(), machine, running=False)
        for name, seen in running.items():
            key = f"domain/{name}"
            machine = self.machine(seen.uuid)
            with self._records:
                run = self._adopt(machine, seen.start) if seen.start is not None else machine.run()
                run = _heard(machine, run, seen.item)
            seen = dataclasses.replace(seen, item=self._with_shares(seen, machine))
            was, now = self._started_as(seen, machine), wanted.get(name)
            item = dataclasses.replace(seen.item, running=True)
            if now is not None and now.running and now.uuid == seen.item.uuid and _same_run(was, now):
                item = dataclasses.replace(now, runs_on=seen.item.boot.image)
            observed[key] = Observed(key, item, item.owner, origin=Domain.origin_of(seen.uuid))
            boot = seen.item.boot
            facts[name] = dataclasses.replace(
                _fact(run, machine, running=True, tells=boot.TELLS),
                image=boot.image,
                runs=was,
                unreadable=seen.start is None,
                told="" if boot.TELLS else told(machine.status()),
                full=tuple(path.stem for path in seen.full),
            )
            images.add(boot.image)
        up = tuple(Watched(name, seen.uuid, shares.count(seen.item)) for name, seen in running.items() if seen.up)
        full = tuple(diskfull.Full(name, seen.uuid, seen.full) for name, seen in running.items() if seen.full)
        return Look(observed, facts, frozenset(images - {""}), up, full)

    def seen(self, name: str) -> Seen | None:
        """The guest of that name that runs."""
        return self._running().get(name)

    def runs_as(self, seen: Seen, now: Domain) -> bool:
        """Whether a guest that runs may go on: no restart was asked for since it was started."""
        return _same_run(self._started_as(seen, self.machine(seen.uuid)), now)

    def _running(self) -> dict[str, Seen]:
        found: dict[str, Seen] = {}
        for domain in self._hypervisor.connection().listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE):
            try:
                text = domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, NAMESPACE)
                up = domain.state()[0] == libvirt.VIR_DOMAIN_RUNNING
                full = () if up else diskfull.full(domain)
                start = _readable_start(text)
                item = start.item if start is not None else item_of_xml(domain.XMLDesc(), self._state)
            except libvirt.libvirtError as error:
                if gone(error) or error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN_METADATA:
                    continue  # somebody else's
                raise
            found[domain.name()] = Seen(domain.UUIDString(), item, start, up, full)
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

    def _settle(self, machine: Machine, before: Run | None = None) -> Run:
        """The record of a guest that does not run; notes its end the first time it is missed. ``before``: the record from
        before it was looked who runs. What was begun since is missed by nobody."""
        run = machine.run()
        if not run.over and (before is None or run.started_at == before.started_at):
            run = run.finished(self._last_word(machine, run), time.time(), self._boot)
            machine.write_run(run)
        return run

    def _last_word(self, machine: Machine, run: Run) -> str:
        """Of the guest's init. A virtual machine has none of ours, and to an image's own ours makes way: one that switched
        itself off has ended well."""
        card = machine.card()
        if card is None or machine.said_all() or not card.boot.silent:
            return machine.status()
        off = powered_off(self._libvirt_logs / f"{card.name}.log", run.started_at or 0.0)
        return "exited 0" if off else ""

    def _adopt(self, machine: Machine, start: Start) -> Run:
        """The record of a guest that runs, made up for where the agent that started it did not come to write it."""
        run = machine.run()
        if run.started_at != start.started_at or run.ended:
            run = run.begun(start)
            machine.write_card(start.item)
            machine.write_run(run)
        return run

    # --- doing

    def start(self, machine: Machine, start: Start, waited: float = 0.0) -> None:
        """``waited``: seconds that it stood in line for this."""
        boot = start.item.boot
        kernel, initramfs = self._guest / "vmlinuz", self._guest / "initramfs"
        if isinstance(boot, ContainerBoot) and boot.kernel:
            kernel, initramfs = kernels.files(self._state / "images", boot.image, self._guest / kernels.INIT)
        places = Places(
            state=self._state, machine=machine.directory, kernel=kernel, initramfs=initramfs, virtiofsd=self._launcher
        )
        if isinstance(boot, ContainerBoot):
            if not has_tree(self._state / "images", boot.image):
                raise DriverError(f"image {boot.image} is not on this node any more")
        else:
            seed.make(self._state / boot.config, places.seed)
        for share in start.item.shares:
            shares.check(self._state, share)
        with self._records:
            run = dataclasses.replace(self._settle(machine).begun(start), waited=waited)
            machine.clear_status()
        for disk in start.item.all_disks:
            unused.end(places.disk(disk.disk))
            systemcard.given(places.disk(disk.disk))
        began = time.monotonic()
        self._hypervisor.connection().createXML(domain_xml(start, places), 0)
        with self._records:
            machine.write_run(dataclasses.replace(run, launched=time.monotonic() - began))

    def note_stopping(self, machine: Machine) -> None:
        """Its end is nobody's crash from now on."""
        with self._records:
            run = machine.run()
            if not run.over:
                machine.write_run(dataclasses.replace(run, stopping=True))

    def press(self, name: str, uuid: str, machine: Machine) -> bool:
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

    def destroy(self, name: str, uuid: str) -> None:
        """At once. Gone already: fine."""
        domain = self._hypervisor.find(name)
        if domain is None or domain.UUIDString() != uuid:
            return
        try:
            domain.destroy()
        except libvirt.libvirtError as error:
            if not gone(error):
                raise

    def settle_stopped(self, machine: Machine) -> None:
        """How it ended is written down."""
        with self._records:
            self._settle(machine)

    def erase(self, name: str, uuid: str | None) -> None:
        """What is left of it on the node's disk, but for its disks. ``uuid``, where it ran."""
        for machine in self._known():
            card = machine.card()
            if (card is not None and card.name == name) or machine.directory.name == uuid:
                machine.remove()
        for pattern in (f"{name}.log*", f"{name}-fs*-virtiofsd.log*"):
            for log in self._libvirt_logs.glob(pattern):
                log.unlink(missing_ok=True)

    def resize_disk(self, path: Path, size: int) -> bool:
        """False where no guest runs with it."""
        name = self.user_of(path)
        domain: Any = self._hypervisor.find(name) if name is not None else None
        if domain is None:
            return False
        domain.blockResize(str(path), size, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)
        return True

    def user_of(self, path: Path) -> str | None:
        """The guest that runs with a disk."""
        for name, seen in self._running().items():
            for disk in seen.item.all_disks:
                if self._state / "disks" / f"{disk.disk}.raw" == path:
                    return name
        return None

    def resume(self, name: str, uuid: str) -> None:
        """One that is paused as a disk had no room; else nothing."""
        domain: Any = self._hypervisor.find(name)
        if domain is None or domain.UUIDString() != uuid:
            return
        try:
            if diskfull.full(domain):
                domain.resume()
        except libvirt.libvirtError as error:
            if not gone(error):
                raise

    def note_fault(self, name: str, path: Path) -> None:
        """A disk could not be read or written. That is remembered until the guest is started anew."""
        seen = self.seen(name)
        if seen is None or path.parent != self._state / "disks":
            return
        machine = self.machine(seen.uuid)
        with self._records:
            run = machine.run()
            if path.stem not in run.faults:
                machine.write_run(dataclasses.replace(run, faults=(*run.faults, path.stem)))

    def destroy_ended(self, name: str, uuid: str) -> None:
        """One that has said how it ended, and is still there."""
        if self.machine(uuid).said_all():  # else it was started again meanwhile
            self.destroy(name, uuid)

    def knock(self, name: str, machine: Machine) -> None:
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

    def use(self) -> dict[str, GuestUse]:
        """What those that run have used, by name."""
        active = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE
        counted = self._hypervisor.connection().getAllDomainStats(_COUNTERS, active)
        return {domain.name(): use_of(stats) for domain, stats in counted}

    def look_at_qemu(self, kind: str) -> None:
        """So that libvirt has done so before somebody waits for it."""
        self._hypervisor.connection().getDomainCapabilities(None, "x86_64", "q35", kind)

    def _known(self) -> list[Machine]:
        """Guests there is anything of. That somebody deleted the directory of them all is no reason to see nothing any more."""
        return [Machine(directory) for directory in self._machines.glob("*")]


def _same_run(was: Domain | None, now: Domain) -> bool:
    """Whether no restart was asked for since the guest was started. Where that is not known nothing is restarted."""
    return was is None or was.incarnation == now.incarnation


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
        faults=run.faults if running else (),
        took=run.took if running else (),
    )


def _heard(machine: Machine, run: Run, item: Domain) -> Run:
    """Takes down when its system was up, and when that was done: by when it said so, whenever somebody looks."""
    status = machine.status()
    up, done = ("running", "") if item.boot.TELLS else ("booting", "ready")
    now = run
    if run.booted_at is None and status == up:
        now = dataclasses.replace(now, booted_at=machine.said_at())
    if run.ready_at is None and done and status == done:
        now = dataclasses.replace(now, ready_at=machine.said_at())
    if now != run:
        machine.write_run(now)
    return now


def told(status: str) -> Literal["", "booting", "ready", "unready"]:
    """What a virtual machine's cloud-init says: no other word of its."""
    match status:
        case "booting" | "ready" | "unready":
            return status
    return ""


def _readable_start(metadata: str) -> Start | None:
    try:
        return start_of(ElementTree.fromstring(metadata).text or "")
    except (ElementTree.ParseError, AttributeError, ValueError, KeyError, TypeError):
        return None
