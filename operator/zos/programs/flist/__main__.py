"""``python -m zos.programs.flist --flist FILE --cache DIR --cache-size BYTES [--directory DIR]… [--status FILE] MOUNTPOINT``

Serves until it is told to end (SIGTERM) or unmounted. ``MOUNTPOINT`` is a directory, or ``/dev/fd/<n>``: a FUSE descriptor that
somebody who may has mounted (``{fuse}`` of a service). ``dir://`` routes may lie below a ``--directory`` only.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import errno
import os
import signal
import sys
from pathlib import Path

from zos.programs.flist.blocks import Blocks
from zos.programs.flist.cache import Cache
from zos.programs.flist.catalogue import BadFlist, Catalogue
from zos.programs.flist.connection import Connection
from zos.programs.flist.health import Health
from zos.programs.flist.serving import Tree
from zos.programs.flist.sources import source

_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MNT_DETACH = 1, 2, 4, 2  # mount(2), umount2(2)

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    words = argparse.ArgumentParser(prog="zos.programs.flist", description="mounts an flist, read-only and lazily")
    words.add_argument("--flist", type=Path, required=True)
    words.add_argument("--cache", type=Path, required=True)
    words.add_argument("--cache-size", type=int, required=True)
    words.add_argument("--directory", type=Path, action="append", default=[])
    words.add_argument("--status", type=Path)
    words.add_argument("mountpoint")
    told = words.parse_args()
    os.umask(0o007)  # the cache is a group's
    try:
        catalogue = Catalogue(told.flist)
        sources = tuple(source(route, tuple(told.directory)) for route in catalogue.routes)
        cache = Cache(told.cache, told.cache_size)
    except BadFlist as error:
        sys.exit(f"{told.flist}: {error}")
    except OSError as error:
        sys.exit(f"{error.filename or told.cache}: {error.strerror}")
    with contextlib.suppress(KeyboardInterrupt):
        try:
            asyncio.run(_serve(catalogue, Blocks(sources, cache, Health(told.status)), told.mountpoint))
        except OSError as error:
            sys.exit(f"{error.filename or told.mountpoint}: {error.strerror}")


async def _serve(catalogue: Catalogue, blocks: Blocks, mountpoint: str) -> None:
    given = mountpoint.removeprefix("/dev/fd/")
    descriptor = _mount(mountpoint) if given == mountpoint else int(given)
    connection = Connection(descriptor, Tree(catalogue, blocks))
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, connection.end)
        await connection.serve()
    finally:
        if given == mountpoint:
            _libc.umount2(mountpoint.encode(), _MNT_DETACH)
        os.close(descriptor)
        blocks.close()
        catalogue.close()


def _mount(mountpoint: str) -> int:
    """By ourselves, where nobody has. Raises OSError."""
    _clear(mountpoint)
    descriptor = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={descriptor},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()},allow_other,default_permissions"
    flags = ctypes.c_ulong(_MS_RDONLY | _MS_NOSUID | _MS_NODEV)
    if _libc.mount(b"flist", mountpoint.encode(), b"fuse", flags, options.encode()) != 0:
        os.close(descriptor)
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), mountpoint)
    return descriptor


def _clear(mountpoint: str) -> None:
    """One that was killed leaves a mount that nobody serves, of which the kernel still knows the attributes."""
    try:
        os.statvfs(mountpoint)
    except OSError as error:
        if error.errno == errno.ENOTCONN:
            _libc.umount2(mountpoint.encode(), _MNT_DETACH)


if __name__ == "__main__":
    main()
