"""Gets an image from where its ref says into a directory: registry, file or directory tree."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

from zos.drivers import DriverError, registry, webfile
from zos.drivers.imageconfig import Config
from zos.drivers.localimage import opened
from zos.drivers.manifest import Manifest
from zos.drivers.meter import Refused
from zos.drivers.sources import Pull
from zos.drivers.thread import in_thread
from zos.drivers.unpacking import unpack

log = logging.getLogger("zos.images")


async def look(pull: Pull) -> Manifest | None:
    """What the content is where the source tells it before it is fetched, else None. Raises DriverError."""
    return await registry.inspect(pull) if pull.ref.startswith("oci://") else None


async def fetch(pull: Pull, known: Manifest | None) -> tuple[str, Config]:
    """Fills ``rootfs`` in the room and gives the content's digest and the image's config, after `look`. Raises DriverError
    with a text that says what to do."""
    match pull.ref.partition("://")[0]:
        case "oci" if known is not None:
            return await registry.fetch(pull, known)
        case "file":
            with opened(pull.ref, pull.sources.directories) as (source, is_directory):
                return await (_copy if is_directory else _unpack)(pull, source), Config()
        case "https":
            with await webfile.download(pull) as file:
                return verified(pull.ref, await _unpack(pull, file)), Config()
        case _:
            raise DriverError("it must begin with oci://, https:// or file://")


def verified(ref: str, digest: str) -> str:
    """Raises Refused where the ref says another checksum."""
    expected = ref.partition("#")[2]
    if expected and expected != digest:
        raise Refused(
            f"its checksum is {digest}, and the image's address asks for {expected}: correct the one or the other, or ask who "
            "publishes it"
        )
    return digest


async def _copy(pull: Pull, source: int) -> str:
    pull.say("copying")
    said = await unpack(pull, "copytree", source, 0)
    if said:
        log.info("image %s: %s", pull.ref, said.strip())
    return await in_thread(_tree_digest, pull.room / "rootfs", pull.ref)


async def _unpack(pull: Pull, file: int) -> str:
    pull.say("unpacking")
    return (await unpack(pull, "unpack", file, os.fstat(file).st_blocks * 512)).strip()


def _tree_digest(root: Path, ref: str) -> str:
    """Where it is, and names, modes, owners, links, sizes and times of everything: contents are as different as their times. A
    tree elsewhere with all the same could be made on purpose; it is another image."""
    digest = hashlib.sha256(ref.encode("utf-8", "surrogateescape"))
    for directory, directories, files in os.walk(root):
        directories.sort()
        for name in sorted((*directories, *files)):
            path = f"{directory}/{name}"
            info = os.lstat(path)
            link = os.readlink(path) if os.path.islink(path) else ""
            fact = (path[len(str(root)) :], info.st_mode, info.st_uid, info.st_gid, info.st_size, link, info.st_mtime_ns)
            digest.update(repr(fact).encode("utf-8", "surrogateescape"))
    return f"sha256:{digest.hexdigest()}"
