"""The node's cache of unpacked images, by content: one copy of the same content for all machines that use it.

``<digest>/rootfs`` (of a virtual machine's: ``<digest>/disk.raw``) and ``<digest>/image.json`` (what is known of it) appear
together, by a rename; ``refs/`` says which ref a person wrote stands for which digest. What nobody has wanted for a while goes,
sooner where the disk gets full.

Everybody who has machines on a node shares its images: what is there was public, or was opened to all of them by the node's
owner. ``file://`` refs are judged each time they are wanted, since a directory that was opened may be closed again.
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
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, TypeVar
from weakref import WeakValueDictionary

from zos.drivers import DriverError, diskimage
from zos.drivers.confined import fetchers_room
from zos.drivers.fence import Fence
from zos.drivers.imageconfig import Config
from zos.drivers.imagetree import Tree, look
from zos.drivers.localimage import NotOpened, canonical, stamp
from zos.drivers.meter import TooBig, room_for
from zos.drivers.process import run
from zos.drivers.pull import digest_of, fetch
from zos.drivers.sources import Pull, Sources
from zos.drivers.thread import in_thread
from zos.files import Durability, clear, write
from zos.plan.diff import Observed, Op
from zos.plan.facts import DiskImage, Fact, ImageFact, ImageProblem, Known, Pulled
from zos.plan.items import Image, Item

#: Seconds for which an image is kept that nobody wants, and the share of the file system that must be free for that.
KEEP = 24 * 3600.0
_FREE = 0.10
#: Seconds after which content without a ref is nobody's.
_SETTLED = 600.0
#: Pulls at once: more only make each slower.
_PULLS = 2
#: Seconds for which a source that gave too much is not asked again, and content that will always be too much.
_REFUSED, _REFUSED_CONTENT = 600.0, 24 * 3600.0
#: Characters of a message: strangers' names are in some.
_LONGEST = 1500

T = TypeVar("T")
_libc = ctypes.CDLL(None, use_errno=True)


def directory_of(images: Path, digest: str) -> Path:
    """Where the image with this digest is, its root file system in ``rootfs`` below."""
    return images / digest.replace(":", "-")


class ImageDriver:
    """Image items. ``in_use`` gives the digests that guests stand on, whatever is wanted now; None: that is not known."""

    ITEMS: ClassVar[tuple[type[Item], ...]] = (Image,)
    SLOW: ClassVar[bool] = True
    FACTS: ClassVar[tuple[type[Fact], ...]] = (
        ImageFact,
        ImageProblem,
    )
    #: Seconds; an image that is published later should be found soon.
    LAST_RETRY: ClassVar[float] = 30.0

    def __init__(
        self,
        directory: Path,
        sources: Sources | None = None,
        in_use: Callable[[], frozenset[str] | None] = frozenset,
        keep: float = KEEP,
    ) -> None:
        self._directory = directory
        self._refs = directory / "refs"
        self._sources = sources or Sources()
        self._fence = Fence(self._sources.networks)
        self._in_use = in_use
        self._keep = keep
        self._facts: dict[str, ImageFact | ImageProblem] = {}
        self._progress: dict[str, str] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._refused: dict[str, tuple[float, str]] = {}
        self._pulls = asyncio.Semaphore(_PULLS)
        self._dirty: Callable[[], None] = lambda: None
        self._told = 0.0
        self._swept = time.monotonic()
        self._refs.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o700)  # programs with the set-user-ID bit are in there
        clear(self._refs)
        for half in (*directory.glob(".new-*"), *directory.glob(".gone-*")):
            shutil.rmtree(half, ignore_errors=True)

    def facts(self) -> Known:
        facts = self._facts.items()
        return {of: {ref: fact for ref, fact in facts if isinstance(fact, of)} for of in (ImageFact, ImageProblem)}

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
            raise self._failed(ref, str(error)) from error
        except OSError as error:
            raise self._failed(ref, error.strerror or str(error)) from error
        finally:
            self._progress.pop(op.key, None)

    def watch(self, dirty: Callable[[], None]) -> None:
        self._dirty = dirty

    async def close(self) -> None:
        self._dirty = lambda: None

    def _failed(self, ref: str, why: str) -> DriverError:
        said = f"image {ref}: {why}"[:_LONGEST]
        text = "".join(letter if letter.isprintable() else "\ufffd" for letter in said)
        self._facts[ref] = ImageProblem(text)
        return DriverError(text)

    def _observe(self, wanted: set[str]) -> dict[str, Observed]:
        observed: dict[str, Observed] = {}
        spellings: dict[str, list[str]] = {}
        for ref in sorted(wanted):
            spellings.setdefault(canonical(ref), []).append(ref)
        for file in self._refs.glob("*.json"):
            try:
                card = _read(file)
            except FileNotFoundError:
                continue
            except (IsADirectoryError, ValueError, KeyError, TypeError):  # what can't be read may be right
                _discard(file)
                continue
            if file != self._card(card.ref):  # of a time when each spelling had a card
                file.unlink(missing_ok=True)
                continue
            if refs := spellings.get(card.ref):
                fact = self._fact(refs[0], card.digest, card.pulled)
                if fact is None or not self._fresh(card):
                    continue  # unpacked content that is gone, an archive that was replaced, a directory that was closed
                os.utime(file)
                for ref in refs:
                    self._facts[ref] = fact
                    observed[f"image/{ref}"] = Observed(f"image/{ref}", Image(ref=ref))
            elif self._cold(file):
                observed[f"image/{card.ref}"] = Observed(f"image/{card.ref}", Image(ref=card.ref))
        for ref in self._facts.keys() - wanted:
            del self._facts[ref]
        if time.monotonic() - self._swept > _SETTLED:
            self._swept = time.monotonic()
            self._sweep()
        return observed

    def _fresh(self, card: _Card) -> bool:
        try:
            return card.source == (stamp(card.ref, self._sources.directories) or card.source)
        except NotOpened:
            return False

    def _fact(self, ref: str, digest: str, pulled: Pulled | None) -> ImageFact | None:
        known = self._facts.get(ref)
        place = directory_of(self._directory, digest)
        if isinstance(known, ImageFact) and known.digest == digest and (place / "image.json").exists():
            return known if known.pulled == pulled else dataclasses.replace(known, pulled=pulled)
        try:
            text = json.loads((place / "image.json").read_text())
            for field in ("entrypoint", "command", "environment"):
                text[field] = tuple(text[field])
            text["executables"] = frozenset(text["executables"]) if text["executables"] is not None else None
            if text.pop("has_disk_image", False):  # unpacked by an agent that did nothing with one
                self._bury(place)
                return None
            text["disk"] = DiskImage(**text["disk"]) if text.get("disk") is not None else None
            return ImageFact(**text, pulled=pulled)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError, KeyError, TypeError):
            return None

    async def _get(self, ref: str, key: str) -> None:
        name = canonical(ref)
        async with self._lock(name):
            self._say(key, "looking")
            source = await asyncio.to_thread(stamp, name, self._sources.directories)
            card = await in_thread(self._known, name, source)
            if card is None:
                self._check(f"{name} {source}")
                begun = time.monotonic()
                digest, size = await self._pull(name, source, key)
                pulled = Pulled(time.time(), time.monotonic() - begun, size) if size is not None else None
                card = _Card(name, digest, source, pulled)
                await in_thread(self.remember, card)
            fact = await asyncio.to_thread(self._fact, ref, card.digest, card.pulled)
            if fact is None:
                raise DriverError("what was unpacked is gone again")
            self._facts[ref] = fact

    def _lock(self, name: str) -> asyncio.Lock:
        lock = self._locks.get(name)
        if lock is None:
            lock = self._locks[name] = asyncio.Lock()
        return lock

    def _known(self, name: str, source: str) -> _Card | None:
        """What another spelling of the same path has brought in the meantime."""
        with contextlib.suppress(FileNotFoundError, IsADirectoryError, ValueError, KeyError, TypeError):
            card = _read(self._card(name))
            if card.source == source != "" and (directory_of(self._directory, card.digest) / "image.json").exists():
                return card
        return None

    async def _pull(self, name: str, source: str, key: str) -> tuple[str, int | None]:
        """The digest, and the bytes that were unpacked: None where the content was here already."""
        await asyncio.to_thread(room_for, self._directory, 0)
        room = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix=".new-", dir=self._directory))
        try:
            fetched = await asyncio.to_thread(fetchers_room, room)
            pull = Pull(name, room, fetched, self._sources, self._fence, lambda text: self._say(key, text))
            digest = await digest_of(pull)
            if digest is None:
                return await self._refusing(f"{name} {source}", _REFUSED, self._make(pull, None))
            async with self._lock(digest):
                if await asyncio.to_thread((directory_of(self._directory, digest) / "image.json").exists):
                    return digest, None
                self._check(digest)
                return await self._refusing(digest, _REFUSED_CONTENT, self._make(pull, digest))
        finally:
            await self._erase(room)

    async def _make(self, pull: Pull, digest: str | None) -> tuple[str, int]:
        found, config = await fetch(pull, digest)
        pull.say("looking through it")
        tree = await in_thread(look, pull.room / "rootfs", self._sources.limits)
        disk = await diskimage.take(pull.room, tree.disk, self._sources.limits) if tree.disk else None
        return found, await in_thread(self._finish, found, pull, config, tree, disk)

    def _check(self, what: str) -> None:
        """Raises DriverError for a source that gave too much a short while ago."""
        until, said = self._refused.get(what, (0.0, ""))
        if time.monotonic() < until:
            raise DriverError(said)

    async def _refusing(self, what: str, seconds: float, work: Coroutine[None, None, T]) -> T:
        try:
            return await work
        except TooBig as error:
            now = time.monotonic()
            self._refused = {key: value for key, value in self._refused.items() if value[0] > now}
            self._refused[what] = (now + seconds, str(error))
            raise

    def _finish(self, digest: str, pull: Pull, config: Config, tree: Tree, disk: DiskImage | None) -> int:
        room = pull.room
        shutil.rmtree(pull.fetched)
        if disk is not None:  # nothing else of it is used
            shutil.rmtree(room / "rootfs")
            tree = Tree(size=(room / diskimage.RAW).stat().st_blocks * 512)
        fact = {"digest": digest, **dataclasses.asdict(config), **dataclasses.asdict(tree)}
        fact["links"] = tree.links or {}
        fact["disk"] = disk and dataclasses.asdict(disk)
        del fact["size"]  # an agent of before could not read it
        write(room / "image.json", json.dumps(fact), Durability.VOLATILE, 0o644)
        room.chmod(0o755)
        place = directory_of(self._directory, digest)
        if place.exists() and not (place / "image.json").exists():
            place.rename(self._directory / f".gone-{place.name}-{os.getpid()}")
        _sync(self._directory)  # a name must not survive a power cut that its content doesn't
        with contextlib.suppress(OSError):  # another ref brought the same content in the meantime
            room.rename(place)
        return tree.size

    def remember(self, known: _Card) -> None:
        """Writes down what an image's name leads to. Raises OSError."""
        write(self._card(known.ref), json.dumps(dataclasses.asdict(known)), Durability.VOLATILE)

    def _forget(self, ref: str) -> None:
        """Takes the ref away, and the content unless another ref or a guest has it."""
        card = self._card(canonical(ref))
        if card.exists() and not self._cold(card):
            return  # asked for by somebody who saw it when it was wanted: it stays for the next who wants it
        with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError):
            digest = _read(card).digest
            card.unlink()
            others = {_read(other).digest for other in self._refs.glob("*.json")}
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
        held = {_read(card).digest for card in self._refs.glob("*.json")} | in_use
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


@dataclasses.dataclass(frozen=True)
class _Card:
    """Which digest a ref stands for. ``source`` as `stamp` gives it. ``pulled``: None where its content was here already."""

    ref: str
    digest: str
    source: str
    pulled: Pulled | None = None


def _read(file: Path) -> _Card:
    card = json.loads(file.read_text())
    told = card.get("pulled")
    pulled = Pulled(float(told["at"]), float(told["seconds"]), int(told["size"])) if told else None
    return _Card(canonical(str(card["ref"])), str(card["digest"]), str(card["source"]), pulled)


def _discard(card: Path) -> None:
    if card.is_dir():
        shutil.rmtree(card)
    else:
        card.unlink(missing_ok=True)


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
