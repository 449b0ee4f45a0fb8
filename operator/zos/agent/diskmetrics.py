"""How much of their disks machines use, exactly, as metrics under the names of the disks' objects. (One in quarantine
may have been for an object of the same name: only the uid is another.)"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from zos.drivers.diskuse import Usage

_LABELS = ("kind", "namespace", "name", "uid")


class DiskMetrics(Collector):
    """``look`` blocks. It is asked by `scrape`, before somebody asks for metrics; `collect` tells what was seen then."""

    def __init__(self, look: Callable[[], Iterable[Usage]]) -> None:
        self._look = look
        self._seen: tuple[Usage, ...] = ()

    async def scrape(self) -> None:
        self._seen = await asyncio.to_thread(lambda: tuple(self._look()))

    def collect(self) -> Iterable[Metric]:
        used = GaugeMetricFamily("zos_disk_used_bytes", "What a disk's file system says it uses.", labels=_LABELS)
        size = GaugeMetricFamily("zos_disk_size_bytes", "Size of a disk whose file system says what it uses.", labels=_LABELS)
        for one in self._seen:
            labels = (str(one.owner.kind), one.owner.namespace, one.owner.name, one.owner.uid)
            used.add_metric(labels, one.used)
            size.add_metric(labels, one.size)
        return (used, size)
