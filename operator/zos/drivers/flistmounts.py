"""Whether guests still have what their flists are mounted as. A program that ends is followed by the next one on the same mount
(ADR 0024); where that is gone, nothing that the guest asks its image is ever answered again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path

from zos.drivers.imagecache import FLIST, tree_of
from zos.drivers.mounts import MountNews, devices_of, mounts_at
from zos.drivers.virtiofsd import process_of


class FlistMounts:
    """Calls ``lost(name, uuid)`` for a guest whose image is not mounted any more as it was when it started. ``pids`` is
    libvirt's directory of process ids: who shares an image sees what was there then."""

    def __init__(self, images: Path, pids: Path, lost: Callable[[str, str], None]) -> None:
        self._images, self._pids, self._lost = images, pids, lost
        self._trees: Mapping[tuple[str, str], Path] = {}
        self._news: MountNews | None = None

    def watch(self, guests: Mapping[tuple[str, str], str]) -> None:
        """From now on these (name and uuid), with the digests of their images."""
        trees = {guest: tree_of(self._images, digest) for guest, digest in guests.items()}
        self._trees = {guest: tree for guest, tree in trees.items() if (tree.parent / FLIST).exists()}
        if self._trees and self._news is None:
            self._news = MountNews(self._look)  # before the look, so that nothing is missed
        elif not self._trees:
            self.close()
        self._look()

    def close(self) -> None:
        if self._news is not None:
            self._news.close()
            self._news = None

    def _look(self) -> None:
        here = mounts_at(self._trees.values())
        for (name, uuid), tree in self._trees.items():
            with contextlib.suppress(OSError, ValueError, LookupError):  # who is just coming, or going
                daemon = process_of(self._pids, name)
                if daemon is not None and (tree not in here or here[tree].device not in devices_of(daemon)):
                    self._lost(name, uuid)
