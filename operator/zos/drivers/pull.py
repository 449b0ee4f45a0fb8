"""Gets an image from where its ref says into a directory: registry, file or directory tree."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import zos.programs
from zos.drivers import DriverError, registry
from zos.drivers.beside import beside
from zos.drivers.confined import AT, MEMORY, fetcher, program, unpacker
from zos.drivers.fencerules import closed_in
from zos.drivers.imageconfig import Config
from zos.drivers.localimage import opened
from zos.drivers.meter import Meter
from zos.drivers.process import ProcessError, lines, run
from zos.drivers.registry import last_line
from zos.drivers.sources import Pull
from zos.drivers.thread import in_thread

log = logging.getLogger("zos.images")

_WHOLE = 3600.0
#: The interpreter itself, not a virtual environment's name for it.
_PYTHON = os.path.realpath(sys.executable)
_DOWNLOAD = Path(zos.programs.__path__[0]) / "download.py"


async def digest_of(pull: Pull) -> str | None:
    """``sha256:<hex>`` of the content where the source tells it before it is fetched, else None. Raises DriverError."""
    return await registry.inspect(pull) if pull.ref.startswith("oci://") else None


async def fetch(pull: Pull, digest: str | None) -> tuple[str, Config]:
    """Fills ``rootfs`` in the room and gives the content's digest and the image's config, after `digest_of`. Raises DriverError
    with a text that says what to do."""
    match pull.ref.partition("://")[0]:
        case "oci":
            return await registry.fetch(pull, digest)
        case "file":
            with opened(pull.ref, pull.sources.directories) as (source, is_directory):
                return await (_copy if is_directory else _unpack)(pull, source), Config()
        case "https":
            return _verified(pull.ref, await _download(pull)), Config()
        case _:
            raise DriverError("it must begin with oci://, https:// or file://")


def _verified(ref: str, digest: str) -> str:
    """Raises DriverError where the ref says another checksum."""
    expected = ref.partition("#")[2]
    if expected and expected != digest:
        raise DriverError(
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
        raise DriverError(said) from error
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


async def _download(pull: Pull) -> str:
    pull.say("downloading")
    limits = pull.sources.limits
    # Without anything of ours or of the environment: its user could not read it, and need not.
    command = fetcher(pull.fetched, limits.size, _PYTHON, "-I", "-S", "-", pull.ref, f"{AT}/archive", str(limits.size))
    meter = Meter(pull.fetched, limits, "packed, it has")
    try:
        with _descriptor(_DOWNLOAD) as source:
            await pull.fence.around(lambda: beside(lambda: _follow(pull, command, source), meter.watch))
    except ProcessError as error:
        raise _download_error(pull, error) from error
    with _descriptor(pull.fetched / "archive") as archive:
        return await _unpack(pull, archive)


@contextlib.contextmanager
def _descriptor(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


async def _follow(pull: Pull, command: list[str], source: int) -> None:
    async with contextlib.aclosing(lines(*command, stdin=source, timeout=_WHOLE)) as output:
        async for line in output:
            if re.fullmatch(r"downloading, \d+ (%|MiB)", line):
                pull.say(line)


def _download_error(pull: Pull, error: ProcessError) -> DriverError:
    said = last_line(error)
    if closed_in(said, pull.fence.ground):
        return DriverError(registry.CLOSED)
    if found := re.match(r"too big: (\d+)", said):
        pull.sources.limits.check(int(found[1]), 0, "packed, it has")
    if said.startswith("dial "):
        return DriverError("the server can't be reached")
    if said.startswith("lookup "):
        return DriverError("the server's name can't be resolved")
    if said.startswith("x509: "):
        return DriverError(f"the server's certificate is not trusted by the node: {said.removeprefix('x509: ')}")
    return DriverError(said)
