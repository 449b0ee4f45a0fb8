"""Images that are flists (ADR 0024): the small file is fetched and judged like an archive, and the tree in it looked through
once the node's service has mounted it. Nothing of what its files hold is read for that but the image's configuration.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import shutil
import stat
import tempfile
import tomllib
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from zos.drivers import DriverError, diskimage, imagetext, webfile
from zos.drivers.confined import MEMORY, program, unpacker
from zos.drivers.imagecache import FLIST, directory_of, is_mounted, tree_of
from zos.drivers.imageconfig import Config, config_of
from zos.drivers.imagetree import Tree
from zos.drivers.imagetree import look as look_through
from zos.drivers.localimage import opened
from zos.drivers.meter import Limits, Refused
from zos.drivers.process import ProcessError, run
from zos.drivers.registry import CLOSED
from zos.drivers.sources import Pull, Sources
from zos.drivers.space import Space
from zos.drivers.thread import in_thread
from zos.drivers.unpacking import last_line
from zos.files import Durability, write
from zos.plan.facts import DiskImage, FlistFact

#: Bytes of an flist, which has the names alone; of its configuration; pieces that are copied.
_LARGEST, _LONGEST, _PIECE = 1 << 30, 64 << 10, 512 << 10
_MAGIC = b"SQLite format 3\0"
_CHECK = 120.0
#: The configuration, as rfs' docker2fl writes it.
_CONFIG = ".startup.toml"


def is_one(ref: str) -> bool:
    """By its name: so rfs' own tools tell it."""
    return ref.startswith(("https://", "file://")) and urlsplit(ref).path.endswith(".fl")


def fact_of(images: Path, blocks: Path, size: int, sources: Sources, digest: str) -> FlistFact | None:
    file = directory_of(images, digest) / FLIST
    if not file.exists():
        return None
    directories = tuple(str(directory) for directory in sources.directories)
    return FlistFact(
        digest=digest,
        file=str(file),
        mount=str(tree_of(images, digest)),
        blocks=str(blocks),
        size=size,
        directories=directories,
    )


async def take(pull: Pull) -> str:
    """Puts the flist into the room, if it is one that can be mounted, and gives its digest. Raises DriverError."""
    if pull.ref.startswith("file://"):
        with opened(pull.ref, pull.sources.directories) as (source, is_directory):
            if is_directory:
                raise DriverError("it is a directory, and its name is that of an flist: give it another one")
            digest = await _copy(pull, source)
    else:
        with await webfile.download(pull) as source:
            digest = await _copy(pull, source)
    await _judge(pull)
    return digest


async def _copy(pull: Pull, source: int) -> str:
    size = os.fstat(source).st_size
    limits = dataclasses.replace(pull.sources.limits, size=min(pull.sources.limits.size, _LARGEST))
    limits.check(size, 0, "as an flist, it has")
    with pull.space.hold(size):
        return await in_thread(_copied, source, pull.room / FLIST, limits)


def _copied(source: int, target: Path, limits: Limits) -> str:
    digest, size = hashlib.sha256(), 0
    with target.open("xb") as file:
        while piece := os.read(source, _PIECE):
            if size == 0 and not piece.startswith(_MAGIC):
                raise Refused("it is no flist of rfs v2 (an SQLite database): make it anew with rfs, or hack/images/flist")
            size += len(piece)
            limits.check(size, 0, "as an flist, it has")
            digest.update(piece)
            file.write(piece)
    if size == 0:
        raise Refused("it is empty")
    target.chmod(0o644)
    return f"sha256:{digest.hexdigest()}"


async def _judge(pull: Pull) -> None:
    """Its rows and its routes, by a program that can do nothing else. Raises Refused."""
    pull.say("looking through it")
    directories = [word for directory in pull.sources.directories for word in ("--directory", str(directory))]
    command = program("flist.check", str(pull.room / FLIST), *directories)
    try:
        done = await run(*unpacker(pull.room, _PIECE, *command, memory=MEMORY), timeout=_CHECK)
    except ProcessError as error:
        raise Refused(last_line(error)) from error
    await pull.fence.stand()
    for host in done.stdout.split():
        with contextlib.suppress(ValueError):  # a name: where that leads is seen when it is asked
            if pull.fence.ground.closes(ip_address(host)):
                raise Refused(f"its blocks are at {host}: {CLOSED}")


async def look(images: Path, digest: str, limits: Limits, space: Space) -> None:
    """Makes an image like others of one that is mounted. Raises DriverError."""
    place, root = directory_of(images, digest), tree_of(images, digest)
    if not is_mounted(root):
        raise DriverError("it is not mounted")
    try:
        tree = await in_thread(look_through, root, dataclasses.replace(limits, size=1 << 62))  # nothing of that is here
        config = await in_thread(_config, root)
        disk = await _disk(images, root, tree, limits, space) if tree.disk else None
        if disk is not None:
            tree = Tree(size=(place / diskimage.RAW).stat().st_blocks * 512)
        write(place / imagetext.NAME, imagetext.written(digest, config, tree, disk), Durability.VOLATILE, 0o644)
    except OSError as error:
        raise DriverError(f"its files can't be read: {error.strerror}") from error


def _config(root: Path) -> Config:
    """What it says is to be run, if it says anything. Raises DriverError, OSError."""
    try:
        with _plain(root / _CONFIG) as file:
            text = os.read(file, _LONGEST + 1)
        if len(text) > _LONGEST:
            raise DriverError(f"its /{_CONFIG} has more than {_LONGEST} bytes")
        return _configured(tomllib.loads(text.decode()))
    except FileNotFoundError:
        return Config()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DriverError(f"its /{_CONFIG} can't be understood ({str(error)[:200]})") from error


def _configured(text: dict[str, Any]) -> Config:
    """Of the startup entry: program, arguments, directory, variables."""
    entry = text.get("startup", {}).get("entry", {}).get("args", {})
    variables = [f"{name}={value}" for name, value in (entry.get("env") or {}).items()]
    program = [entry["name"]] if entry.get("name") else []
    return config_of(
        {"Entrypoint": program, "Cmd": entry.get("args") or [], "Env": variables, "WorkingDir": entry.get("dir", "")}
    )


async def _disk(images: Path, root: Path, tree: Tree, limits: Limits, space: Space) -> DiskImage:
    """All of the one disk image in it: a virtual machine's disk is written from a file that is here. Raises DriverError."""
    room = Path(await in_thread(tempfile.mkdtemp, prefix=".new-", dir=images))
    try:
        with _plain(root / tree.disk.lstrip("/")) as file:
            size = os.fstat(file).st_size
            limits.check(size, 0, "its disk image has")
            with space.hold(size):
                await in_thread(_fetch, file, room / "rootfs" / tree.disk.lstrip("/"))
                disk = await diskimage.take(room, tree.disk, limits)
        (room / diskimage.RAW).rename(root.parent / diskimage.RAW)
        return disk
    finally:
        await in_thread(shutil.rmtree, room, True)


def _fetch(source: int, target: Path) -> None:
    """Holes stay holes."""
    target.parent.mkdir(parents=True)
    with target.open("xb") as file:
        while piece := os.read(source, _PIECE):
            if piece.count(0) == len(piece):
                file.seek(len(piece), os.SEEK_CUR)
            else:
                file.write(piece)
        file.truncate()


@contextlib.contextmanager
def _plain(path: Path) -> Iterator[int]:
    """A file, and no link or anything else that a stranger could have put there. Raises OSError, FileNotFoundError for what is
    no file as well."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise FileNotFoundError
        yield fd
    finally:
        os.close(fd)
