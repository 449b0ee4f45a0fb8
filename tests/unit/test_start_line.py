"""Which guests may boot at once, and who is next."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from virtual import virtual
from zos.drivers.startline import StartLine
from zos.plan.facts import DomainFact
from zos.plan.items import DiskBoot, Domain, GuestDisk


class Bench:
    """``started`` are those that had their turn, in this order."""

    def __init__(self, limit: int, telling: float = 100.0, silent: float = 100.0) -> None:
        self.line = StartLine(limit, telling, silent)
        self.tells = True
        self.started: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def come(self, names: Iterable[str]) -> None:
        for name in names:
            self.tasks[name] = asyncio.create_task(self._start(name))
        await self.settled()

    async def _start(self, name: str) -> None:
        await self.line.enter(name)
        self.started.append(name)
        self.line.begun(name, 100.0, self.tells)

    async def settled(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    async def sees(self, name: str, fact: DomainFact) -> None:
        self.line.seen({name: fact})
        await self.settled()


UP = DomainFact(running=True, booted=True, started_at=100.0)


async def test_so_many_boot_at_once_and_the_first_that_came_is_next() -> None:
    bench = Bench(2)
    await bench.come("abcd")
    assert bench.started == ["a", "b"]
    assert bench.line.full
    await bench.sees("b", UP)
    assert bench.started == ["a", "b", "c"]
    await bench.sees("a", DomainFact(running=False, ended="crash", started_at=100.0))
    assert bench.started == ["a", "b", "c", "d"], "one that ended boots no more"
    bench.line.leave("c")
    assert not bench.line.full


@virtual
async def test_what_is_not_known_to_have_booted_keeps_its_place_for_a_while() -> None:
    bench = Bench(1, telling=0.05, silent=100.0)
    await bench.come("ab")
    for fact in (
        DomainFact(running=True, started_at=100.0),
        DomainFact(running=True, booted=True, started_at=99.0),  # a look from before its start
        DomainFact(running=False, ended="stopped", started_at=99.0),
    ):
        await bench.sees("a", fact)
    bench.line.seen({})
    assert bench.started == ["a"]
    await asyncio.sleep(0.1)
    assert bench.started == ["a", "b"], "it holds up nobody for ever"


@virtual
async def test_one_that_may_never_tell_is_not_waited_for_as_long() -> None:
    bench = Bench(1, telling=100.0, silent=0.05)
    bench.tells = False
    await bench.come("ab")
    assert bench.started == ["a"]
    await asyncio.sleep(0.1)
    assert bench.started == ["a", "b"]


async def test_a_virtual_machine_boots_until_its_cloud_init_is_at_work() -> None:
    boot = DiskBoot(root=GuestDisk(disk="d", serial="s"), config="c", config_digest="")
    runs = Domain(name="a", uuid="u", cpu=1, memory=1, boot=boot, disks=(), nics=(), running=True)
    bench = Bench(1)
    await bench.come("ab")
    await bench.sees("a", DomainFact(running=True, booted=True, started_at=100.0, runs=runs))
    assert bench.started == ["a"]
    await bench.sees("a", DomainFact(running=True, booted=True, started_at=100.0, runs=runs, told="booting"))
    assert bench.started == ["a", "b"]


async def test_who_goes_away_is_passed_over_and_takes_no_place_along() -> None:
    bench = Bench(1)
    await bench.come("abc")
    bench.tasks["b"].cancel()
    bench.line.leave("a")  # in the moment in which c gets its turn,
    bench.tasks["c"].cancel()  # nobody wants it any more
    await bench.settled()
    assert bench.started == ["a"]
    assert not bench.line.full
    await bench.come("d")
    assert bench.started == ["a", "d"]
    await bench.come("d")
    assert bench.started == ["a", "d", "d"], "one that is started again does not wait for itself"
    bench.line.close()
