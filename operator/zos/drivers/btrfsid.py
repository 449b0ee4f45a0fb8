"""A copy of a btrfs gets an id of its own: two of one id on one machine are taken for one file system, and destroy each other.

The new id stands in the superblocks alone; all other blocks go on by the old one, which is then called the metadata's (feature
METADATA_UUID, Linux 5.0). That is what `btrfstune -m` does; it would read what a guest has written, this reads three blocks.
Layout: btrfs-dev-docs, "On-disk Format", superblock.
"""

from __future__ import annotations

import os
import struct
import uuid

#: Where the copies of the superblock are, and how long one is.
_COPIES, _LENGTH = (64 << 10, 64 << 20, 256 << 30), 4096
_BTRFS = b"_BHRfS_M"
_CHECKED = 0x20  # the checksum is of what comes after its field
_FSID, _OFFSET, _MAGIC = slice(0x20, 0x30), 0x30, slice(0x40, 0x48)
_INCOMPATIBLE, _CHECKSUM_KIND, _METADATA_ID = 0xBC, 0xC4, slice(0x23B, 0x24B)
_HAS_METADATA_ID = 1 << 10
_CRC32C = 0


def renew(fd: int) -> bool:
    """Gives the btrfs in a file, that nobody has mounted, another id. False: there is none, or one that can't have one. Raises
    OSError."""
    found = [(at, block) for at in _COPIES if (block := _superblock(fd, at)) is not None]
    new = uuid.uuid4().bytes
    for at, block in found:
        (features,) = struct.unpack_from("<Q", block, _INCOMPATIBLE)
        if not features & _HAS_METADATA_ID:
            block[_METADATA_ID] = block[_FSID]
            struct.pack_into("<Q", block, _INCOMPATIBLE, features | _HAS_METADATA_ID)
        block[_FSID] = new
        struct.pack_into("<I", block, 0, crc32c(bytes(block[_CHECKED:])))
        os.pwrite(fd, block, at)
    return bool(found)


def _superblock(fd: int, at: int) -> bytearray | None:
    block = bytearray(os.pread(fd, _LENGTH, at))
    if len(block) < _LENGTH or block[_MAGIC] != _BTRFS or struct.unpack_from("<Q", block, _OFFSET) != (at,):
        return None
    checked = (crc32c(bytes(block[_CHECKED:])),)
    right = struct.unpack_from("<H", block, _CHECKSUM_KIND) == (_CRC32C,) and struct.unpack_from("<I", block, 0) == checked
    return block if right else None


def crc32c(data: bytes) -> int:
    """Castagnoli's, RFC 3720 B.4."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def _entry(value: int) -> int:
    for _ in range(8):
        value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
    return value


_TABLE = tuple(map(_entry, range(256)))
