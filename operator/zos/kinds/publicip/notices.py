"""What is told of a public address' way."""

from __future__ import annotations

from zos.api.publicip import PublicAddress, PublicIP, PublicIPStatus
from zos.world.happenings import assigned
from zos.world.reader import Reader
from zos.world.resolution import Notice, Resolution


def notices(ip: PublicIP, found: Resolution, world: Reader) -> tuple[Notice, ...]:
    """What has happened since the status was written last."""
    before, after = ip.status, found.status
    assert isinstance(after, PublicIPStatus)
    return (
        *assigned(_plain(before.ipv4), _plain(after.ipv4), "public address", f"of contract {ip.spec.contract}"),
        *assigned(_plain(before.ipv6), _plain(after.ipv6), "public address", f"of farm {after.farm}"),
    )


def _plain(address: PublicAddress | None) -> str | None:
    return address.ip if address is not None else None
