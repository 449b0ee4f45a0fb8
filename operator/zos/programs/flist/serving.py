"""An flist as the kernel asks for it. It never changes, so that the kernel may keep all that it was told."""

from __future__ import annotations

import errno
import stat
from collections import OrderedDict

from zos.programs.flist.blocks import Blocks
from zos.programs.flist.catalogue import BadFlist, Catalogue, Inode
from zos.programs.flist.sealing import BLOCK
from zos.programs.flist.sources import Unavailable

#: Directories, and names in them all, that are kept in memory.
_DIRECTORIES, _NAMES = 256, 100_000


class Tree:
    """Everything here raises OSError."""

    def __init__(self, catalogue: Catalogue, blocks: Blocks) -> None:
        self._catalogue, self._blocks = catalogue, blocks
        self._directories: OrderedDict[int, dict[bytes, Inode]] = OrderedDict()
        self._names = 0

    @property
    def blocks(self) -> int:
        return self._catalogue.blocks

    @property
    def entries(self) -> int:
        return self._catalogue.entries

    def inode(self, ino: int) -> Inode:
        try:
            found = self._catalogue.inode(ino)
        except BadFlist:
            raise OSError(errno.EIO, "the flist is damaged") from None
        if found is None:
            raise OSError(errno.ENOENT, "no such inode")
        return found

    def child(self, ino: int, name: bytes) -> Inode | None:
        return self._directory(ino).get(name)

    def children(self, ino: int) -> list[Inode]:
        return list(self._directory(ino).values())

    def target(self, ino: int) -> bytes:
        if not stat.S_ISLNK(self.inode(ino).mode):
            raise OSError(errno.EINVAL, "no symlink")
        try:
            return self._catalogue.target(ino)
        except BadFlist:
            raise OSError(errno.EIO, "the flist is damaged") from None

    async def read(self, ino: int, off: int, size: int) -> bytes:
        file = self.inode(ino)
        end = min(off + size, file.size)
        pieces = []
        try:
            while off < end:
                index, begin = divmod(off, BLOCK)
                plain = await self._blocks.get(self._catalogue.block(file, index))
                pieces.append(plain[begin : begin + end - off])
                off += len(pieces[-1])
            # One block more than is asked for, for who reads on: it is on its way while this one is looked at.
            following = -(-off // BLOCK)
            if 0 < off < file.size and following * BLOCK < file.size and off % BLOCK >= BLOCK // 2:
                self._blocks.ahead(self._catalogue.block(file, following))
        except (Unavailable, BadFlist):
            raise OSError(errno.EIO, "it can't be had") from None
        return b"".join(pieces)

    def _directory(self, ino: int) -> dict[bytes, Inode]:
        if ino in self._directories:
            self._directories.move_to_end(ino)
            return self._directories[ino]
        try:
            found = {child.name: child for child in self._catalogue.children(ino)}
        except BadFlist:
            raise OSError(errno.EIO, "the flist is damaged") from None
        self._directories[ino] = found
        self._names += len(found)
        while len(self._directories) > 1 and (len(self._directories) > _DIRECTORIES or self._names > _NAMES):
            _, gone = self._directories.popitem(last=False)
            self._names -= len(gone)
        return found
