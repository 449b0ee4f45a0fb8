"""What is done to a guest that goes off by itself meanwhile: nothing, or libvirt would tell of another end than it had."""

from __future__ import annotations

import asyncio
from pathlib import Path

import libvirt
import pytest

from zos.drivers.guestends import GuestEnds
from zos.drivers.guestlook import GuestLook
from zos.drivers.guestrecords import Records
from zos.drivers.guests import Guests
from zos.drivers.hypervisor import Hypervisor

UUID = "00000000-0000-0000-0000-000000000001"


class Guest:
    """As libvirt tells of a guest: ``state`` as it is now, in run ``number``."""

    def __init__(self, state: int = libvirt.VIR_DOMAIN_RUNNING) -> None:
        self.now, self.number = state, 7
        self.destroyed = 0
        self.asked = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def UUIDString(self) -> str:
        return UUID

    def ID(self) -> int:
        return self.number

    def state(self) -> tuple[int, int]:
        told = self.now, 0
        self._loop.call_soon_threadsafe(self.asked.set)
        return told

    def destroy(self) -> None:
        self.destroyed += 1
        self.now = libvirt.VIR_DOMAIN_SHUTOFF

    def shutdownFlags(self, _: int) -> None:
        runs = self.now == libvirt.VIR_DOMAIN_RUNNING
        self._loop.call_soon_threadsafe(self.asked.set)
        if not runs:
            error = libvirt.libvirtError("Requested operation is not valid: domain is not running")
            error.err = (libvirt.VIR_ERR_OPERATION_INVALID,)
            raise error


@pytest.fixture
async def guest(monkeypatch: pytest.MonkeyPatch) -> Guest:
    made = Guest()
    monkeypatch.setattr(Hypervisor, "find", lambda *_: made if made.now != libvirt.VIR_DOMAIN_SHUTOFF else None)
    return made


@pytest.fixture
def ends(guest: Guest, tmp_path: Path) -> GuestEnds:
    hypervisor = Hypervisor("test:///nowhere", lambda *_: None, lambda *_: None)
    records = Records(tmp_path / "machines", tmp_path, "boot")
    records.machine(UUID).directory.mkdir()
    looks = GuestLook(hypervisor, tmp_path, records)
    guests = Guests(hypervisor, looks, records, state=tmp_path, guest=tmp_path, launcher=tmp_path, logs=tmp_path)
    return GuestEnds(hypervisor, guests, records, goes_off=0.2)


async def test_one_whose_share_is_lost_is_ended(guest: Guest, ends: GuestEnds) -> None:
    await ends.cut_off("one", UUID)
    assert guest.destroyed == 1


@pytest.mark.parametrize("then", ["gone", "runs again", "goes off again"])
async def test_one_that_has_switched_itself_off_is_left_to_libvirt(guest: Guest, ends: GuestEnds, then: str) -> None:
    guest.now = libvirt.VIR_DOMAIN_SHUTDOWN

    cutting = asyncio.create_task(ends.cut_off("one", UUID))
    await asyncio.wait_for(guest.asked.wait(), 10)
    guest.number += 1
    guest.now = {
        "gone": libvirt.VIR_DOMAIN_SHUTOFF,
        "runs again": libvirt.VIR_DOMAIN_RUNNING,
        "goes off again": libvirt.VIR_DOMAIN_SHUTDOWN,
    }[then]
    await cutting
    assert guest.destroyed == 0


async def test_one_that_libvirt_does_not_get_ended_is_ended(guest: Guest, ends: GuestEnds) -> None:
    guest.now = libvirt.VIR_DOMAIN_SHUTDOWN
    await ends.cut_off("one", UUID)
    assert guest.destroyed == 1


async def test_one_that_goes_off_while_it_is_asked_to_is_waited_for(guest: Guest, ends: GuestEnds) -> None:
    guest.now = libvirt.VIR_DOMAIN_SHUTDOWN
    stopping = asyncio.create_task(ends.stop("one", UUID, 60))
    await asyncio.wait_for(guest.asked.wait(), 10)
    guest.now = libvirt.VIR_DOMAIN_SHUTOFF
    ends.heard("one", libvirt.VIR_DOMAIN_EVENT_STOPPED)
    await asyncio.wait_for(stopping, 10)
    assert guest.destroyed == 0
