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

import pyfuse3
import pyfuse3.asyncio

from zos.programs.flist.blocks import Blocks
from zos.programs.flist.cache import Cache
from zos.programs.flist.catalogue import BadFlist, Catalogue
from zos.programs.flist.health import Health
from zos.programs.flist.serving import Tree
from zos.programs.flist.sources import source

_MNT_DETACH = 2
#: Requests that are served at once: reads of blocks that do not come must not hold up those of blocks that are here.
_TASKS = 100


def main() -> None:
    words = argparse.ArgumentParser(prog="zos.programs.flist", description="mounts an flist, read-only and lazily")
    words.add_argument("--flist", type=Path, required=True)
    words.add_argument("--cache", type=Path, required=True)
    words.add_argument("--cache-size", type=int, required=True)
    words.add_argument("--directory", type=Path, action="append", default=[])
    words.add_argument("--status", type=Path)
    words.add_argument("mountpoint")
    told = words.parse_args()
    try:
        catalogue = Catalogue(told.flist)
        sources = tuple(source(route, tuple(told.directory)) for route in catalogue.routes)
        cache = Cache(told.cache, told.cache_size)
    except BadFlist as error:
        sys.exit(f"{told.flist}: {error}")
    except OSError as error:
        sys.exit(f"{error.filename or told.cache}: {error.strerror}")
    pyfuse3.asyncio.enable()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(catalogue, Blocks(sources, cache, Health(told.status)), told.mountpoint))


async def _serve(catalogue: Catalogue, blocks: Blocks, mountpoint: str) -> None:
    given = mountpoint.startswith("/dev/fd/")
    options = (
        {"ro"} if given else {"ro", "nosuid", "nodev", "allow_other", "default_permissions", "fsname=flist", "subtype=zos"}
    )
    if not given:
        _clear(mountpoint)
    pyfuse3.init(Tree(catalogue, blocks), mountpoint, options)
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, pyfuse3.terminate)
        await pyfuse3.main(min_tasks=1, max_tasks=_TASKS)
    finally:
        pyfuse3.close(unmount=not given)
        blocks.close()
        catalogue.close()


def _clear(mountpoint: str) -> None:
    """One that was killed leaves a mount that nobody serves, of which the kernel still knows the attributes."""
    try:
        os.statvfs(mountpoint)
    except OSError as error:
        if error.errno == errno.ENOTCONN:
            ctypes.CDLL(None).umount2(mountpoint.encode(), _MNT_DETACH)


if __name__ == "__main__":
    main()
