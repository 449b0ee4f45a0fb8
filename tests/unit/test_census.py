"""What Prometheus is told of the grid."""

from __future__ import annotations

from zos.api.meta import Meta
from zos.api.quota import Amounts, Limits, Quota, QuotaSpec, QuotaStatus, Used
from zos.api.selector import NamespaceSelector
from zos.controller.metrics import Census
from zos.kinds.registry import KINDS
from zos.world.store import World


def test_a_quota_has_few_series_however_many_namespaces_it_selects() -> None:
    world = World(KINDS.indexes())
    limits = Limits(cpu=4, public_ipv4=2)
    used = tuple(Used(namespace=f"t{n}", used=Amounts(cpu=n, memory=2**30)) for n in range(7))
    world.put(
        Quota(
            metadata=Meta(name="small", uid="u"),
            spec=QuotaSpec(namespaces=NamespaceSelector(), cpu=4, public_ipv4=2),
            status=QuotaStatus(matching=7, hard=limits, used=used),
        )
    )
    leads = True
    census = Census(world, (), lambda: leads)
    told = {
        (sample.name, *sample.labels.values()): sample.value
        for family in census.collect()
        for sample in family.samples
        if family.name.startswith("zos_quota")
    }
    assert told == {
        ("zos_quota_hard", "small", "cpu"): 4,
        ("zos_quota_used_most", "small", "cpu"): 6,
        ("zos_quota_hard", "small", "publicIPv4"): 2,
        ("zos_quota_used_most", "small", "publicIPv4"): 0,
        ("zos_quota_exceeding_namespaces", "small"): 2,
    }
    leads = False
    assert list(census.collect()) == []
