"""What machines have used of their node, as metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from zos.agent import guestmetrics
from zos.agent.guestmetrics import GuestMetrics
from zos.api.nodeworkload import Owner
from zos.drivers import DriverError
from zos.drivers.gueststats import GuestUse, use_of
from zos.plan.facts import DomainFact
from zos.plan.items import ContainerBoot, Domain, GuestDisk

STATS = {
    "cpu.time": 2_500_000_000,
    "cpu.user": 1,
    "balloon.rss": 4,
    "net.count": 2,
    "net.0.name": "t-1",
    "net.0.rx.bytes": 1,
    "net.0.tx.bytes": 2,
    "net.0.rx.pkts": 3,
    "net.1.rx.bytes": 10,
    "net.1.tx.pkts": 40,
    "block.count": 1,
    "block.0.rd.bytes": 512,
    "block.0.wr.bytes": 1024,
    "block.0.rd.reqs": 5,
    "block.0.wr.reqs": 6,
}
RUNS = Domain(
    owner="w-1",
    name="zos-a",
    uuid="uid-a",
    cpu=1,
    memory=1,
    boot=ContainerBoot(image="i", root=GuestDisk(disk="root-a", serial="r"), config="c", config_digest="d"),
    disks=(),
    nics=(),
    running=True,
)
FACT = DomainFact(running=True, restarts=3, started_at=100.0, runs=RUNS, took=(("boot", 2.5),))
OWNER = Owner(kind="ZMachine", namespace="team", name="vm", uid="uid-a")


def test_it_is_what_libvirt_counts_all_devices_together() -> None:
    assert use_of(STATS) == GuestUse(
        cpu_seconds=2.5,
        memory=4096,
        disk_read_bytes=512,
        disk_written_bytes=1024,
        disk_reads=5,
        disk_writes=6,
        received_bytes=11,
        sent_bytes=2,
        received_packets=3,
        sent_packets=40,
    )
    assert use_of({}) == GuestUse()


class Node:
    def __init__(self) -> None:
        self.used: Mapping[str, GuestUse] | Exception = {"zos-a": use_of(STATS), "zos-of-nobody": GuestUse()}
        self.facts: dict[str, DomainFact] = {"zos-a": FACT, "zos-b": replace(FACT, running=False, runs=None)}
        self.registry = CollectorRegistry()
        self.metrics = GuestMetrics(self.look, lambda: self.facts, {"w-1": OWNER}.get)
        self.registry.register(self.metrics)

    async def look(self) -> Mapping[str, GuestUse]:
        if isinstance(self.used, TimeoutError):
            await asyncio.sleep(60)
        if isinstance(self.used, Exception):
            raise self.used
        return self.used

    async def told(self) -> dict[str, float]:
        await self.metrics.scrape()
        lines = [line for line in generate_latest(self.registry).decode().splitlines() if not line.startswith("#")]
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if "_created" not in line}


LABELS = '{name="vm",namespace="team",uid="uid-a"}'


async def test_those_that_run_are_told_under_the_names_of_their_objects() -> None:
    told = await Node().told()
    assert told["zos_machine_cpu_seconds_total" + LABELS] == 2.5
    assert told["zos_machine_memory_resident_bytes" + LABELS] == 4096
    assert told["zos_machine_network_received_bytes_total" + LABELS] == 11
    assert told["zos_machine_restarts_total" + LABELS] == 3
    assert told["zos_machine_started_seconds" + LABELS] == 100
    assert told["zos_machine_boot_seconds" + LABELS.replace(",uid", ',phase="boot",uid')] == 2.5
    assert all(name.partition("{")[2].replace('phase="boot",', "") == LABELS[1:] for name in told)


async def test_where_libvirt_does_not_answer_there_is_no_use_and_the_rest_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guestmetrics, "_PATIENCE", 0.01)
    node = Node()

    for wrong in (DriverError("libvirt: no"), TimeoutError()):
        node.used = wrong
        told = await node.told()
        assert told["zos_machine_restarts_total" + LABELS] == 3
        assert not [name for name in told if "cpu_seconds" in name]


async def test_who_is_not_known_has_none() -> None:
    node = Node()
    node.facts["zos-a"] = replace(FACT, runs=replace(RUNS, owner="w-2"))
    assert await node.told() == {}
