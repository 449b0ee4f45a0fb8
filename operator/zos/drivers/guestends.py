"""How guests are ended. One that has switched itself off is left to libvirt, which tells of such an end by another word than of
one that was brought about."""

from __future__ import annotations

import asyncio
import contextlib
import time

import libvirt

from zos.drivers import DriverError
from zos.drivers.guestrecords import Records
from zos.drivers.guests import Guests
from zos.drivers.hypervisor import Hypervisor

#: Seconds between two presses of a guest's power button, which a booting one overlooks.
_PRESS_AGAIN = 3.0
#: Seconds in which libvirt has ended the QEMU of a guest that has switched itself off.
_GOES_OFF = 10.0


class GuestEnds:
    def __init__(self, hypervisor: Hypervisor, guests: Guests, records: Records, goes_off: float = _GOES_OFF) -> None:
        self._hypervisor, self._guests, self._records = hypervisor, guests, records
        self._goes_off = goes_off
        self._ended: dict[str, asyncio.Event] = {}

    def heard(self, name: str, event: int) -> None:
        """libvirt's word of a guest's life (a ``VIR_DOMAIN_EVENT_…``)."""
        if event == libvirt.VIR_DOMAIN_EVENT_STOPPED and name in self._ended:
            self._ended[name].set()

    async def stop(self, name: str, uuid: str, seconds: float) -> None:
        """Power button, time to react, power off. Raises DriverError."""
        machine = self._records.machine(uuid)
        ended = self._ended.setdefault(name, asyncio.Event())
        ended.clear()
        await self._hypervisor.call(self._records.stopping, machine)
        deadline = time.monotonic() + seconds
        try:
            while (left := deadline - time.monotonic()) > 0:
                if not await self._hypervisor.call(self._guests.press, name, uuid, machine):
                    break
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(ended.wait(), min(_PRESS_AGAIN, left))
                    break
            await self._hypervisor.call(self._guests.destroy, name, uuid)
        finally:
            self._ended.pop(name, None)
        await self._hypervisor.call(self._records.settled, machine)

    async def cut_off(self, name: str, uuid: str) -> None:
        """One that has lost a share, the virtiofsd of which has ended: who touches it hangs for ever, while libvirt says that
        the guest runs. But a guest's own end ends its virtiofsds as well."""
        with contextlib.suppress(DriverError):  # the next look finds it again
            going = await self._hypervisor.call(self._guests.going_off, name, uuid)
            if going is not None:
                await asyncio.sleep(self._goes_off)
                if await self._hypervisor.call(self._guests.going_off, name, uuid) != going:
                    return
            await self._hypervisor.call(self._guests.destroy, name, uuid)
