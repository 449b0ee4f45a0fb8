"""What a machine uses of its node, and how an agent tells it of all machines of the node: as an annotation of its Lease."""

from __future__ import annotations

import json
from collections.abc import Mapping

from pydantic import TypeAdapter

from zos.api.meta import GROUP, Model, Quantity
from zos.api.text import MOST_COUNTED, Count

#: Annotation of an agent's Lease.
USAGE = f"{GROUP}/usage"
#: So many machines of a node are told of, and so long is the text at most: annotations have 256 KiB.
_MOST, _LONGEST = 1024, 200_000
_BYTES = 2**60


class MachineUsage(Model):
    """Averages of about a minute. Small changes are not told."""

    cpu_millicores: Count = 0
    """Thousandths of a processor of the node."""

    memory: Quantity = 0
    """Bytes of the node's RAM that the guest's process has."""

    disk_read: Quantity = 0
    """Bytes read from its disks each second."""

    disk_written: Quantity = 0
    """Bytes written to its disks each second."""

    received: Quantity = 0
    """Bytes received from networks each second."""

    sent: Quantity = 0
    """Bytes sent to networks each second."""


_FIELDS = tuple(MachineUsage.model_fields)
_LIMITS = (MOST_COUNTED, *(_BYTES for _ in _FIELDS[1:]))
_TEXT = TypeAdapter(dict[str, tuple[int, int, int, int, int, int]])


def told(machines: Mapping[str, MachineUsage]) -> str:
    """The annotation: numbers in the order of the fields, by the machines' uids."""
    rows = {uid: [getattr(machines[uid], field) for field in _FIELDS] for uid in sorted(machines)[:_MOST]}
    return json.dumps(rows, separators=(",", ":"))


def understood(text: str) -> dict[str, MachineUsage]:
    """The other way round. Raises ValueError for what is none: a node may write anything."""
    if len(text) > _LONGEST:
        raise ValueError("too long")
    rows = _TEXT.validate_json(text)
    if len(rows) > _MOST or any(not 0 <= n <= most for row in rows.values() for n, most in zip(row, _LIMITS, strict=True)):
        raise ValueError("beyond what there can be")
    return {uid: MachineUsage(**dict(zip(_FIELDS, row, strict=True))) for uid, row in rows.items()}
