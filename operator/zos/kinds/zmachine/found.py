"""What is known of a machine on its way to its node: what it has, and step by step what was found for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from zos.api.network import NetworkAddress
from zos.api.nodeworkload import NodeWorkload
from zos.api.zmachine import ZMachine
from zos.kinds.zmachine.part import PublicNic
from zos.kinds.zmachine.publicaddress import Public
from zos.world import placement, running
from zos.world.quarantine import Inheritance
from zos.world.reader import Reader
from zos.world.residents import Net
from zos.world.resolution import Hold, SecretValue, Verdict, Workload
from zos.world.shares import Share


@dataclass(frozen=True)
class FoundDisk:
    """A disk as the machine sees it: on ``node`` if it is somewhere, ``pinned`` if it can't move from there. ``there``: it has
    been made and is the machine's, so the machine can start with it, be it as large as is asked or not. ``why``: why it is not
    ready; empty: it is."""

    name: str
    path: str | None
    uid: str
    node: str | None
    pinned: bool
    there: bool
    size: int
    why: str = ""
    stalled: bool = False


@dataclass(frozen=True)
class FileSystem:
    """What another object (``kind`` and ``name``) gives to the machine."""

    kind: str
    name: str
    path: str
    read_only: bool
    node: str
    share: Share

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


@dataclass(frozen=True)
class Found:
    """``node`` is where it is, or holds something; ``ip``, ``ipv4`` and ``ipv6`` are its private and public addresses: what it
    had, until a step has got it another. The rest is what the steps have found so far, each in the order of `steps.STEPS`.

    ``place`` is the node that it is to be on, and becomes its ``node`` when it holds something there; ``workload`` is what is
    asked of that node, and what that says.
    """

    node: str | None
    ip: str | None
    ipv4: str | None
    ipv6: str | None
    workload: NodeWorkload | None = None
    inherits: Inheritance | None = None
    net: Net | None = None
    disks: tuple[FoundDisk, ...] = ()
    filesystems: tuple[FileSystem, ...] = ()
    public: Public | None = None
    place: str | None = None
    public_nic: PublicNic | None = None
    capacity: Hold | None = None
    address: NetworkAddress | None = None
    secrets: tuple[SecretValue, ...] = ()
    asked: Workload | None = None

    @classmethod
    def from_status(cls, machine: ZMachine, world: Reader) -> Found:
        """What it was told of goes before what any node says."""
        status, public = machine.status, machine.spec.public_ip is not None
        node = status.node_name or placement.held_on(world, machine.uid)
        return cls(
            node=node,
            ip=status.ip,
            ipv4=status.public_ipv4 if public else None,
            ipv6=status.public_ipv6 if public else None,
            workload=running.on_node(machine.uid, node, world),
        )

    @property
    def holds(self) -> tuple[Hold, ...]:
        """What was got of pools."""
        capacity = (self.capacity,) if self.capacity is not None else ()
        address = (Hold(self.net.key, self.address),) if self.net is not None and self.address is not None else ()
        return (*capacity, *address)


#: Gives what is known then, or what the machine has to wait for.
Step = Callable[[Found, ZMachine, Reader], tuple[Found, Verdict | None]]

T = TypeVar("T")


def given(found: T | None) -> T:
    """What an earlier step has found: they come in order."""
    assert found is not None
    return found
