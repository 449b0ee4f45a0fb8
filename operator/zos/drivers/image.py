"""The node's cache of unpacked images, by content: one copy of the same content for all machines that use it.

``<digest>/rootfs`` and ``<digest>/image.json`` (what is known of it) appear together, by a rename; ``refs/`` says which ref
a person wrote stands for which digest. What nobody has wanted for a while goes, sooner where the disk gets full.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from zos.drivers import DriverError
from zos.drivers.imagetree import look
from zos.drivers.process import run
from zos.drivers.pull import Config, Registries, digest_of, fetch
from zos.drivers.thread import in_thread
from zos.plan.diff import Observed, Op
from zos.plan.facts import ImageFact
from zos.plan.items import Image, Item

#: Seconds for which an image is kept that nobody wants, and the share of the file system that must be free for that.
KEEP = 24 * 3600.0
_FREE = 0.10
#: Seconds after which content without a ref is nobody's.
_SETTLED = 600.0
#: Pulls at once: more only make each slower.
_PULLS = 2

_libc = ctypes.CDLL(None, use_errno=True)


def directory_of(images: Path, digest: str) -> Path:
    """Where the image with this digest is, its root file system in ``rootfs`` below."""
    return images / digest.replace(":", "-")


class ImageDriver:
    """Image items. ``in_use`` gives the digests that guests stand on, whatever is wanted now; None: that is not known."""

    ITEMS: ClassVar[tuple[type[Item], ...]] = (Image,)
    SLOW: ClassVar[bool] = True
    #: Seconds; an image that is published later should be found soon.
    LAST_RETRY: ClassVar[float] = 30.0

    def __init__(
        self,
        directory: Path,
        registries: Registries | None = None,
        in_use: Callable[[], frozenset[str] | None] = frozenset,
        keep: float = KEEP,
    ) -> None:
        self._directory = directory
        self._refs = directory / "refs"
        self._registries = registries or Registries()
        self._in_use = in_use
        self._keep = keep
        self._facts: dict[str, ImageFact | str] = {}
        self._progress: dict[str, str] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._pulls = asyncio.Semaphore(_PULLS)
        self._dirty: Callable[[], None] = lambda: None
        self._told = 0.0
        self._swept = time.monotonic()
        self._refs.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o700)  # programs with the set-user-ID bit are in there
        for half in (*directory.glob(".new-*"), *directory.glob(".gone-*")):
            shutil.rmtree(half, ignore_errors=True)

    def facts(self) -> Mapping[str, ImageFact | str]:
        return self._facts

    def progress(self, key: str) -> str:
        return self._progress.get(key, "")

    async def observe(self, wanted: Sequence[Item]) -> Mapping[str, Observed]:
        refs = {item.ref for item in wanted if isinstance(item, Image)}
        return await asyncio.to_thread(self._observe, refs)

    async def apply(self, op: Op) -> None:
        ref = op.key.removeprefix("image/")
        try:
            if op.item is None:
                await in_thread(self._forget, ref)
                return
            async with self._pulls:
                await self._get(ref, op.key)
        except DriverError as error:
            self._facts[ref] = str(error)
            raise
        except OSError as error:
            self._facts[ref] = f"image {ref}: {error.strerror or error}"
            raise DriverError(self._facts[ref]) from error
        finally:
            self._progress.pop(op.key, None)

    def watch(self, dirty: Callable[[], None]) -> None:
        self._dirty = dirty

    async def close(self) -> None:
        self._dirty = lambda: None

    def _observe(self, wanted: set[str]) -> dict[str, Observed]:
        observed: dict[str, Observed] = {}
        for file in self._refs.glob("*.json"):
            try:
                card = json.loads(file.read_text())
                ref, digest, source = str(card["ref"]), str(card["digest"]), card["source"]
            except (OSError, ValueError, KeyError, TypeError):
                file.unlink(missing_ok=True)
                continue
            key = f"image/{ref}"
            if ref in wanted:
                fact = self._fact(ref, digest)
                if fact is None or source != (_source(ref) or source):
                    continue  # unpacked content that is gone, or an archive that was replaced
                self._facts[ref] = fact
                os.utime(file)
                observed[key] = Observed(key, Image(ref=ref))
            elif self._cold(file):
                observed[key] = Observed(key, Image(ref=ref))
        for ref in self._facts.keys() - wanted:
            del self._facts[ref]
        if time.monotonic() - self._swept > _SETTLED:
            self._swept = time.monotonic()
            self._sweep()
        return observed

    def _fact(self, ref: str, digest: str) -> ImageFact | None:
        known = self._facts.get(ref)
        place = directory_of(self._directory, digest)
        if isinstance(known, ImageFact) and known.digest == digest and (place / "image.json").exists():
            return known
        try:
            text = json.loads((place / "image.json").read_text())
            for field in ("entrypoint", "command", "environment"):
                text[field] = tuple(text[field])
            text["executables"] = frozenset(text["executables"]) if text["executables"] is not None else None
            return ImageFact(**text)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    async def _get(self, ref: str, key: str) -> None:
        source = await asyncio.to_thread(_source, ref)
        self._say(key, "looking")
        digest = await digest_of(ref, self._registries)
        async with self._locks.setdefault(digest or ref, asyncio.Lock()):
            place = directory_of(self._directory, digest) if digest else None
            if place is None or not await asyncio.to_thread((place / "image.json").exists):
                digest = await self._make(ref, digest, key)
            assert digest is not None
            await in_thread(self._remember, ref, digest, source)
            fact = await asyncio.to_thread(self._fact, ref, digest)
            if fact is None:
                raise DriverError(f"image {ref}: what was unpacked is gone again")
            self._facts[ref] = fact

    async def _make(self, ref: str, digest: str | None, key: str) -> str:
        room = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix=".new-", dir=self._directory))
        try:
            digest, config = await fetch(ref, digest, room, self._registries, lambda text: self._say(key, text))
            self._say(key, "looking through it")
            await in_thread(self._finish, ref, digest, room, config)
            return digest
        finally:
            await self._erase(room)

    def _finish(self, ref: str, digest: str, room: Path, config: Config) -> None:
        root = room / "rootfs"
        tree = look(root, ref)
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(room / "oci")
        fact = {"digest": digest, **dataclasses.asdict(config), **dataclasses.asdict(tree)}
        fact["links"] = tree.links or {}
        (room / "image.json").write_text(json.dumps(fact))
        room.chmod(0o755)
        place = directory_of(self._directory, digest)
        if place.exists() and not (place / "image.json").exists():
            place.rename(self._directory / f".gone-{place.name}-{os.getpid()}")
        _sync(self._directory)  # a name must not survive a power cut that its content doesn't
        with contextlib.suppress(OSError):  # another ref brought the same content in the meantime
            room.rename(place)

    def _remember(self, ref: str, digest: str, source: str) -> None:
        card = self._card(ref)
        new = card.with_name(f".{card.name}.new")
        new.write_text(json.dumps({"ref": ref, "digest": digest, "source": source}))
        new.rename(card)

    def _forget(self, ref: str) -> None:
        """Takes the ref away, and the content unless another ref or a guest has it."""
        card = self._card(ref)
        if card.exists() and not self._cold(card):
            return  # asked for by somebody who saw it when it was wanted: it stays for the next who wants it
        with contextlib.suppress(OSError, ValueError, KeyError):
            digest = json.loads(card.read_text())["digest"]
            card.unlink()
            others = {json.loads(other.read_text())["digest"] for other in self._refs.glob("*.json")}
            if (in_use := self._in_use()) is not None and digest not in others | in_use:
                self._bury(directory_of(self._directory, digest))
        card.unlink(missing_ok=True)
        self._sweep()

    def _cold(self, card: Path) -> bool:
        """Whether a ref has not been wanted for long enough."""
        keep = self._keep if _free_share(self._directory) > _FREE else 0.0
        return time.time() - card.stat().st_mtime >= keep

    def _sweep(self) -> None:
        """Content that no ref stands for and no guest stands on."""
        if (in_use := self._in_use()) is None:
            return
        held = {json.loads(card.read_text())["digest"] for card in self._refs.glob("*.json")} | in_use
        for place in self._directory.glob("sha256-*"):
            # A new one gets its ref in a moment.
            if place.name.replace("-", ":", 1) not in held and time.time() - place.stat().st_ctime > _SETTLED:
                self._bury(place)

    def _bury(self, place: Path) -> None:
        gone = Path(tempfile.mkdtemp(prefix=".gone-", dir=self._directory))
        with contextlib.suppress(FileNotFoundError):
            place.rename(gone / "image")
        shutil.rmtree(gone, ignore_errors=True)

    async def _erase(self, room: Path) -> None:
        if await asyncio.to_thread(room.exists):
            await run("rm", "-rf", "--one-file-system", str(room), timeout=600, check=False)

    def _card(self, ref: str) -> Path:
        return self._refs / f"{hashlib.sha256(ref.encode()).hexdigest()[:32]}.json"

    def _say(self, key: str, text: str) -> None:
        self._progress[key] = text
        if time.monotonic() - self._told >= 1.0:
            self._told = time.monotonic()
            self._dirty()


def _source(ref: str) -> str:
    """What tells a changed archive on the node from the one that was unpacked; empty where only the ref counts."""
    if ref.startswith("file://"):
        with contextlib.suppress(OSError):
            info = os.stat(ref.removeprefix("file://"))
            return f"{info.st_size}.{info.st_mtime_ns}" if not os.path.isdir(ref.removeprefix("file://")) else "directory"
    return ""


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _libc.syncfs(fd) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    finally:
        os.close(fd)


def _free_share(path: Path) -> float:
    room = os.statvfs(path)
    return room.f_bavail / room.f_blocks if room.f_blocks else 1.0
