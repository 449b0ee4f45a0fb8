"""What nodes have to offer, and what objects hold of it: parts of a GridNode."""

from __future__ import annotations

from zos.api.meta import Model, Quantity, short_quantity
from zos.api.text import Count, Line, Port, PublicKey, Uid

#: Memory that a guest costs the node beside its own (QEMU, virtiofsd), in bytes.
GUEST_OVERHEAD = 128 * 2**20


class Resources(Model):
    """An amount of what a node has."""

    cpu: Count = 0
    """Virtual CPUs."""

    memory: Quantity = 0
    """Bytes of RAM."""

    storage: Quantity = 0
    """Bytes of disk."""


class NodeHold(Model):
    """What one object holds on the node. Written by the controller only, guarded by the GridNode's resourceVersion,
    so two leaders can't give the same port, key or memory twice."""

    uid: Uid
    """The holder's uid."""

    owner: Line
    """The holder in words, like ZMachine default/web."""

    cpu: Count = 0
    """Virtual CPUs of a machine."""

    memory: Quantity = 0
    """Bytes of RAM of a machine, with what running the guest takes beside."""

    storage: Quantity = 0
    """Bytes of disk: a machine's root, or a ZMount."""

    listen_port: Port | None = None
    """UDP port of a network's WireGuard interface here."""

    public_key: PublicKey | None = None
    """The prekey that a network was given; the node has the private half."""


class Usage(Model):
    """What is held of what is offered, for people: programs read ``allocated`` and ``free``."""

    cpu: Line
    """Virtual CPUs, like ``3/8``."""

    memory: Line
    """RAM, like ``1.5Gi/15.6Gi``."""

    storage: Line
    """Disk, like ``12Gi/100Gi``."""

    @classmethod
    def of(cls, held: Resources, offered: Resources) -> Usage:
        return cls(
            cpu=f"{held.cpu}/{offered.cpu}",
            memory=f"{short_quantity(held.memory)}/{short_quantity(offered.memory)}",
            storage=f"{short_quantity(held.storage)}/{short_quantity(offered.storage)}",
        )
