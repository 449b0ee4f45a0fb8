"""What was fetched of images before they are whole: it survives a broken connection and the agent, so that nothing is fetched
twice, and goes a while after nobody has asked for it.

Layers of registry images are kept whole, by their digest, also for other images that have them. Those that came with somebody's
credentials are for those credentials alone: a digest is no secret. Files by https go on where they were broken off, each in a
directory of its own, which is its fetcher's room.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import stat
import time
from collections.abc import Iterable
from pathlib import Path

from zos.drivers import DriverError
from zos.drivers.confined import chamber
from zos.drivers.fencerules import USER
from zos.drivers.imagecache import free_share

#: Seconds for which they stay, and the share of the file system that must be free for that.
_KEEP = 6 * 3600.0
_FREE = 0.15
_PIECE = 1 << 20
_DIGEST = re.compile(r"[0-9a-f]{64}")
#: Whose layers those are that came without credentials, or with those that the node's owner gives to everybody.
_PUBLIC = "public"


def look_over(layout: Path) -> None:
    """What a fetcher has left is for root to read: a link in it, as only one leaves that was taken over, would lead him to what
    is somebody else's. Raises DriverError for one that has anything in it but files and directories; OSError."""
    left = [str(layout)]
    while left:
        path = left.pop()
        mode = os.lstat(path).st_mode
        if stat.S_ISDIR(mode):
            left += (entry.path for entry in os.scandir(path))
        elif not stat.S_ISREG(mode):
            raise DriverError("what fetched it has left something else than files: it is not used")


class HalfFetched:
    """Below a directory of its own. ``bound``: bytes at most, of which the oldest go first. ``size``: bytes, as of the last
    `sweep`."""

    def __init__(self, directory: Path, bound: int) -> None:
        self._layers = directory / "layers"
        self._files = directory / "files"
        self._bound = bound
        self._busy: set[Path] = set()
        self.size = 0
        for place in (self._layers, self._files):
            place.mkdir(parents=True, exist_ok=True, mode=0o700)

    # --- layers

    def lend(self, layout: Path, digests: Iterable[str], access: str) -> set[str]:
        """Puts those layers that are here into an OCI layout that a fetcher is about to fill, and gives their digests. It is
        made: what is there already, a fetcher has put there for us to follow. Raises OSError."""
        blobs = layout / "blobs" / "sha256"
        for place in (layout, layout / "blobs", blobs):
            place.mkdir()
            os.chown(place, USER, USER)
        lent = set()
        for digest in digests:
            name = digest.removeprefix("sha256:")
            for scope in dict.fromkeys((access or _PUBLIC, _PUBLIC)):
                layer = self._layers / scope / name
                if self._right(layer):
                    with contextlib.suppress(FileNotFoundError):
                        os.link(layer, blobs / name)
                        os.utime(layer)
                        lent.add(digest)
                        break
        return lent

    def keep(self, layout: Path, digests: Iterable[str], access: str) -> None:
        """Takes in the layers that are whole in a layout whose fetcher has ended. Whether they are what they are called is
        seen when they are lent."""
        with contextlib.suppress(DriverError, OSError):
            look_over(layout)
            for digest in digests:
                self._take(layout / "blobs" / "sha256" / digest.removeprefix("sha256:"), access)

    def rescue(self, layout: Path, access: str) -> None:
        """The same, of a layout that somebody left behind."""
        with contextlib.suppress(DriverError, OSError):
            look_over(layout)
            for blob in (layout / "blobs" / "sha256").iterdir():
                self._take(blob, access)

    def _take(self, blob: Path, access: str) -> None:
        target = self._layers / (access or _PUBLIC) / blob.name
        with contextlib.suppress(OSError):
            info = os.lstat(blob)
            if _DIGEST.fullmatch(blob.name) and stat.S_ISREG(info.st_mode) and info.st_nlink == 1:
                target.parent.mkdir(exist_ok=True)
                os.rename(blob, target)

    def _right(self, layer: Path) -> bool:
        """Those that are root's have been looked at."""
        try:
            fd = os.open(layer, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            if os.fstat(fd).st_uid == 0:
                return True
            os.fchown(fd, 0, 0)
            os.fchmod(fd, 0o400)
            digest = hashlib.sha256()
            while piece := os.read(fd, _PIECE):
                digest.update(piece)
            if digest.hexdigest() != layer.name:
                layer.unlink(missing_ok=True)
                return False
            os.fchmod(fd, 0o444)
            return True
        finally:
            os.close(fd)

    # --- files

    def room(self, ref: str) -> Path:
        """A fetcher's room, with what was fetched before."""
        room = self._files / hashlib.sha256(ref.encode()).hexdigest()[:32]
        if not room.exists():
            chamber(room)
        os.utime(room)
        self._busy.add(room)
        return room

    def leave(self, room: Path, *, done: bool) -> None:
        """``done``: it is wanted no more."""
        self._busy.discard(room)
        if done:
            shutil.rmtree(room, ignore_errors=True)

    # --- both

    def sweep(self) -> None:
        """Takes away what is old, or too much."""
        found = []
        for place in (*self._layers.glob("*/*"), *self._files.iterdir()):
            with contextlib.suppress(OSError):
                info = place.lstat()
                size = sum(inner.lstat().st_blocks for inner in place.iterdir()) if place.is_dir() else info.st_blocks
                found.append((info.st_mtime, 512 * size, place))
        left = sum(size for _, size, _ in found)
        keep = _KEEP if free_share(self._layers) > _FREE else 0.0
        for last, size, place in sorted(found):
            if place not in self._busy and (time.time() - last >= keep or left > self._bound):
                if place.is_dir():
                    shutil.rmtree(place, ignore_errors=True)
                else:
                    place.unlink(missing_ok=True)
                left -= size
        self.size = left
