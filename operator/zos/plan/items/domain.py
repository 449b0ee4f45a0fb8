"""Guests."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from zos.api import names
from zos.api.nodeworkload import Owner
from zos.api.resources import GUEST_OVERHEAD
from zos.plan.items.item import Held, Item, Rank

#: Seconds for a guest to end, where its user says nothing.
STOP_SECONDS = 30


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
class GuestShare:
    """A directory of the node that a guest is given by virtiofs, from its start on: the guest finds it by ``tag`` (36 bytes at
    most). ``path`` is relative to the node's state directory; ``ground`` is the key of the item that it is of, which stays as
    long as the guest runs. ``mounted``: a file system is mounted there, without which there is nothing to give. ``inside``: the
    guest sees that of it alone, a file system that may be mounted anew while it runs; nothing else is in the directory
    (ADR 0018)."""

    tag: str
    path: str
    ground: str
    read_only: bool = False
    mounted: bool = False
    inside: str = ""

    @property
    def mount(self) -> str:
        """The path where something must be mounted; empty for nowhere."""
        return f"{self.path}/{self.inside}" if self.inside else self.path if self.mounted else ""


@dataclass(frozen=True, kw_only=True)
class _Boot:
    """``root`` is the Disk that the guest's system writes to. ``config`` is the path of the File that tells the guest what it
    is; ``config_digest`` makes a changed file a changed domain, and ``fields`` are digests of what is in it by the field of the
    user's spec."""

    root: GuestDisk
    config: str
    config_digest: str
    fields: tuple[tuple[str, str], ...] = ()

    #: As the user's status calls it.
    MODE: ClassVar[Literal["container", "vm"]]
    #: Whether the guest's init says how it stands; of another a guest that runs has booted, for all that the node can tell.
    TELLS: ClassVar[bool]
    #: What people call the fields: those of the user's spec that they follow from.
    WORDS: ClassVar[Mapping[str, str]]


@dataclass(frozen=True, kw_only=True)
class ContainerBoot(_Boot):
    """The node's init over an unpacked image, whose root file system is shared read-only: ``image`` is its digest. Init reads
    network, mounts, environment and entrypoint from ``config``. ``kernel`` is the version of the image's own kernel (`Kernel`),
    empty where the node's runs. ``init``: the image's own init takes over from the node's; then a reboot is no end, and how it
    ended is told by how the machine did."""

    image: str
    kernel: str = ""
    init: bool = False

    @property
    def silent(self) -> bool:
        return self.init

    MODE = "container"
    TELLS = True
    WORDS: ClassVar[Mapping[str, str]] = {"image": "image", "kernel": "image", "init": "entrypoint", "root": "disks"}


@dataclass(frozen=True, kw_only=True)
class DiskBoot(_Boot):
    """A virtual machine's own system on ``root``, which was written from an image and doesn't need it any more; ``config`` is
    the text of the seed that cloud-init reads (`zos.plan.seed`). A reboot of its own is no end."""

    firmware: Literal["bios", "uefi"] = "bios"

    #: It stands on none.
    image: ClassVar[str] = ""
    silent: ClassVar[bool] = True
    MODE = "vm"
    TELLS = False
    WORDS: ClassVar[Mapping[str, str]] = {"root": "disks", "firmware": "image"}


@dataclass(frozen=True, kw_only=True)
class Domain(Item):
    """A guest under libvirt. ``running`` is what it should be now; ``memory`` in bytes; ``stop_seconds`` is what it gets to end
    in when it is asked to.

    A guest that runs keeps what it was started with (`DomainFact.runs`); one of another ``incarnation`` is to be stopped first.
    ``runs_on`` is the digest of the image that it runs on, where that is not the one that is wanted."""

    name: str
    uuid: str
    cpu: int
    memory: int
    boot: ContainerBoot | DiskBoot
    disks: tuple[GuestDisk, ...]
    nics: tuple[GuestNic, ...]
    shares: tuple[GuestShare, ...] = ()
    running: bool
    incarnation: str = ""
    stop_seconds: int = field(default=STOP_SECONDS, compare=False)  # the wish of the moment, whatever it was started with

    runs_on: str = field(default="", compare=False)

    FAMILY: ClassVar[str] = "domain"
    RANK: ClassVar[int] = Rank.GUEST

    @property
    def key(self) -> str:
        return f"{self.FAMILY}/{self.name}"

    @property
    def recipe(self) -> str:
        """A digest of all that it is started with: another one is another chance for a guest that failed. It is written down:
        what was the same for an earlier agent has to stay the same."""
        boot = self.boot
        if isinstance(boot, ContainerBoot):
            system: tuple[object, ...] = (boot.image, *((boot.kernel, boot.init) if boot.kernel else ()), boot.root)
        else:
            system = (boot.MODE, boot.firmware, boot.root)
        whole = (self.cpu, self.memory, *system, self.disks, self.nics, boot.config_digest, *self.shares)
        return hashlib.sha256(repr(whole).encode()).hexdigest()[:16]

    @property
    def all_disks(self) -> tuple[GuestDisk, ...]:
        return (self.boot.root, *self.disks)

    def grounds(self) -> Iterator[str]:
        yield from (f"link//{nic.tap}" for nic in self.nics)
        yield from (f"disk/{disk.disk}" for disk in self.all_disks)
        yield from (share.ground for share in self.shares)
        yield f"file/{self.boot.config}"
        yield from self._servers

    def occupies(self) -> Iterator[str]:
        if self.running:
            yield from (f"disk/{disk.disk}" for disk in self.all_disks)
            yield from (share.ground for share in self.shares)
            yield from self._servers

    @property
    def _servers(self) -> list[str]:
        """Keys of what mounts its images, if they are flists."""
        return [f"service/{names.flist(image)}" for image in dict.fromkeys((self.boot.image, self.runs_on)) if image]

    @property
    def held(self) -> Held:
        if not self.running:
            return Held()
        macs = tuple(nic.mac for nic in self.nics)
        return Held(alive=True, cpu=self.cpu, memory=self.memory + GUEST_OVERHEAD, macs=macs)

    @staticmethod
    def origin_of(uuid: str) -> Owner:
        """Whose a guest is by its UUID, which is the machine's uid."""
        return Owner(kind="ZMachine", namespace="", name="", uid=uuid)
