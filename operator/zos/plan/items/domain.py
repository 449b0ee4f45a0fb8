"""Guests."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from zos.api.nodeworkload import Owner
from zos.plan.items.item import Held, Item, Rank


@dataclass(frozen=True, kw_only=True)
class GuestDisk:
    """A disk of a guest: the Disk item's name, and the serial under which the guest finds it (20 bytes at most)."""

    disk: str
    serial: str


@dataclass(frozen=True, kw_only=True)
class GuestNic:
    """An interface of a guest, and what its guard lets out: ``ipv4`` and ``ipv6`` without prefix length, empty for nothing of
    that family. It stands in the private network with uid ``network``, else on the segment behind the node's ``interface``. A
    guest that an earlier agent has started tells neither."""

    tap: str
    mac: str
    network: str = ""
    interface: str = ""
    mtu: int = 0
    ipv4: str = ""
    ipv6: str = ""

    @property
    def told(self) -> bool:
        return bool(self.network or self.interface)


@dataclass(frozen=True, kw_only=True)
class Domain(Item):
    """A container-mode guest under libvirt. ``running`` is what it should be now.

    ``image`` is the digest of an unpacked image (root file system, shared read-only); ``root`` the Disk that takes the
    writes; ``config`` the path of the File that the guest's init reads (network, mounts, environment, entrypoint);
    ``config_digest`` makes a changed file a changed domain, and ``fields`` are digests of what is in it by the field of the
    user's spec. ``memory`` in bytes. A guest that runs keeps what it was started with (`DomainFact.runs`); one of another
    ``incarnation`` is to be stopped first.
    """

    name: str
    uuid: str
    cpu: int
    memory: int
    image: str
    root: GuestDisk
    disks: tuple[GuestDisk, ...]
    nics: tuple[GuestNic, ...]
    config: str
    config_digest: str
    fields: tuple[tuple[str, str], ...] = ()
    running: bool
    incarnation: str = ""

    FAMILY: ClassVar[str] = "domain"
    RANK: ClassVar[int] = Rank.GUEST

    @property
    def key(self) -> str:
        return f"{self.FAMILY}/{self.name}"

    @property
    def recipe(self) -> str:
        """A digest of all that it is started with: another one is another chance for a guest that failed."""
        whole = (self.cpu, self.memory, self.image, self.root, self.disks, self.nics, self.config_digest)
        return hashlib.sha256(repr(whole).encode()).hexdigest()[:16]

    def grounds(self) -> Iterator[str]:
        yield from (f"link//{nic.tap}" for nic in self.nics)
        yield from (f"disk/{disk.disk}" for disk in (self.root, *self.disks))
        yield f"file/{self.config}"

    def occupies(self) -> Iterator[str]:
        if self.running:
            yield from (f"disk/{disk.disk}" for disk in (self.root, *self.disks))

    @property
    def held(self) -> Held:
        if not self.running:
            return Held()
        return Held(alive=True, cpu=self.cpu, memory=self.memory, macs=tuple(nic.mac for nic in self.nics))

    @staticmethod
    def origin_of(uuid: str) -> Owner:
        """Whose a guest is by its UUID, which is the machine's uid."""
        return Owner(kind="ZMachine", namespace="", name="", uid=uuid)
