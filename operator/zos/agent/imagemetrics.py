"""How much there is of images on the node, for the agent's metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from zos.drivers.imageprogress import ImageMeasures


class ImageMetrics:
    """A collector; ``measures`` tells from memory."""

    def __init__(self, measures: Callable[[], ImageMeasures]) -> None:
        self._measures = measures

    def collect(self) -> Iterable[Metric]:
        now = self._measures()
        yield GaugeMetricFamily("zos_agent_image_cache_bytes", "Unpacked images on the node.", now.cached)
        yield GaugeMetricFamily("zos_agent_image_unfinished_bytes", "What is kept of images to go on with.", now.kept)
        yield CounterMetricFamily("zos_agent_image_fetched_bytes", "Fetched of images.", now.fetched)
        got = GaugeMetricFamily("zos_agent_image_pull_bytes", "There of an image that is being fetched.", labels=("image",))
        whole = GaugeMetricFamily("zos_agent_image_pull_size_bytes", "All of it; 0: not known.", labels=("image",))
        for key, (there, size) in list(now.under_way.items()):
            got.add_metric((key.removeprefix("image/"),), there)
            whole.add_metric((key.removeprefix("image/"),), size)
        yield from (got, whole)
