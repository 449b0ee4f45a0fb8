"""What an agent's metrics say of images."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest

from zos.agent.imagemetrics import ImageMetrics
from zos.drivers.imageprogress import ImageMeasures


def test_sizes_and_what_is_under_way() -> None:
    registry = CollectorRegistry()
    registry.register(ImageMetrics(lambda: ImageMeasures(1, 2, 3, {"image/oci://r/app:1": (4, 0)})))
    said = [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]
    assert said == [
        "zos_agent_image_cache_bytes 1.0",
        "zos_agent_image_unfinished_bytes 2.0",
        "zos_agent_image_fetched_bytes_total 3.0",
        'zos_agent_image_pull_bytes{image="oci://r/app:1"} 4.0',
        'zos_agent_image_pull_size_bytes{image="oci://r/app:1"} 0.0',
    ]
