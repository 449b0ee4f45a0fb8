"""ext4 file systems in files: made, checked, measured, grown. The programs are e2fsprogs'."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from pathlib import Path

from zos.drivers import DriverError
from zos.drivers.process import run

BLOCK = 4096
#: Smaller ones can't have a journal of a sensible size.
SMALLEST = 16 << 20
#: What can be missing at the end of a file system's room: a block group too short for its own tables and some data.
SLACK = 4 << 20
#: Errors stop the writes, and never the node. What zeroes there are to be written are there already: the space is new.
OPTIONS = "errors=remount-ro,nodiscard,noinit_itable"

#: Those that every kernel from 4.4 on can mount: an agent's image may be newer than its node.
_FEATURES = (
    "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,"
    "dir_nlink,extra_isize,metadata_csum"
)
_RESIZE = 0x40086610  # EXT4_IOC_RESIZE_FS: _IOW('f', 16, __u64)
_LONG = 3600.0
#: e2fsck(8): errors were found and corrected.
_MENDED = 1 | 2


async def make(image: Path, content: Path) -> None:
    """In a file that is all zeroes, with what is in the folder ``content``, its owners, modes and times."""
    # Never a discard: it would give back what is reserved.
    extended = "nodiscard,assume_storage_prezeroed=1"
    shape = ("-b", str(BLOCK), "-I", "256", "-i", "16384", "-m", "0", "-O", _FEATURES, "-E", extended)
    await run("mkfs.ext4", "-q", "-F", *shape, "-d", str(content), str(image), timeout=600)


async def check(image: Path, *, whole: bool = False) -> None:
    """Mends what can be mended without a loss; looks at everything only where the file system itself says that something is
    wrong, or if asked to (``whole``). It must not be mounted. Raises DriverError for what only a person can mend."""
    result = await run("e2fsck", "-p", *(("-f",) if whole else ()), str(image), timeout=_LONG, check=False)
    if result.code < 0 or result.code & ~_MENDED:
        said = (result.stderr.strip() or result.stdout.strip())[-300:]
        raise DriverError(f"its file system can't be mended without a person, and stays as it is (see e2fsck {image}): {said}")


def size_of(file: Path) -> int | None:
    """How much of the file (or of the device, where it is mounted) the file system takes. None: there is none."""
    with open(file, "rb") as opened:
        opened.seek(1024)
        block = opened.read(1024)
    if len(block) < 1024 or block[0x38:0x3A] != b"\x53\xef":
        return None
    (low,), (log,), (high,) = (struct.unpack_from("<I", block, at) for at in (0x4, 0x18, 0x150))
    wide = struct.unpack_from("<I", block, 0x60)[0] & 0x80  # 64bit
    return int((low + (high << 32 if wide else 0)) << (10 + min(log, 6)))


def failing_since(device: str) -> int | None:
    """When errors were first found in the file system that is mounted from a device (seconds since the epoch). None: none were,
    since it was checked last."""
    try:
        return int(Path("/sys/fs/ext4", device, "first_error_time").read_text()) or None
    except (OSError, ValueError):  # not mounted any more
        return None


def grow(mounted: Path, size: int) -> bool:
    """While it is in use. False: this process may not (it has no CAP_SYS_RESOURCE)."""
    fd = os.open(mounted, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _RESIZE, struct.pack("=Q", size // BLOCK))
    except PermissionError:
        return False
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise DriverError("another process is growing its file system") from error
        raise
    finally:
        os.close(fd)
    return True


async def grow_unmounted(image: Path) -> None:
    """To all of its file."""
    await check(image, whole=True)
    await run("resize2fs", str(image), timeout=_LONG)
