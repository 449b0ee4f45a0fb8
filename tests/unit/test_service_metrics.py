"""Services may say anything where their metrics should be."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from zos.agent.metricstext import SAMPLES, parse
from zos.agent.servicemetrics import Heard, exposed, merged
from zos.api.nodeworkload import Owner
from zos.drivers.service import MetricsSource
from zos.plan.items import MetricsEndpoint

GOOD = r"""
# HELP http_requests_total Requests.
# TYPE http_requests_total counter
http_requests_total{method="post",code="200"} 1027 1395066363000
http_requests_total{method="post",code="400",} 3
# TYPE latency histogram
latency_bucket{le="0.5"} 3
latency_bucket{le="+Inf"} 5
latency_sum 1.5e3
latency_count 5
msdos{path="C:\\DIR\\FILE.TXT",error="Cannot find file:\n\"FILE.TXT\""} 1.458255915e9
something_weird{problem="division by zero"} +Inf -3982045
bare NaN
"""
OWNER = Owner(kind="ZMachine", namespace="team", name="web", uid="6a3bb6a5-8a2f-4ffb-a1ac-6a4d8b1c5b1e")


def heard(text: str, service: str = "s") -> Heard:
    return Heard(MetricsSource(service, "w", "", 1, MetricsEndpoint(port=1)), OWNER, parse(text))


def shown(*texts: str) -> str:
    class Shown(Collector):
        def collect(self) -> Iterable[Metric]:
            return exposed([heard(text, f"s{number}") for number, text in enumerate(texts)])

    registry = CollectorRegistry()
    registry.register(Shown())
    return generate_latest(registry).decode()


def test_what_is_well_formed_is_told_under_the_objects_name() -> None:
    said = parse(GOOD)
    assert said.dropped == 0
    assert said.types == {"http_requests_total": "counter", "latency": "histogram"}
    assert [sample.name for sample in said.families["latency"]] == [
        "latency_bucket", "latency_bucket", "latency_sum", "latency_count",
    ]  # fmt: skip
    assert said.families["msdos"][0].labels == {"path": r"C:\DIR\FILE.TXT", "error": 'Cannot find file:\n"FILE.TXT"'}
    text = shown(GOOD)
    whose = 'kind="ZMachine",name="web",namespace="team",service="s0"'
    assert "# TYPE http_requests_total counter\n" in text
    assert f"bare{{{whose}}} NaN\n" in text
    again = {family.name: family for family in text_string_to_metric_families(text)}
    assert again["latency"].type == "histogram"
    assert again["msdos"].samples[0].labels["error"] == 'Cannot find file:\n"FILE.TXT"'


def test_what_is_not_is_left_out_and_counted() -> None:
    bad = [
        'a{b="c} 1', "a{b=c} 1", "1a 1", "a", "a one", 'a{b="c"', "a 1 2 3",
        'a{__name__="b"} 1', "zos_agent_passes 1", "a{} {} 1",
        'a{b="' + "x" * 300 + '"} 1', "a" * 5000 + " 1", 'a{b="c""d"} 1', "<html>", "\0", "a 1_000", "a infinity", "é 1",
        "a{" + ",".join(f'l{number}="x"' for number in range(20)) + "} 1",
    ]  # fmt: skip
    for line in bad:
        assert (parse(line).families, parse(line).dropped) == ({}, 1), line
    said = parse("\n".join(["good 1", *bad, "good 2", 'good{a="b"} 3']))
    assert [sample.value for sample in said.families["good"]] == [1.0, 3.0]  # the second says the same again
    assert said.dropped == len(bad) + 1


def test_it_is_bounded() -> None:
    said = parse("\n".join(f"a{number} 1" for number in range(SAMPLES + 10)))
    assert (len(said.families), said.dropped) == (SAMPLES, 10)


def test_two_services_can_say_the_same_and_may_differ_on_what_it_is() -> None:
    text = shown("# TYPE a counter\na 1\n# TYPE b_total counter\nb_total 2", "# TYPE a gauge\na 3\nb_total 4")
    assert text.count("# TYPE a untyped\n") == text.count("# TYPE b_total untyped\n") == 1
    assert sum(line.startswith("a{") for line in text.splitlines()) == 2
    list(text_string_to_metric_families(text))


def test_nobody_speaks_under_anothers_name() -> None:
    text = shown('a{kind="Network",name="other",namespace="n"} 1\na{exported_kind="Network",exported_name="other"} 1')
    lines = [line for line in text.splitlines() if line.startswith("a{")]
    assert all('kind="ZMachine"' in line and 'name="web"' in line for line in lines)
    assert len(lines) == len(set(lines)) == 2


@given(st.lists(st.text(max_size=200), max_size=5), st.lists(st.sampled_from(GOOD.splitlines()), max_size=5))
def test_whatever_is_said_can_be_shown(strange: list[str], usual: list[str]) -> None:
    text = shown("\n".join([*strange, *usual]), "\n".join([*usual, *strange]))
    for line in text.splitlines():
        assert line.startswith("#") or 'service="' in line
    samples = [line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")]
    assert len(samples) == len(set(samples))
    list(text_string_to_metric_families(text))


def test_all_together_are_bounded() -> None:
    many = "\n".join(f"a{number} 1" for number in range(SAMPLES))
    assert sum(len(metric.samples) for metric in merged([heard(many, f"s{number}") for number in range(30)])) == 20 * SAMPLES
