"""What there is of guests.

Guests are transient domains: libvirt knows what runs, the node's disk (`zos.drivers.guestrecords`) what there is. A guest that
runs carries what it was started with in its metadata, so any agent can tell what it is, whatever was lost.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

import libvirt

from zos.drivers import diskfull, shares
from zos.drivers.domainrun import Machine, Run
from zos.drivers.domainxml import NAMESPACE, Start, item_of_xml, start_of
from zos.drivers.guestrecords import Records, told
from zos.drivers.hypervisor import Hypervisor, gone
from zos.drivers.virtiofsd import Watched
from zos.plan.diff import Observed
from zos.plan.facts import DomainFact
from zos.plan.items import Domain


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


class GuestLook:
    """Everything here blocks, and is called in a thread of its own (`Hypervisor.call`). It raises libvirtError and OSError."""

    def __init__(self, hypervisor: Hypervisor, state: Path, records: Records) -> None:
        self._hypervisor, self._state, self._records = hypervisor, state, records

    def look(self, wanted: Mapping[str, Domain]) -> Look:
        recorded = {machine: machine.run() for machine in self._records.known()}
        running = self.running()
        observed: dict[str, Observed] = {}
        facts: dict[str, DomainFact] = {}
        images: set[str] = set()
        for machine, before in recorded.items():
            card = machine.card()
            if card is None or card.name in running:
                continue
            run = self._records.settled(machine, before)
            item = dataclasses.replace(card, running=False)
            observed[card.key] = Observed(card.key, item, card.owner, origin=Domain.origin_of(card.uuid))
            facts[card.name] = dataclasses.replace(_fact(run, machine, running=False), image=card.boot.image)
            images.add(card.boot.image)
        for name, asked in wanted.items():  # one whose card is lost: how it ended is still known
            machine = self._records.machine(asked.uuid)
            if name not in facts and name not in running and machine.run().over and machine.run().started_at is not None:
                facts[name] = _fact(machine.run(), machine, running=False)
        for name, seen in running.items():
            key = f"domain/{name}"
            machine = self._records.machine(seen.uuid)
            run = self._records.running(machine, seen.item, seen.start)
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
        return self.running().get(name)

    def runs_as(self, seen: Seen, now: Domain) -> bool:
        """Whether a guest that runs may go on: no restart was asked for since it was started."""
        return _same_run(self._started_as(seen, self._records.machine(seen.uuid)), now)

    def running(self) -> dict[str, Seen]:
        """All that run, by name."""
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

    def user_of(self, path: Path) -> str | None:
        """The guest that runs with a disk."""
        for name, seen in self.running().items():
            for disk in seen.item.all_disks:
                if self._state / "disks" / f"{disk.disk}.raw" == path:
                    return name
        return None

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


def _readable_start(metadata: str) -> Start | None:
    try:
        return start_of(ElementTree.fromstring(metadata).text or "")
    except (ElementTree.ParseError, AttributeError, ValueError, KeyError, TypeError):
        return None
