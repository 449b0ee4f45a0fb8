"""The single steps of what is done to a guest.

Guests are transient domains: what one is comes with its start, and it is gone when it ends.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import libvirt

from zos.drivers import DriverError, diskfull, kernels, seed, shares, systemcard, unused
from zos.drivers.domainrun import SECTOR, Machine
from zos.drivers.domainxml import Places, Start, domain_xml
from zos.drivers.guestlook import GuestLook
from zos.drivers.guestrecords import Records
from zos.drivers.gueststats import GuestUse, use_of
from zos.drivers.hypervisor import Hypervisor, gone
from zos.drivers.imagecache import has_tree
from zos.plan.items import ContainerBoot

#: What is asked of guests' use of their node.
_COUNTERS = (
    libvirt.VIR_DOMAIN_STATS_CPU_TOTAL
    | libvirt.VIR_DOMAIN_STATS_BALLOON
    | libvirt.VIR_DOMAIN_STATS_INTERFACE
    | libvirt.VIR_DOMAIN_STATS_BLOCK
)


class Guests:
    """Everything here blocks, and is called in a thread of its own (`Hypervisor.call`). It raises libvirtError, OSError and
    DriverError."""

    def __init__(
        self,
        hypervisor: Hypervisor,
        looks: GuestLook,
        records: Records,
        *,
        state: Path,
        guest: Path,
        launcher: Path,
        logs: Path,
    ) -> None:
        """``guest`` is a directory made by guestbuild, ``launcher`` virtiofsd's, ``logs`` libvirt's directory of them."""
        self._hypervisor, self._looks, self._records = hypervisor, looks, records
        self._state, self._guest, self._launcher, self._logs = state, guest, launcher, logs

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
        run = self._records.begin(machine, start, waited)
        for disk in start.item.all_disks:
            unused.end(places.disk(disk.disk))
            systemcard.given(places.disk(disk.disk))
        began = time.monotonic()
        self._hypervisor.connection().createXML(domain_xml(start, places), 0)
        self._records.begun(machine, run, time.monotonic() - began)

    def press(self, name: str, uuid: str, machine: Machine) -> bool:
        """False when there is nobody to press for. One that goes off just then is waited for like others."""
        domain = self._running(name, uuid)
        if domain is None:
            return False
        if machine.status() != "stopping":
            try:
                domain.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)
            except libvirt.libvirtError as error:
                if not gone(error):
                    raise
        return True

    def going_off(self, name: str, uuid: str) -> int | None:
        """libvirt's number of a run whose guest has switched itself off, while libvirt is still at ending its QEMU; None: it is
        not so. Who destroys it then takes from it that it has ended well."""
        domain = self._running(name, uuid)
        if domain is None:
            return None
        try:
            run, (state, _) = int(domain.ID()), domain.state()
            return run if state == libvirt.VIR_DOMAIN_SHUTDOWN else None
        except libvirt.libvirtError as error:
            if not gone(error):
                raise
            return None

    def destroy(self, name: str, uuid: str) -> None:
        """At once. Gone already: fine."""
        domain = self._running(name, uuid)
        if domain is None:
            return
        try:
            domain.destroy()
        except libvirt.libvirtError as error:
            if not gone(error):
                raise

    def erase(self, name: str, uuid: str | None) -> None:
        """What is left of it on the node's disk, but for its disks. ``uuid``, where it ran."""
        for machine in self._records.known():
            card = machine.card()
            if (card is not None and card.name == name) or machine.directory.name == uuid:
                self._records.forget(machine)
        for pattern in (f"{name}.log*", f"{name}-fs*-virtiofsd.log*"):
            for log in self._logs.glob(pattern):
                log.unlink(missing_ok=True)

    def resize_disk(self, path: Path, size: int) -> bool:
        """False where no guest runs with it."""
        name = self._looks.user_of(path)
        domain: Any = self._hypervisor.find(name) if name is not None else None
        if domain is None:
            return False
        domain.blockResize(str(path), size, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)
        return True

    def resume(self, name: str, uuid: str) -> None:
        """One that is paused as a disk had no room; else nothing."""
        domain = self._running(name, uuid)
        if domain is None:
            return
        try:
            if diskfull.full(domain):
                domain.resume()
        except libvirt.libvirtError as error:
            if not gone(error):
                raise

    def note_fault(self, name: str, path: Path) -> None:
        """A disk of one could not be read or written."""
        seen = self._looks.seen(name)
        if seen is not None and path.parent == self._state / "disks":
            self._records.faulty(self._records.machine(seen.uuid), path.stem)

    def destroy_ended(self, name: str, uuid: str) -> None:
        """One that has said how it ended, and is still there."""
        if self._records.machine(uuid).said_all():  # else it was started again meanwhile
            self.destroy(name, uuid)

    def knock(self, name: str, machine: Machine) -> None:
        """Makes a guest look at its shares again: its init hears that a disk grows, and of this one it means that."""
        domain = self._running(name, machine.directory.name)
        if domain is None:
            return
        path = str(machine.status_file)
        try:
            size, _, _ = domain.blockInfo(path)
            domain.blockResize(path, size + SECTOR, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)
        except libvirt.libvirtError as error:
            if not gone(error):
                raise

    def _running(self, name: str, uuid: str) -> Any:
        """The guest of that name, None where there is none or it is another."""
        domain = self._hypervisor.find(name)
        return domain if domain is not None and domain.UUIDString() == uuid else None

    def use(self) -> dict[str, GuestUse]:
        """What those that run have used, by name."""
        active = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE
        counted = self._hypervisor.connection().getAllDomainStats(_COUNTERS, active)
        return {domain.name(): use_of(stats) for domain, stats in counted}

    def look_at_qemu(self, kind: str) -> None:
        """So that libvirt has done so before somebody waits for it."""
        self._hypervisor.connection().getDomainCapabilities(None, "x86_64", "q35", kind)
