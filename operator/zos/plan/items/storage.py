"""What lies on the node's file system: images, disks, volumes, files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from zos.api import names
from zos.api.nodeworkload import Owner
from zos.plan.items.item import Held, Item, Rank

#: Whose disks are that were made when no card told it yet, by what they are called. What kinds to come make has a card.
_OWNERS = {"mount": "ZMount", "root": "ZMachine"}


@dataclass(frozen=True, kw_only=True)
class Image(Item):
    """An image unpacked into the node's cache. ``ref`` is ``oci://``, ``file://`` or ``https://`` as the user wrote it.

    ``access`` tells whose credentials it is fetched with, and nothing of what they are: each who has some shows them to the
    registry, whatever is on the node already. ``auth`` is the text of a containers-auth.json(5) with them."""

    ref: str
    access: str = ""
    auth: str = field(default="", repr=False, compare=False)

    FAMILY: ClassVar[str] = "image"
    RANK: ClassVar[int] = Rank.IMAGE

    @property
    def key(self) -> str:
        return f"{self.FAMILY}/{self.name}"

    @property
    def name(self) -> str:
        """What facts of it go by."""
        return f"{self.ref} with {self.access}" if self.access else self.ref


@dataclass(frozen=True, kw_only=True)
class Kernel(Item):
    """What machines boot that run the kernel of their image (its digest): that kernel, and an initramfs of the node's init and
    the image's modules. It lies beside the unpacked image, and goes with it."""

    image: str

    FAMILY: ClassVar[str] = "kernel"
    RANK: ClassVar[int] = Rank.IMAGE

    @property
    def key(self) -> str:
        return f"{self.FAMILY}/{self.image}"


@dataclass(frozen=True, kw_only=True)
class Kept(Item):
    """What keeps a user's data: ``size`` bytes, really reserved. Grows, never shrinks.

    ``must_exist``: it holds data already, so an empty one is not made in its place. ``adopt`` is the uid of an owner that is
    gone: what that had becomes this one. ``origin`` is the user's object, written down beside it."""

    name: str  # as `zos.api.names.kept` makes it
    size: int
    must_exist: bool = False
    adopt: str = ""
    origin: Owner | None = field(default=None, compare=False)

    HOLDS_DATA: ClassVar[bool] = True
    RANK: ClassVar[int] = Rank.DATA

    @property
    def key(self) -> str:
        return f"{self.FAMILY}/{self.name}"

    @property
    def adopted(self) -> str:
        """Name of what becomes this one; empty where nothing does."""
        return names.kept(self.name.partition("-")[0], self.adopt) if self.adopt else ""

    @property
    def adoptee(self) -> str:
        return f"{self.FAMILY}/{self.adopted}" if self.adopt else ""

    @property
    def held(self) -> Held:
        return Held(storage=self.size)


@dataclass(frozen=True, kw_only=True)
class Disk(Kept):
    """A raw disk file, called "mount-<uid>" or "root-<uid>". ``format`` is made only on an empty disk. ``source``: name of
    another disk that it begins as a copy of, which is no part of what it is then."""

    format: Literal["btrfs", "ext4"]
    source: str = field(default="", compare=False)

    FAMILY: ClassVar[str] = "disk"

    @staticmethod
    def origin_of(name: str) -> Owner | None:
        """Whose a disk is by its name alone."""
        prefix, _, uid = name.partition("-")
        return Owner(kind=_OWNERS[prefix], namespace="", name="", uid=uid) if prefix in _OWNERS and uid else None


@dataclass(frozen=True, kw_only=True)
class System(Item):
    """A virtual machine's own system on a Disk: what is in an image (``image`` is its digest, ``ref`` what the user calls it),
    written there once. From then on it is the disk's content like any other, and goes with that. Both empty: what is there
    already is one, by its user's word."""

    disk: str
    image: str
    ref: str
    firmware: Literal["bios", "uefi"] = "bios"

    FAMILY: ClassVar[str] = "system"
    RANK: ClassVar[int] = Rank.FILE

    @property
    def key(self) -> str:
        return f"{self.FAMILY}/{self.disk}"

    def grounds(self) -> Iterator[str]:
        yield f"disk/{self.disk}"


@dataclass(frozen=True, kw_only=True)
class Volume(Kept):
    """A directory for a program of the node's, of ``size`` bytes in all and no more.

    ``user`` names the account that it belongs to. ``whole`` is the driver's to deny: what is there can't be used as it is (it
    is not mounted, or not all of it is reserved)."""

    user: str
    whole: bool = True

    FAMILY: ClassVar[str] = "volume"

    @property
    def path(self) -> str:
        """The directory, relative to the node's state directory. It exists only while the volume is mounted: nobody writes to
        the node's own file system instead."""
        return f"volumes/{self.name}/data"

    @staticmethod
    def origin_of(name: str) -> Owner | None:
        """Whose a volume is by its name alone: it tells the uid, and not of which kind."""
        _, _, uid = name.partition("-")
        return Owner(kind="", namespace="", name="", uid=uid) if uid else None


@dataclass(frozen=True, kw_only=True)
class File(Item):
    """A file under the node's state directory; ``path`` is relative to it. Secret: mode 0600."""

    path: str
    content: str = field(repr=False)
    mode: int = 0o600

    FAMILY: ClassVar[str] = "file"
    RANK: ClassVar[int] = Rank.FILE

    @property
    def key(self) -> str:
        return f"{self.FAMILY}/{self.path}"
