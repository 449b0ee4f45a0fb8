"""What machines have used of their node, as metrics under the names of their objects."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from zos.api.nodeworkload import Owner
from zos.drivers import DriverError
from zos.drivers.gueststats import GuestUse
from zos.plan.facts import DomainFact

_LABELS = ("namespace", "name", "uid")
#: Seconds for libvirt to answer: a scrape does not wait for one that hangs.
_PATIENCE = 3.0
_COUNTERS = {
    "cpu_seconds": ("zos_machine_cpu_seconds", "Processor time that its guest has used since it was started."),
    "disk_read_bytes": ("zos_machine_disk_read_bytes", "Bytes that its guest has read from its disks."),
    "disk_written_bytes": ("zos_machine_disk_written_bytes", "Bytes that its guest has written to its disks."),
    "disk_reads": ("zos_machine_disk_reads", "Requests to read from its disks."),
    "disk_writes": ("zos_machine_disk_writes", "Requests to write to its disks."),
    "received_bytes": ("zos_machine_network_received_bytes", "Bytes that its guest has received."),
    "sent_bytes": ("zos_machine_network_sent_bytes", "Bytes that its guest has sent."),
    "received_packets": ("zos_machine_network_received_packets", "Packets that its guest has received."),
    "sent_packets": ("zos_machine_network_sent_packets", "Packets that its guest has sent."),
}


class GuestMetrics(Collector):
    """``look`` gives what guests that run have used, ``facts`` what is known of them, both by their names; ``owner_of`` whose a
    workload is by its name. Guests of which nobody knows any more whose they are have no metrics."""

    def __init__(
        self,
        look: Callable[[], Awaitable[Mapping[str, GuestUse]]],
        facts: Callable[[], Mapping[str, DomainFact]],
        owner_of: Callable[[str], Owner | None],
    ) -> None:
        self._look = look
        self._facts = facts
        self._owner_of = owner_of
        self._seen: Mapping[str, GuestUse] = {}

    async def scrape(self) -> None:
        """Before somebody asks for metrics; where libvirt does not answer there are none of use."""
        try:
            self._seen = await asyncio.wait_for(self._look(), _PATIENCE)
        except (DriverError, TimeoutError):
            self._seen = {}

    def collect(self) -> Iterable[Metric]:
        counters = {field: CounterMetricFamily(name, help_, labels=_LABELS) for field, (name, help_) in _COUNTERS.items()}
        memory = GaugeMetricFamily("zos_machine_memory_resident_bytes", "RAM that its guest's process has.", labels=_LABELS)
        restarts = CounterMetricFamily("zos_machine_restarts", "Starts after its guest ended by itself.", labels=_LABELS)
        started = GaugeMetricFamily("zos_machine_started_seconds", "When its guest was started, Unix time.", labels=_LABELS)
        took = GaugeMetricFamily(
            "zos_machine_boot_seconds",
            "Of its guest's start: queue (others were first), start (of its process), boot (until its entrypoint ran, or a "
            "virtual machine's cloud-init began), ready (until that was done).",
            labels=(*_LABELS, "phase"),
        )
        for name, fact in self._facts().items():
            owner = self._owner_of(fact.runs.owner) if fact.running and fact.runs is not None else None
            if owner is None:
                continue
            labels = (owner.namespace, owner.name, owner.uid)
            restarts.add_metric(labels, fact.restarts)
            started.add_metric(labels, fact.started_at or 0.0)
            for phase, seconds in fact.took:
                took.add_metric((*labels, phase), seconds)
            if (use := self._seen.get(name)) is not None:
                memory.add_metric(labels, use.memory)
                for field, family in counters.items():
                    family.add_metric(labels, getattr(use, field))
        return (*counters.values(), memory, restarts, started, took)
