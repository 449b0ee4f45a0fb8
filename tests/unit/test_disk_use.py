"""What is told of how much of a disk is used."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from zos.agent.diskmetrics import DiskMetrics
from zos.api.nodeworkload import Owner
from zos.drivers.diskuse import Told, Usage, used_of

MiB = 1 << 20


def test_little_and_soon_is_no_news() -> None:
    now = 0.0
    told = Told(lambda: now)
    assert told.see({"a": 100 * MiB, "b": 2 * MiB})
    now = 59
    assert not told.see({"a": 200 * MiB, "b": 2 * MiB})  # too soon
    now = 61
    assert not told.see({"a": 109 * MiB, "b": 3 * MiB - 1})  # too little
    assert told.see({"a": 110 * MiB, "b": 2 * MiB})
    assert told.used == {"a": 110 * MiB, "b": 2 * MiB}
    assert not told.see({"a": 0, "b": 2 * MiB})
    now = 122
    assert told.see({"a": 0, "b": 2 * MiB})
    assert told.see({"b": 2 * MiB})
    assert told.used == {"b": 2 * MiB}


@pytest.mark.parametrize(
    ("content", "used"),
    [
        (b"", None),
        (bytes(MiB), None),
        (bytes(0x10040) + b"_BHRfS_M", None),  # it ends there
        (bytes(0x10040) + b"_BHRfS_M" + bytes(0x30) + struct.pack("<Q", 4096) + bytes(4096), 4096),
        (bytes(0x10040) + b"_BHRfS_M" + bytes(0x30) + b"\xff" * 8 + bytes(4096), 0x10040 + 8 + 0x30 + 8 + 4096),
    ],
)
def test_a_guest_can_say_nothing_that_can_not_be(tmp_path: Path, content: bytes, used: int | None) -> None:
    (tmp_path / "disk").write_bytes(content)
    assert used_of(tmp_path / "disk") == used


async def test_metrics_are_exact_and_under_the_objects_name() -> None:
    owner = Owner(kind="ZMount", namespace="team", name="data", uid="u")
    metrics, registry = DiskMetrics(lambda: [Usage(owner, 10 * MiB, 4097)]), CollectorRegistry()
    registry.register(metrics)
    assert b"zos_disk_used_bytes{" not in generate_latest(registry)
    await metrics.scrape()
    text = generate_latest(registry).decode()
    assert 'zos_disk_used_bytes{kind="ZMount",name="data",namespace="team",uid="u"} 4097.0' in text
    assert 'zos_disk_size_bytes{kind="ZMount",name="data",namespace="team",uid="u"} 1.048576e+07' in text
