"""What the agent counts."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class Metrics:
    """One set per agent, so that several can run in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.passes = Histogram(
            "zos_agent_pass_seconds", "Duration of a converge pass.", registry=self.registry,
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
        )  # fmt: skip
        self.operations = Counter(
            "zos_agent_operations", "Operations on the node.", ("item", "verb", "result"), registry=self.registry
        )
        self.drift = Counter(
            "zos_agent_drift_healed", "Things mended that had been right and that no workload's change asked for.", ("item",),
            registry=self.registry,
        )  # fmt: skip
        self.api_writes = Counter(
            "zos_agent_api_writes", "Writes to the API server.", ("kind", "verb", "code"), registry=self.registry
        )
        self.workloads = Gauge("zos_agent_workloads", "NodeWorkloads of this node.", ("state",), registry=self.registry)
        self.quarantined = Gauge(
            "zos_agent_quarantined", "Objects without a NodeWorkload of which something is here.", registry=self.registry
        )
        self.refused = Gauge(
            "zos_agent_refused_statuses", "Statuses that the API server refuses to take.", registry=self.registry
        )
        self.blind = Gauge(
            "zos_agent_blind", "1 for a driver that can't look, so that what it has is not known.", ("driver",),
            registry=self.registry,
        )  # fmt: skip
        self.foreign = Gauge("zos_agent_foreign_cluster", "1 while another cluster than ours answers.", registry=self.registry)
