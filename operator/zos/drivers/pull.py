"""Gets an image from where its ref says into a directory: registry, file or directory tree."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import re
from pathlib import Path

from zos.drivers import DriverError, registry, webfile
from zos.drivers.beside import beside
from zos.drivers.confined import MEMORY, program, unpacker
from zos.drivers.imageconfig import Config
from zos.drivers.localimage import opened
from zos.drivers.manifest import Manifest
from zos.drivers.meter import Meter, Refused
from zos.drivers.process import ProcessError, run
from zos.drivers.registry import last_line, wrong
from zos.drivers.sources import Pull
from zos.drivers.thread import in_thread

log = logging.getLogger("zos.images")

_WHOLE = 3600.0


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
                return _verified(pull.ref, await _unpack(pull, file)), Config()
        case _:
            raise DriverError("it must begin with oci://, https:// or file://")


def _verified(ref: str, digest: str) -> str:
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
    said = await _work(pull, source, "copytree")
    if said:
        log.info("image %s: %s", pull.ref, said.strip())
    return await in_thread(_tree_digest, pull.room / "rootfs", pull.ref)


async def _unpack(pull: Pull, file: int) -> str:
    pull.say("unpacking")
    with pull.space.hold(os.fstat(file).st_blocks * 512):  # what it will be is not known, but hardly less
        return (await _work(pull, file, "unpack")).strip()


async def _work(pull: Pull, source: int, name: str) -> str:
    """One of our unpackers, from a descriptor into ``rootfs``; gives what it said."""
    limits, root = pull.sources.limits, pull.room / "rootfs"
    await asyncio.to_thread(root.mkdir, mode=0o755)
    command = program(name, str(source), str(root), str(limits.size), str(limits.entries))
    confined = unpacker(pull.room, limits.size, *command, memory=MEMORY)
    try:
        done = await beside(lambda: run(*confined, fds=(source,), timeout=_WHOLE), Meter(root, limits, "it unpacks to").watch)
    except ProcessError as error:
        if found := re.match(r"too big: (\d+) (\d+)", said := last_line(error)):
            limits.check(int(found[1]), int(found[2]), "it unpacks to")
        raise wrong(error, said) from error
    return done.stdout


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
