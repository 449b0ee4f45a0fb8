"""An flist as the kernel asks for it. It never changes, so that the kernel may keep all that it was told."""

from __future__ import annotations

import errno
import os
import stat
from collections import OrderedDict

import pyfuse3
from pyfuse3 import EntryAttributes, FileHandleT, FileInfo, FileNameT, FUSEError, InodeT, ReaddirToken, RequestContext

from zos.programs.flist.blocks import Blocks
from zos.programs.flist.catalogue import BadFlist, Catalogue, Inode
from zos.programs.flist.sealing import BLOCK
from zos.programs.flist.sources import Unavailable

_FOREVER = 365 * 86400.0
#: Directories, and names in them all, that are kept in memory.
_DIRECTORIES, _NAMES = 256, 100_000
_SECOND = 10**9


class Tree(pyfuse3.Operations):
    enable_writeback_cache = False
    supports_dot_lookup = False

    def __init__(self, catalogue: Catalogue, blocks: Blocks) -> None:
        super().__init__()
        self._catalogue, self._blocks = catalogue, blocks
        self._directories: OrderedDict[int, dict[bytes, Inode]] = OrderedDict()
        self._names = 0

    async def lookup(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> EntryAttributes:
        found = self._directory(parent_inode).get(name)
        return _attributes(found) if found is not None else _absent()

    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        return _attributes(self._inode(inode))

    async def readlink(self, inode: InodeT, ctx: RequestContext) -> FileNameT:
        if not stat.S_ISLNK(self._inode(inode).mode):
            raise FUSEError(errno.EINVAL)
        return FileNameT(self._catalogue.target(inode))

    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        return FileHandleT(inode)

    async def readdir(self, fh: FileHandleT, start_id: int, token: ReaddirToken) -> None:
        entries = list(self._directory(fh).values())
        for number in range(start_id, len(entries)):
            if not pyfuse3.readdir_reply(token, FileNameT(entries[number].name), _attributes(entries[number]), number + 1):
                return

    async def open(self, inode: InodeT, flags: int, ctx: RequestContext) -> FileInfo:
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise FUSEError(errno.EROFS)
        return FileInfo(fh=FileHandleT(inode), keep_cache=True)

    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        file = self._inode(fh)
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
            raise FUSEError(errno.EIO) from None
        return b"".join(pieces)

    async def statfs(self, ctx: RequestContext) -> pyfuse3.StatvfsData:
        told = pyfuse3.StatvfsData()
        told.f_bsize = told.f_frsize = BLOCK
        told.f_blocks = self._catalogue.blocks
        told.f_files = self._catalogue.entries
        told.f_namemax = 255
        return told

    def _inode(self, ino: int) -> Inode:
        try:
            found = self._catalogue.inode(ino)
        except BadFlist:
            raise FUSEError(errno.EIO) from None
        if found is None:
            raise FUSEError(errno.ENOENT)
        return found

    def _directory(self, ino: int) -> dict[bytes, Inode]:
        if ino in self._directories:
            self._directories.move_to_end(ino)
            return self._directories[ino]
        try:
            found = {child.name: child for child in self._catalogue.children(ino)}
        except BadFlist:
            raise FUSEError(errno.EIO) from None
        self._directories[ino] = found
        self._names += len(found)
        while len(self._directories) > 1 and (len(self._directories) > _DIRECTORIES or self._names > _NAMES):
            _, gone = self._directories.popitem(last=False)
            self._names -= len(gone)
        return found


def _attributes(inode: Inode) -> EntryAttributes:
    told = EntryAttributes()
    told.st_ino = InodeT(inode.ino)
    told.entry_timeout = told.attr_timeout = _FOREVER
    told.st_mode = inode.mode
    told.st_nlink = 1
    told.st_uid, told.st_gid = inode.uid, inode.gid
    told.st_size = inode.size
    told.st_blksize = BLOCK
    told.st_blocks = -(-inode.size // 512)
    told.st_atime_ns = told.st_mtime_ns = inode.mtime * _SECOND
    told.st_ctime_ns = inode.ctime * _SECOND
    return told


def _absent() -> EntryAttributes:
    """The kernel need not ask again: the name is not there, and won't be."""
    told = EntryAttributes()
    told.st_ino = InodeT(0)
    told.entry_timeout = _FOREVER
    return told
