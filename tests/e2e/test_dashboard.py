"""The chart's dashboard, of a grid with one of everything: no panel is empty."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from guests import Guests
from harness import Grid, obj, until
from panels import Series, has_data, panels, series

NODES, CONTROLLERS = ("n1", "n2", "n3"), (9441, 9442)


@pytest.fixture
def quota(grid: Grid, namespace: str) -> Iterator[None]:
    grid.kubectl("label", "namespace", namespace, "plan=shown")
    grid.apply("", obj("Quota", "shown", namespaces={"matchLabels": {"plan": "shown"}}, machines=5))
    yield
    grid.kubectl("delete", "quotas.zos.grid.tf", "shown")


def told(grid: Grid) -> list[Series]:
    """As Prometheus has it that the chart has told of everybody."""
    found: list[Series] = []
    for port in CONTROLLERS:
        text = grid.run("cp", "curl", "-s", f"http://127.0.0.1:{port}/metrics")
        found += series(text, job="zos-controller-metrics", pod=f"controller-{port}")
    for node in NODES:
        found += series(grid.run(node, "curl", "-s", "http://127.0.0.1:9442/metrics"), job="zos-agent-metrics", node=node)
    return found


def test_no_panel_of_the_dashboard_is_empty(grid: Grid, namespace: str, quota: None) -> None:
    guests = Guests(grid, namespace)
    guests.network()
    grid.apply(namespace, obj("ZMount", "data", size="64Mi"))
    guests.apply("one", "echo up; while :; do sleep 1; done", disks=[{"name": "data", "mountPath": "/data"}])
    guests.ready("one")

    def shown() -> bool:
        found = told(grid)
        empty = [name for name, expression in panels() if not has_data(expression, found)]
        assert not empty, f"without data: {empty}"
        return True

    until(shown, 60)
