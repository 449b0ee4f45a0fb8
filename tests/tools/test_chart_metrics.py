"""Dashboard and alerts of the chart ask for nothing that nobody tells."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

import pytest
import yaml
from prometheus_client import REGISTRY, Metric

from panels import CHART, alerts, grouped, has_data, panels, selectors, series
from zos.agent.diskmetrics import DiskMetrics
from zos.agent.guestmetrics import GuestMetrics
from zos.agent.imagemetrics import ImageMetrics
from zos.agent.metrics import Metrics
from zos.agent.servicemetrics import exposed
from zos.api.meta import Reason
from zos.controller.metrics import Census
from zos.drivers.imageprogress import ImageMeasures
from zos.kinds.registry import KINDS
from zos.kube.hearing import Hearing
from zos.world.store import World

#: What Prometheus adds to everything that it asks for, and the chart's ServiceMonitors.
_TARGET = {"job", "instance", "pod", "node", "le"}
_SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}


def told() -> Iterator[Metric]:
    """By a controller that leads and an agent, each with nothing to tell of."""
    hearing = Hearing(("GridNode",), lambda: 0.0)

    async def nothing() -> dict[str, object]:
        return {}

    yield from REGISTRY.collect()
    yield from Census(World(KINDS.indexes()), KINDS, lambda: True).collect()
    yield from hearing.collect()
    yield from Metrics().registry.collect()
    yield from DiskMetrics(lambda: ()).collect()
    yield from GuestMetrics(nothing, dict, lambda _: None).collect()  # type: ignore[arg-type]
    yield from ImageMetrics(ImageMeasures).collect()
    yield from exposed(())


def samples(metrics: Iterable[Metric]) -> set[str]:
    return {metric.name + suffix for metric in metrics for suffix in _SUFFIXES.get(metric.type, ("",))} | {"up"}


TOLD = samples(told())


def asked(expression: str) -> set[str]:
    return {selector.name for selector in selectors(expression)}


ALL = dict([*panels(), *alerts()])


@pytest.mark.parametrize("where", ALL)
def test_what_is_asked_for_is_told(where: str) -> None:
    names = asked(ALL[where])
    assert names
    assert names <= TOLD


def test_what_nobody_tells_is_noticed() -> None:
    said = 'sum by (kind) (rate(zos_resolutions{kind="Network"}[5m])) / zos_objects or vector(0)'
    assert asked(said) == {"zos_resolutions", "zos_objects"}
    assert asked(said) - TOLD == {"zos_resolutions"}


def test_labels_are_those_that_are_told_or_that_prometheus_adds() -> None:
    known = set(_TARGET)
    for metric in told():
        known |= set(getattr(metric, "_labelnames", ())) | {name for sample in metric.samples for name in sample.labels}
    # Of metrics that have told nothing yet, and so show no labels.
    known |= {"kind", "outcome", "verb", "status", "item", "result", "code", "state", "driver"}
    for where, expression in ALL.items():
        matched = {matcher.label for selector in selectors(expression) for matcher in selector.matchers}
        assert grouped(expression) | matched <= known, where


def test_reasons_are_those_that_conditions_have() -> None:
    for expression in ALL.values():
        for matcher in (matcher for selector in selectors(expression) for matcher in selector.matchers):
            if matcher.label == "reason":
                assert all(Reason(reason) for reason in matcher.value.split("|"))


def test_data_is_there_where_all_that_one_side_selects_is() -> None:
    said = series('# TYPE a gauge\na{x="1"} 3\n# TYPE b counter\nb_total 1\n', job="j")
    assert has_data('sum by (x) (a{x=~"1|2",job="j"}) / rate(b_total[5m])', said)
    assert not has_data('a{x="2"}', said)
    assert not has_data('a{x!~"1|2"}', said)
    assert not has_data("a / c", said)
    assert has_data("a / c or vector(0)", said)
    assert has_data("sum by (x) (c or 0 * a)", said)


def test_every_alert_says_what_to_do() -> None:
    for group in yaml.safe_load((CHART / "alerts/zos.yaml").read_text())["groups"]:
        for rule in group["rules"]:
            assert rule["labels"]["severity"] in ("critical", "warning", "info")
            assert rule["annotations"].keys() == {"summary", "description"}, rule["alert"]


def test_panels_have_a_place_of_their_own() -> None:
    taken: dict[tuple[int, int], int] = {}
    found = json.loads((CHART / "dashboards/zos.json").read_text())["panels"]
    assert len({panel["id"] for panel in found}) == len(found)
    for panel in found:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        for cell in ((x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])):
            assert cell not in taken, panel["title"]
            taken[cell] = panel["id"]
