"""What the machines of this node use, once a minute, for who asks with kubectl: the heartbeat takes it along."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from zos.api.usage import MachineUsage, told
from zos.drivers import DriverError
from zos.drivers.gueststats import GuestUse
from zos.plan.facts import DomainFact

#: Seconds between two looks, and for libvirt to answer.
PERIOD = 60.0
_PATIENCE = 5.0
#: What is less than this is nothing, and no change; nor is what is less than an eighth.
_FLOORS = MachineUsage(cpu_millicores=30, memory=8 << 20, disk_read=4096, disk_written=4096, received=1024, sent=1024)
_NOTICED = 1 / 8


@dataclass(frozen=True)
class _Look:
    """Of one run of a guest."""

    at: float
    started_at: float | None
    use: GuestUse


class Usage:
    """``look`` gives what guests that run have used, ``facts`` what is known of them, both by their names; ``clock`` gives
    seconds."""

    def __init__(
        self,
        look: Callable[[], Awaitable[Mapping[str, GuestUse]]],
        facts: Callable[[], Mapping[str, DomainFact]],
        clock: Callable[[], float],
    ) -> None:
        self._look = look
        self._facts = facts
        self._clock = clock
        self._before: dict[str, _Look] = {}
        self._machines: dict[str, MachineUsage] = {}

    def text(self) -> str:
        """As the Lease has it."""
        return told(self._machines)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self.sample()
            await asyncio.sleep(PERIOD)

    async def sample(self) -> None:
        """Where libvirt does not answer, what was told last stays."""
        try:
            used = await asyncio.wait_for(self._look(), _PATIENCE)
        except (DriverError, TimeoutError):
            return
        now, seen, machines = self._clock(), {}, {}
        for name, fact in self._facts().items():
            if not fact.running or fact.runs is None or name not in used:
                continue
            look, before, uid = _Look(now, fact.started_at, used[name]), self._before.get(name), fact.runs.uuid
            seen[name] = look
            if before is not None and before.started_at == look.started_at and look.at > before.at:
                machines[uid] = noticed(self._machines.get(uid), _between(before, look))
        self._before, self._machines = seen, machines


def _between(before: _Look, now: _Look) -> MachineUsage:
    seconds = now.at - before.at

    def rate(field: str, each: float = 1.0) -> int:
        return max(0, int((getattr(now.use, field) - getattr(before.use, field)) * each / seconds))

    return MachineUsage(
        cpu_millicores=rate("cpu_seconds", 1000.0),
        memory=now.use.memory,
        disk_read=rate("disk_read_bytes"),
        disk_written=rate("disk_written_bytes"),
        received=rate("received_bytes"),
        sent=rate("sent_bytes"),
    )


def noticed(before: MachineUsage | None, now: MachineUsage) -> MachineUsage:
    """What is told now: as before, where nothing has changed by much, else each number to two digits."""
    rounded = MachineUsage(**{field: _rounded(getattr(now, field), getattr(_FLOORS, field)) for field in _NAMES})
    if before is None:
        return rounded
    for field in _NAMES:
        was, is_ = getattr(before, field), getattr(now, field)
        if abs(is_ - was) > max(getattr(_FLOORS, field), _NOTICED * max(was, is_)):
            return rounded
    return before


def _rounded(number: int, floor: int) -> int:
    if number < floor:
        return 0
    step: int = 10 ** max(0, len(str(number)) - 2)
    return int(number / step + 0.5) * step


_NAMES = tuple(MachineUsage.model_fields)
