"""What guests have used of their node, as libvirt counts it (virConnectGetAllDomainStats)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class GuestUse:
    """Of one guest since it was started: bytes, seconds, requests and packets. ``memory`` is what its process has in RAM now;
    ``received`` and ``sent`` are the guest's, all interfaces together."""

    cpu_seconds: float = 0.0
    memory: int = 0
    disk_read_bytes: int = 0
    disk_written_bytes: int = 0
    disk_reads: int = 0
    disk_writes: int = 0
    received_bytes: int = 0
    sent_bytes: int = 0
    received_packets: int = 0
    sent_packets: int = 0


def use_of(stats: Mapping[str, Any]) -> GuestUse:
    """From libvirt's names and values; what it does not say is 0."""
    return GuestUse(
        cpu_seconds=float(stats.get("cpu.time", 0)) / 1e9,
        memory=int(stats.get("balloon.rss", 0)) * 1024,
        disk_read_bytes=sum(_each(stats, "block", "rd.bytes")),
        disk_written_bytes=sum(_each(stats, "block", "wr.bytes")),
        disk_reads=sum(_each(stats, "block", "rd.reqs")),
        disk_writes=sum(_each(stats, "block", "wr.reqs")),
        received_bytes=sum(_each(stats, "net", "rx.bytes")),
        sent_bytes=sum(_each(stats, "net", "tx.bytes")),
        received_packets=sum(_each(stats, "net", "rx.pkts")),
        sent_packets=sum(_each(stats, "net", "tx.pkts")),
    )


def _each(stats: Mapping[str, Any], group: str, name: str) -> Iterator[int]:
    for number in range(int(stats.get(f"{group}.count", 0))):
        yield int(stats.get(f"{group}.{number}.{name}", 0))
