"""Heartbeats: a Lease that its holder renews."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from zos.api.core import HEARTBEAT, Lease
from zos.kube.client import Client, Conflict, NotFound, Raw


async def renew(
    client: Client, namespace: str, name: str, holder: str, duration: int, annotations: Mapping[str, str] | None = None
) -> None:
    """Renews a Lease that only ``holder`` writes, making it where it is missing: one request when it exists.

    ``duration`` in seconds. Raises ApiError and Unavailable.
    """
    spec: Raw = {"holderIdentity": holder, "leaseDurationSeconds": duration, "renewTime": now()}
    labels = {HEARTBEAT: "true"}
    said: Raw = {"labels": labels, **({"annotations": dict(annotations)} if annotations else {})}
    patch: Raw = {"metadata": said, "spec": spec}
    try:
        await client.patch(Lease, namespace, name, patch)
    except NotFound:
        meta = {"name": name, **said}
        body = {"apiVersion": Lease.API_VERSION, "kind": Lease.KIND, "metadata": meta, "spec": spec}
        try:
            await client.create(Lease, namespace, body)
        except Conflict:
            await client.patch(Lease, namespace, name, patch)


def now() -> str:
    """The time as a MicroTime."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
