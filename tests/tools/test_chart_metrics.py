"""Dashboard and alerts of the chart ask for nothing that nobody tells."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import yaml
from prometheus_client import REGISTRY, Metric

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

CHART = Path(__file__).parent.parent.parent / "charts/zos"
#: What Prometheus adds to everything that it asks for, and the chart's ServiceMonitors.
_TARGET = {"job", "instance", "pod", "node", "le"}
_SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
_WORDS = {
    "sum", "max", "min", "avg", "by", "and", "or", "bool", "rate", "increase", "vector", "histogram_quantile",
    "min_over_time",
}  # fmt: skip


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
    """Names of metrics in it."""
    bare = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^]]*\]|\bby *\([^)]*\)', " ", re.sub(r'"[^"]*"', "", expression))
    return set(re.findall(r"[a-zA-Z_:][a-zA-Z0-9_:]*", bare)) - _WORDS


def panels() -> Iterator[tuple[str, str]]:
    for panel in json.loads((CHART / "dashboards/zos.json").read_text())["panels"]:
        for target in panel.get("targets", ()):
            yield f"{panel['title']} {target['refId']} {panel['id']}", target["expr"]


def alerts() -> Iterator[tuple[str, str]]:
    for group in yaml.safe_load((CHART / "alerts/zos.yaml").read_text())["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]


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
        grouped = [name.strip() for names in re.findall(r"\bby *\(([^)]*)\)", expression) for name in names.split(",")]
        matched = re.findall(r'[{,] *([a-z_]+) *(?:=~|!~|!=|=) *"', expression)
        assert {*grouped, *matched} <= known, where


def test_reasons_are_those_that_conditions_have() -> None:
    for where, expression in ALL.items():
        for reasons in re.findall(r'reason *(?:=~|!~|!=|=) *"([^"]*)"', expression):
            assert {Reason(reason) for reason in reasons.split("|")}, where


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
