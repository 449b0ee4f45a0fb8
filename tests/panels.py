"""What the chart's dashboard and alerts ask Prometheus for, and whether what was told answers it.

No Prometheus: an expression has data where what it selects is there. That it says what it means, nobody checks here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from prometheus_client.parser import text_string_to_metric_families

CHART = Path(__file__).parent.parent / "charts/zos"
_WORDS = {"and", "or", "bool", "by"}
_BY = re.compile(r"\bby *\(([^)]*)\)")
_SELECTOR = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(\{[^}]*\})?")
_MATCHER = re.compile(r'([a-zA-Z_]+) *(=~|!~|!=|=) *"([^"]*)"')


@dataclass(frozen=True)
class Matcher:
    label: str
    how: str
    value: str

    def takes(self, labels: Mapping[str, str]) -> bool:
        has = labels.get(self.label, "")
        found = bool(re.fullmatch(self.value, has)) if "~" in self.how else has == self.value
        return found != self.how.startswith("!")


@dataclass(frozen=True)
class Selector:
    """Series by name and labels."""

    name: str
    matchers: tuple[Matcher, ...] = ()


Series = tuple[str, Mapping[str, str]]


def panels() -> Iterator[tuple[str, str]]:
    """Name and expression of each query of the dashboard."""
    for panel in json.loads((CHART / "dashboards/zos.json").read_text())["panels"]:
        for target in panel.get("targets", ()):
            yield f"{panel['id']} {panel['title']} {target['refId']}", target["expr"]


def alerts() -> Iterator[tuple[str, str]]:
    for group in yaml.safe_load((CHART / "alerts/zos.yaml").read_text())["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]


def grouped(expression: str) -> set[str]:
    """Labels that it sums up by."""
    return {name.strip() for names in _BY.findall(expression) for name in names.split(",")}


def selectors(expression: str) -> tuple[Selector, ...]:
    """All that it selects, in order."""
    bare = re.sub(r"\[[^]]*\]", " ", _BY.sub(" ", expression))
    found = []
    for match in _SELECTOR.finditer(bare):
        called = bare[match.end() :].lstrip().startswith("(")
        if match[1] not in _WORDS and not called:
            matchers = tuple(Matcher(*one) for one in _MATCHER.findall(match[2] or ""))
            found.append(Selector(match[1], matchers))
    return tuple(found)


def has_data(expression: str, series: Sequence[Series]) -> bool:
    """Whether one side of each ``or`` has all that it selects."""
    return any(all(_any(wanted, series) for wanted in selectors(side)) for side in re.split(r"\bor\b", expression))


def _any(wanted: Selector, series: Iterable[Series]) -> bool:
    return any(name == wanted.name and all(one.takes(labels) for one in wanted.matchers) for name, labels in series)


def series(text: str, **target: str) -> list[Series]:
    """What was told at /metrics, under the labels that Prometheus gives what it asks there."""
    return [
        (sample.name, {**sample.labels, **target})
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]
