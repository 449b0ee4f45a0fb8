"""What volumes are made of on the node's file system, and what can be seen of one.

- ``<name>.img`` is its file system. It gets that name only when it is complete, so what has a name is never formatted.
- ``<name>/`` is where it is mounted, ``<name>/data/`` in it what its user sees: without the mount there is no such directory.
- ``<name>.json`` is the card that says whose it is; where that is lost, the uid in the name says it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from zos import files
from zos.api.nodeworkload import Owner
from zos.drivers import DriverError, ext4, loopmount
from zos.drivers.reservation import reserve


@dataclass(frozen=True)
class Card:
    """What is written down beside a volume. ``uid`` is the number that ``user`` had then."""

    owner: str
    user: str
    uid: int
    origin: Owner | None = None


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A volume as it is. ``size`` in bytes; ``problem``: why it can't be used, empty where it can. ``spare``: not all of its
    image is reserved, or its file system takes less than that. ``uid`` is its user's number; ``stored``: something may be in
    it. ``capacity`` and ``used`` are of its directory, None where that could not be looked at."""

    size: int
    problem: str
    spare: bool = False
    uid: int | None = None
    stored: bool = True
    capacity: int | None = None
    used: int = 0


class VolumeFiles:
    """The directory of all volumes. Its methods block and raise OSError."""

    def __init__(self, directory: Path) -> None:
        """It is made. What an agent that died has half made or half erased is cleared."""
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o711)  # users pass through
        self.directory = directory.resolve()
        files.clear(self.directory)
        for half in self.directory.glob(".new-*"):
            clear(half)
        for erased in self.directory.glob(".erased-*.img"):
            self._erased(erased.name.removeprefix(".erased-").removesuffix(".img"), erased)

    def image(self, name: str) -> Path:
        return self.directory / f"{name}.img"

    def place(self, name: str) -> Path:
        return self.directory / name

    def data(self, name: str) -> Path:
        return self.directory / name / "data"

    def names(self) -> Iterator[str]:
        """Of those that have an image."""
        for path in self.directory.glob("[!.]*.img"):
            yield path.name.removesuffix(".img")

    def card(self, name: str) -> Card | None:
        try:
            card = json.loads((self.directory / f"{name}.json").read_text())
            origin = Owner.model_validate(card["origin"]) if "origin" in card else None
            return Card(str(card["owner"]), str(card["user"]), int(card["uid"]), origin)
        except (FileNotFoundError, IsADirectoryError, ValueError, KeyError, TypeError, ValidationError):
            return None

    def write_card(self, name: str, card: Card) -> None:
        origin = {"origin": card.origin.wire()} if card.origin is not None else {}
        text = json.dumps({"owner": card.owner, "user": card.user, "uid": card.uid, **origin})
        files.write(self.directory / f"{name}.json", text, files.Durability.DURABLE)

    def named(self, image: Path, name: str) -> None:
        """A complete image, or that of another volume, is that of this one from now on."""
        image.rename(self.image(name))
        files.sync(self.directory)

    def settle(self, name: str, card: Card) -> None:
        """It is its user's alone, and the card says so."""
        if self.data(name).stat().st_mode & 0o7777 != 0o700:
            self.data(name).chmod(0o700)
        there = self.card(name)
        if there is None or (there.user, there.uid) != (card.user, card.uid):
            self.write_card(name, card)

    def resize(self, name: str, size: int) -> None:
        """Reserves all of the image, holes included, and then gives it its size: until that changes a crash leaves only a
        reservation. Raises DriverError where there is no room."""
        fd = os.open(self.image(name), os.O_RDWR | os.O_CLOEXEC)
        try:
            info = os.fstat(fd)
            if info.st_blocks * 512 < info.st_size:
                reserve(fd, 0, info.st_size, f"volume {name}")
            if size > info.st_size:
                reserve(fd, info.st_size, size, f"volume {name}")
            os.ftruncate(fd, size)
        except DriverError:
            os.ftruncate(fd, info.st_size)  # gives back what was got of it
            raise
        finally:
            os.close(fd)

    def erase(self, name: str) -> None:
        """It loses its name first: no crash leaves half of it to be taken for somebody's data."""
        erased = self.directory / f".erased-{name}.img"
        with contextlib.suppress(FileNotFoundError):
            self.image(name).rename(erased)
        files.sync(self.directory)
        self._erased(name, erased)

    def _erased(self, name: str, erased: Path) -> None:
        self.forget(name)
        erased.unlink(missing_ok=True)

    def forget(self, name: str) -> None:
        """What is beside the image."""
        with contextlib.suppress(OSError):  # it may be gone, and what somebody has put into it is not ours
            self.place(name).rmdir()
        (self.directory / f"{name}.json").unlink(missing_ok=True)
        files.sync(self.directory)

    def look(self, name: str, mount: loopmount.Mount | None) -> Seen | None:
        """None: it is gone since it was listed."""
        image = self.image(name)
        try:
            info = image.stat()
        except FileNotFoundError:
            problem = "its image file is gone; what is in it can be copied for as long as it stays mounted"
            return Seen(size=_room(self.place(name))[0], problem=problem) if mount is not None else None
        if mount is None:
            return Seen(size=size_told(info.st_size, ext4.size_of(image)), problem="it is not mounted")
        loop = mount.loop
        if loop is None or loop.file() != (info.st_dev, info.st_ino):
            return Seen(size=info.st_size, problem="something else is mounted in its place")
        size = size_told(info.st_size, ext4.size_of(loop.path))
        try:
            user, (capacity, used), stored = self.data(name).stat(), _room(self.place(name)), self.stored(name)
        except OSError as error:  # EIO, EUCLEAN: the kernel can't read it
            return Seen(size=size, problem=f"it can't be read: {error.strerror}")
        return Seen(
            size=size,
            problem=illness(mount, loop),
            spare=info.st_blocks * 512 < info.st_size or size != info.st_size,
            uid=user.st_uid if user.st_uid == user.st_gid else None,
            stored=stored,
            capacity=capacity,
            used=used,
        )

    def stored(self, name: str) -> bool:
        """Whether anything was ever stored in it: by itself it tells, empty and last changed at the epoch, as it was made."""
        with os.scandir(self.data(name)) as entries:
            return self.data(name).stat().st_mtime_ns != 0 or any(True for _ in entries)


def size_told(image: int, taken: int | None) -> int:
    """The size of a volume: that of its image, unless its file system has not grown to that yet."""
    return image if taken is None or image - taken < ext4.SLACK else taken


def illness(mount: loopmount.Mount | None, loop: loopmount.Loop) -> str:
    """Why a mounted volume takes no more writes, for people; empty where it does. ``mount`` is None where only another mount
    namespace has it. Not every kernel shows in the table of mounts that a file system with errors was made read-only (6.18
    does, Debian's 6.1 does not)."""
    since = ext4.failing_since(loop.name)
    if since is None:
        return "its file system takes no more writes" if mount is not None and mount.read_only else ""
    when = datetime.fromtimestamp(since, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return f"its file system has had errors since {when}, and takes no more writes"


def clear(half: Path) -> None:
    if half.is_dir():
        shutil.rmtree(half)
    else:
        half.unlink(missing_ok=True)


def _room(place: Path) -> tuple[int, int]:
    """How much a mounted file system can hold, and does."""
    room = os.statvfs(place)
    return room.f_blocks * room.f_frsize, (room.f_blocks - room.f_bfree) * room.f_frsize
