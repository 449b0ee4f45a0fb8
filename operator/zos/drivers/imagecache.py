"""The unpacked images of a node, by content, and which of them goes when: what nobody has wanted for a while, sooner where the
disk gets full or there is more of it than the node's owner allows; the least recently wanted first, and never what a guest
stands on or a machine wants."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from zos.drivers.imagecards import Cards
from zos.drivers.meter import tree_size
from zos.drivers.mounts import mounts_at
from zos.files import Durability, write

#: Seconds for which an image is kept that nobody wants, and the share of the file system that must be free for that.
KEEP = 24 * 3600.0
_FREE = 0.10
#: Seconds after which content without a ref is nobody's.
SETTLED = 600.0
#: In the directory of an image that is an flist: that, and not what is in it.
FLIST = "image.fl"
#: Beside an image's root: how much room it takes, so that not every agent has to look.
_SIZE = "size"

_libc = ctypes.CDLL(None, use_errno=True)


def directory_of(images: Path, digest: str) -> Path:
    """Where the image with this digest is, and what belongs to it."""
    return images / digest.replace(":", "-")


def tree_of(images: Path, digest: str) -> Path:
    """Where the tree of the image with this digest is: unpacked, or where its flist is mounted, see `has_tree`."""
    return directory_of(images, digest) / "rootfs"


def has_tree(images: Path, digest: str) -> bool:
    """Whether there is a tree to look into. Asks nobody who is behind a mount."""
    tree = tree_of(images, digest)
    return is_mounted(tree) if (tree.parent / FLIST).exists() else tree.is_dir()


def is_mounted(tree: Path) -> bool:
    return bool(mounts_at([tree]))


class Cache:
    """``in_use`` gives the digests that guests stand on, whatever is wanted now; None: that is not known. ``bound`` in bytes;
    None: there is none."""

    def __init__(
        self, directory: Path, in_use: Callable[[], frozenset[str] | None], keep: float = KEEP, bound: int | None = None
    ) -> None:
        self.directory = directory
        self.cards = Cards(directory / "refs")
        self._in_use = in_use
        self._keep = keep
        self._bound = bound
        self._sizes: dict[str, int] = {}
        self._surplus: frozenset[str] = frozenset()
        directory.chmod(0o700)  # programs with the set-user-ID bit are in there

    @property
    def size(self) -> int:
        """Bytes of all unpacked images, as of the last `weigh`."""
        return sum(self._sizes.values())

    def has(self, digest: str) -> bool:
        place = directory_of(self.directory, digest)
        return (place / "image.json").exists() or (place / FLIST).exists()

    def put(self, room: Path, digest: str) -> None:
        """Makes a whole image of what was made in ``room``."""
        write(room / _SIZE, str(tree_size(room)), Durability.VOLATILE)
        place = directory_of(self.directory, digest)
        if place.exists() and not self.has(digest):
            place.rename(self.directory / f".gone-{place.name}-{os.getpid()}")
        flush(self.directory)  # a name must not survive a power cut that its content doesn't
        with contextlib.suppress(OSError):  # another ref brought the same content in the meantime
            room.rename(place)

    def cold(self, card: Path, digest: str) -> bool:
        """Whether a ref has not been wanted for long enough."""
        keep = 0.0 if digest in self._surplus or free_share(self.directory) <= _FREE else self._keep
        return time.time() - card.stat().st_mtime >= keep

    def weigh(self, wanted: frozenset[str]) -> None:
        """Finds out what is too much, given the digests that are wanted."""
        places = {place.name.replace("-", ":", 1): place for place in self.directory.glob("sha256-*")}
        self._sizes = {digest: _size_of(place, self._sizes.get(digest)) for digest, place in places.items()}
        self._surplus = frozenset()
        if self._bound is None or self.size <= self._bound or (in_use := self._in_use()) is None:
            return
        last: dict[str, float] = dict.fromkeys(places, 0.0)
        for file, card in self.cards.all():
            with contextlib.suppress(FileNotFoundError):
                last[card.digest] = max(last.get(card.digest, 0.0), file.stat().st_mtime)
        left, surplus = self.size, set[str]()
        for digest in sorted(places, key=lambda digest: last[digest]):
            if left <= self._bound:
                break
            if digest not in wanted | in_use:
                surplus.add(digest)
                left -= self._sizes[digest]
        self._surplus = frozenset(surplus)

    def forget(self, name: str) -> None:
        """Takes the ref away, and the content unless another ref or a guest has it."""
        path, card = self.cards.path(name), self.cards.get(name)
        if card is not None and not self.cold(path, card.digest):
            return  # asked for by somebody who saw it when it was wanted: it stays for the next who wants it
        self.cards.forget(name)
        if card is not None:
            others = {other.digest for _, other in self.cards.all()}
            if (in_use := self._in_use()) is not None and card.digest not in others | in_use:
                self.bury(directory_of(self.directory, card.digest))
        self.sweep()

    def sweep(self) -> None:
        """Content that no ref stands for and no guest stands on."""
        if (in_use := self._in_use()) is None:
            return
        held = {card.digest for _, card in self.cards.all()} | in_use
        for place in self.directory.glob("sha256-*"):
            # A new one gets its ref in a moment.
            if place.name.replace("-", ":", 1) not in held and time.time() - place.stat().st_ctime > SETTLED:
                self.bury(place)

    def bury(self, place: Path) -> None:
        """Takes an image away, in one step and then bit by bit. What is mounted stays, as whoever has it goes first."""
        if is_mounted(place / "rootfs"):
            return
        gone = Path(tempfile.mkdtemp(prefix=".gone-", dir=self.directory))
        with contextlib.suppress(FileNotFoundError):
            place.rename(gone / "image")
        self._sizes.pop(place.name.replace("-", ":", 1), None)
        shutil.rmtree(gone, ignore_errors=True)


def grown(place: Path, by: int) -> None:
    """What was made of an image is kept beside it, in its directory ``place``: so many bytes more. Raises OSError."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        write(place / _SIZE, str(int((place / _SIZE).read_text()) + by), Durability.VOLATILE)


def _size_of(place: Path, known: int | None) -> int:
    """Of one that came before sizes were written down it is looked up."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        return int((place / _SIZE).read_text())
    return known or tree_size(place)


def flush(directory: Path) -> None:
    """What was written to the file system that it is on survives a power cut. Raises OSError."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _libc.syncfs(fd) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    finally:
        os.close(fd)


def free_share(path: Path) -> float:
    """Of the file system that it is on."""
    room = os.statvfs(path)
    return room.f_bavail / room.f_blocks if room.f_blocks else 1.0
