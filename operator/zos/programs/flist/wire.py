"""Linux' FUSE protocol (include/uapi/linux/fuse.h, 7.31), as far as a file system needs it that never changes: what the kernel
asks, and how that is answered."""

from __future__ import annotations

import stat
import struct
from dataclasses import dataclass
from enum import IntEnum

from zos.programs.flist.catalogue import Inode

MAJOR, MINOR = 7, 31
#: The oldest kernel's whose answers have the form that they have here (Linux 3.15).
OLDEST = 23
#: Bytes of the longest question: nobody writes.
QUESTION = 128 << 10
#: As long as the kernel can remember: nothing ever changes.
_FOREVER = 365 * 86400

_IN = struct.Struct("<IIQQIIII")
_OUT = struct.Struct("<IiQ")
_INIT_IN = struct.Struct("<IIII")
_INIT_OUT = struct.Struct("<IIIIHHIIHHI28x")
_READ_IN = struct.Struct("<QQI")
_OPEN_IN = struct.Struct("<I")
_OPEN_OUT = struct.Struct("<QII")
_ENTRY = struct.Struct("<QQQQII")
_ATTRIBUTES = struct.Struct("<QQQQQQIIIIIIIIII")
_GETATTR_OUT = struct.Struct("<QII")
_STATFS = struct.Struct("<QQQQQIIII24x")
_DIRENT = struct.Struct("<QQII")

_ASYNC_READ, _READDIRPLUS, _PARALLEL, _MAX_PAGES, _CACHE_SYMLINKS = 1 << 0, 1 << 13, 1 << 18, 1 << 22, 1 << 23
_KEEP_CACHE, _CACHE_DIRECTORY = 1 << 1, 1 << 3
_PAGES, _BACKGROUND = 256, 64
_BLOCK_SIZE = 512 << 10


class Opcode(IntEnum):
    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    SETXATTR = 21
    REMOVEXATTR = 24
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    CREATE = 35
    INTERRUPT = 36
    DESTROY = 38
    NOTIFY_REPLY = 41
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    COPY_FILE_RANGE = 47
    TMPFILE = 51


#: To which nobody listens for an answer.
UNANSWERED = frozenset({Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT, Opcode.NOTIFY_REPLY})
#: What would change something.
CHANGES = frozenset(
    {
        *(Opcode.SETATTR, Opcode.SYMLINK, Opcode.MKNOD, Opcode.MKDIR, Opcode.UNLINK, Opcode.RMDIR, Opcode.RENAME, Opcode.LINK),
        *(Opcode.WRITE, Opcode.SETXATTR, Opcode.REMOVEXATTR, Opcode.CREATE, Opcode.FALLOCATE, Opcode.RENAME2),
        *(Opcode.COPY_FILE_RANGE, Opcode.TMPFILE),
    }
)


@dataclass(frozen=True)
class Request:
    """``node`` is the inode that it is about, ``body`` what follows the header."""

    opcode: int
    unique: int
    node: int
    body: bytes

    @classmethod
    def of(cls, data: bytes) -> Request:
        _, opcode, unique, node, *_ = _IN.unpack_from(data)
        return cls(opcode, unique, node, data[_IN.size :])

    @property
    def name(self) -> bytes:
        return self.body.partition(b"\0")[0]

    @property
    def span(self) -> tuple[int, int]:
        """Of a read: offset and size."""
        _, offset, size = _READ_IN.unpack_from(self.body)
        return offset, size

    @property
    def flags(self) -> int:
        """Of an open, as of open(2)."""
        return int(_OPEN_IN.unpack_from(self.body)[0])


def answer(unique: int, body: bytes = b"", error: int = 0) -> bytes:
    """``error`` is an errno."""
    return _OUT.pack(_OUT.size + len(body), -error, unique) + body


def initialised(body: bytes) -> bytes | None:
    """The answer to what the kernel says first; None: it is one that this can't talk to."""
    major, minor, ahead, offered = _INIT_IN.unpack_from(body)
    if major != MAJOR or minor < OLDEST:
        return None
    flags = offered & (_ASYNC_READ | _READDIRPLUS | _PARALLEL | _MAX_PAGES | _CACHE_SYMLINKS)
    threshold = _BACKGROUND * 3 // 4
    return _INIT_OUT.pack(MAJOR, min(minor, MINOR), ahead, flags, _BACKGROUND, threshold, 4096, 1, _PAGES, 0, 0)


def entry(inode: Inode | None) -> bytes:
    """None: the name is not there, and won't be."""
    told = _ENTRY.pack(inode.ino if inode is not None else 0, 0, _FOREVER, _FOREVER, 0, 0)
    return told + (_attributes(inode) if inode is not None else bytes(_ATTRIBUTES.size))


def attributes(inode: Inode) -> bytes:
    return _GETATTR_OUT.pack(_FOREVER, 0, 0) + _attributes(inode)


def opened(*, directory: bool) -> bytes:
    return _OPEN_OUT.pack(0, _KEEP_CACHE | (_CACHE_DIRECTORY if directory else 0), 0)


def statfs(blocks: int, files: int) -> bytes:
    return _STATFS.pack(blocks, 0, 0, files, 0, _BLOCK_SIZE, 255, _BLOCK_SIZE, 0)


def listed(entries: list[Inode], first: int, size: int, *, plus: bool) -> bytes:
    """Those from number ``first`` on that have room in so many bytes; ``plus``: with all that is known of each."""
    told = bytearray()
    for number in range(first, len(entries)):
        inode = entries[number]
        record = _DIRENT.pack(inode.ino, number + 1, len(inode.name), stat.S_IFMT(inode.mode) >> 12) + inode.name
        record = (entry(inode) if plus else b"") + record + bytes(-len(record) % 8)
        if len(told) + len(record) > size:
            break
        told += record
    return bytes(told)


def _attributes(inode: Inode) -> bytes:
    times = (inode.mtime, inode.mtime, inode.ctime, 0, 0, 0)
    return _ATTRIBUTES.pack(
        inode.ino, inode.size, -(-inode.size // 512), *times, inode.mode, 1, inode.uid, inode.gid, 0, _BLOCK_SIZE, 0
    )
