"""What the controller counts, and what Prometheus is told of the grid when it asks."""

from __future__ import annotations

from collections import Counter as Count
from collections.abc import Callable, Iterable, Iterator
from functools import cache

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from zos.api.contract import Contract
from zos.api.farm import Farm
from zos.api.meta import Object
from zos.api.quota import Amounts, Quota
from zos.world.store import World

RESOLVED = Counter("zos_resolutions_total", "Resolutions by kind and outcome.", ["kind", "outcome"])
DURATION = Histogram("zos_resolve_seconds", "Time that resolving took (pure, without writes).", ["kind"])
DEPTH = Gauge("zos_queue_depth", "Keys that wait to be resolved.")
LEADING = Gauge("zos_leading", "1 while this process leads.")
WRITES = Counter("zos_api_writes_total", "Writes to the API server.", ["kind", "verb", "status"])

# Looking labels up is dearer than counting, and there are few.
resolved = cache(RESOLVED.labels)
duration = cache(DURATION.labels)
written = cache(WRITES.labels)


class Census(Collector):
    """How many objects there are and how they stand, counted when asked: nothing is kept in step beside the World.

    ``kinds`` are those that say how they stand. Only who leads tells, or two controllers would tell everything twice.
    """

    def __init__(self, world: World, kinds: Iterable[str], leading: Callable[[], bool]) -> None:
        self._world = world
        self._kinds = tuple(kinds)
        self._leading = leading

    def describe(self) -> Iterable[Metric]:
        """Nothing: the registry would ask for everything to learn the names."""
        return ()

    def collect(self) -> Iterator[Metric]:
        if not self._leading():
            return
        yield self._objects()
        yield self._addresses()
        yield self._waiting()
        yield from self._quotas()

    def _objects(self) -> Metric:
        told = GaugeMetricFamily(
            "zos_objects", "Objects by kind and reason of their Ready condition.", labels=("kind", "reason")
        )
        for kind in self._kinds:
            reasons = Count(_reason(obj) for obj in self._world.all(kind))
            for reason, count in sorted(reasons.items()):
                told.add_metric((kind, reason), count)
        return told

    def _addresses(self) -> Metric:
        told = GaugeMetricFamily(
            "zos_farm_addresses", "Public addresses of a farm. IPv6 is only held: a prefix does not run out.",
            labels=("farm", "family", "state"),
        )  # fmt: skip
        for farm in self._world.all(Farm.KIND):
            assert isinstance(farm, Farm)
            ipv4 = farm.status.ipv4
            for state, count in (("total", ipv4.total), ("held", ipv4.held), ("free", ipv4.free)):
                told.add_metric((farm.name, "ipv4", state), count)
            told.add_metric((farm.name, "ipv6", "held"), farm.status.ipv6.held)
        return told

    def _waiting(self) -> Metric:
        told = GaugeMetricFamily(
            "zos_contracts_waiting", "Contracts that have fewer addresses than they ask for.", labels=("farm",)
        )
        waiting = Count({farm.name: 0 for farm in self._world.all(Farm.KIND)})
        for contract in self._world.all(Contract.KIND):
            assert isinstance(contract, Contract)
            waiting[contract.spec.farm] += not contract.deleting and len(contract.status.reserved) < contract.spec.public_ipv4
        for farm, count in sorted(waiting.items()):
            told.add_metric((farm,), count)
        return told

    def _quotas(self) -> Iterator[Metric]:
        """A few series for each, however many namespaces it selects: who holds what is in its status."""
        labels = ("quota", "resource")
        hard = GaugeMetricFamily("zos_quota_hard", "The most that a namespace may hold by a Quota.", labels=labels)
        most = GaugeMetricFamily("zos_quota_used_most", "What that namespace holds which has the most of it.", labels=labels)
        above = GaugeMetricFamily(
            "zos_quota_exceeding_namespaces", "Namespaces that hold more than they may.", labels=("quota",)
        )
        for quota in self._world.all(Quota.KIND):
            assert isinstance(quota, Quota)
            limits, held = quota.status.hard, [one.used for one in quota.status.used]
            for name, field in Amounts.model_fields.items():
                if (limit := getattr(limits, name)) is not None:
                    resource = field.alias or name
                    hard.add_metric((quota.name, resource), limit)
                    most.add_metric((quota.name, resource), max((getattr(used, name) for used in held), default=0))
            above.add_metric((quota.name,), sum(any(True for _ in limits.above(used)) for used in held))
        yield from (hard, most, above)


def _reason(obj: Object) -> str:
    ready = obj.status.condition("Ready") if hasattr(obj, "status") else None
    return ready.reason if ready is not None else ""
