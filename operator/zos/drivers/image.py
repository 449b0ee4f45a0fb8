"""The node's images: one copy of the same content for all machines that use it, fetched once.

``<digest>/rootfs`` (of a virtual machine's: ``<digest>/disk.raw``) and ``<digest>/image.json`` (what is known of it) appear
together, by a rename; ``refs/`` says which ref a person wrote stands for which digest (`imagecards`). What goes when is the
cache's (`imagecache`).

Everybody who has machines on a node shares its images: what is there was public, was opened to all of them by the node's owner,
or was given to each who has shown his own access to it. ``file://`` refs are judged each time they are wanted, since a
directory that was opened may be closed again.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import math
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar, TypeVar
from weakref import WeakValueDictionary

from zos.drivers import DriverError, Unavailable, diskimage, flistimage, imagetext
from zos.drivers.confined import fetchers_room
from zos.drivers.fence import Fence
from zos.drivers.halffetched import HalfFetched
from zos.drivers.imagecache import FLIST, KEEP, SETTLED, Cache, directory_of
from zos.drivers.imagecards import Card
from zos.drivers.imageconfig import Config
from zos.drivers.imageprogress import ImageMeasures, Progress
from zos.drivers.imagetree import Tree
from zos.drivers.imagetree import look as look_through
from zos.drivers.localimage import NotOpened, canonical, stamp
from zos.drivers.manifest import Manifest
from zos.drivers.meter import Lie, Refused, TooBig, room_for
from zos.drivers.process import ProcessError, run
from zos.drivers.pull import fetch, look, verified
from zos.drivers.pullplaces import PullPlaces
from zos.drivers.sources import Pull, Sources
from zos.drivers.space import Space
from zos.drivers.thread import in_thread
from zos.drivers.unpacking import wrong
from zos.drivers.webfile import BrokenOff
from zos.files import Durability, write
from zos.plan.diff import Observed, Op
from zos.plan.facts import DiskImage, Fact, FlistFact, ImageFact, ImageProblem, Known, Pulled
from zos.plan.items import Flist, Image, Item

#: Seconds for which a source that gave what is no image is not asked again, and content that will never be one.
_REFUSED, _REFUSED_CONTENT = 600.0, 24 * 3600.0
#: Characters of a message: strangers' names are in some.
_LONGEST = 1500

T = TypeVar("T")


class ImageDriver:
    """Image items. ``in_use`` gives the digests that guests stand on, whatever is wanted now; None: that is not known."""

    ITEMS: ClassVar[tuple[type[Item], ...]] = (Image, Flist)
    SLOW: ClassVar[bool] = True
    FACTS: ClassVar[tuple[type[Fact], ...]] = (
        ImageFact,
        ImageProblem,
        FlistFact,
    )
    #: Seconds; an image that is published later should be found soon.
    LAST_RETRY: ClassVar[float] = 30.0

    def __init__(
        self,
        directory: Path,
        sources: Sources | None = None,
        in_use: Callable[[], frozenset[str] | None] = frozenset,
        keep: float = KEEP,
        bound: int | None = None,
    ) -> None:
        self._directory = directory
        self._sources = sources or Sources()
        self._fence = Fence(self._sources.networks)
        self._cache = Cache(directory, in_use, keep, bound)
        self._kept = HalfFetched(directory / "fetched", (bound if bound is not None else self._sources.limits.size) // 4)
        self._space = Space(directory)
        self._blocks = directory.with_name("blocks")
        self._block_cache = (bound if bound is not None else self._sources.limits.size) // 4
        self._facts: dict[str, ImageFact | ImageProblem] = {}
        self._flists: dict[str, FlistFact] = {}
        self._progress = Progress()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._refused: dict[str, tuple[float, str]] = {}
        self._pulls = PullPlaces()
        self._swept = -math.inf
        for half in directory.glob(".new-*"):  # of an agent that was killed
            self._kept.rescue(half / "fetch" / "oci", half.name.removeprefix(".new-").rpartition("-")[0])
        for half in (*directory.glob(".new-*"), *directory.glob(".gone-*")):
            shutil.rmtree(half, ignore_errors=True)

    def facts(self) -> Known:
        facts = self._facts.items()
        found: Known = {of: {name: fact for name, fact in facts if isinstance(fact, of)} for of in (ImageFact, ImageProblem)}
        return {**found, FlistFact: dict(self._flists)}

    def progress(self, key: str) -> str:
        return self._progress.words(key)

    def measures(self) -> ImageMeasures:
        return ImageMeasures(self._cache.size, self._kept.size, self._progress.fetched, self._progress.under_way)

    async def observe(self, wanted: Sequence[Item]) -> Mapping[str, Observed]:
        images = [item for item in wanted if isinstance(item, Image)]
        flists = [item for item in wanted if isinstance(item, Flist)]
        return await asyncio.to_thread(lambda: {**self._observe(images), **self._looked_through(flists)})

    async def apply(self, op: Op) -> None:
        name = op.key.removeprefix("image/")
        try:
            if isinstance(op.item, Flist):
                self._progress.tell(op.key, "looking through it", 0, 0)
                await flistimage.look(self._directory, op.item.digest, self._sources.limits, self._space)
                return
            if not isinstance(op.item, Image):
                await in_thread(self._cache.forget, name)
                return
            async with self._pulls.one():
                await self._get(op.item)
        except DriverError as error:
            raise self._failed(name, op.item, str(error), passing=isinstance(error, Unavailable)) from error
        except OSError as error:
            raise self._failed(name, op.item, error.strerror or str(error), passing=True) from error
        finally:
            self._progress.over(op.key)

    def watch(self, dirty: Callable[[], None]) -> None:
        self._progress.dirty = dirty

    async def close(self) -> None:
        self._progress.dirty = lambda: None

    def _failed(self, name: str, item: Item | None, why: str, *, passing: bool) -> DriverError:
        said = (f"image {item.ref if isinstance(item, Image) else name}: " * (not isinstance(item, Flist)) + why)[:_LONGEST]
        text = "".join(letter if letter.isprintable() else "\ufffd" for letter in said)
        self._facts[name] = ImageProblem(text, passing)
        return DriverError(text)

    def _observe(self, wanted: Sequence[Image]) -> dict[str, Observed]:
        observed: dict[str, Observed] = {}
        spellings: dict[str, list[Image]] = {}
        for image in sorted(wanted, key=lambda image: image.name):
            spellings.setdefault(canonical(image.name), []).append(image)
        self._sweep(spellings)
        for file, card in self._cache.cards.all():
            if images := spellings.get(card.image.name):
                fact, flist = self._fact(images[0].name, card.digest, card.pulled), self._flist(card.digest)
                if (fact is None and flist is None) or not self._fresh(card):
                    continue  # unpacked content that is gone, an archive that was replaced, a directory that was closed
                self._cache.cards.wanted(file)
                for image in images:
                    self._know(image.name, fact, flist)
                    observed[image.key] = Observed(image.key, Image(ref=image.ref, access=image.access))
            elif self._cache.cold(file, card.digest):
                observed[card.image.key] = Observed(card.image.key, card.image)
        for name in self._facts.keys() - {image.name for image in wanted}:
            del self._facts[name]
        for name in self._flists.keys() - {image.name for image in wanted}:
            del self._flists[name]
        return observed

    def _looked_through(self, wanted: Sequence[Flist]) -> dict[str, Observed]:
        """Of those that are wanted only: it goes with its image."""
        there = [item for item in wanted if (directory_of(self._directory, item.digest) / imagetext.NAME).exists()]
        return {item.key: Observed(item.key, item, shared=True) for item in there}

    def _know(self, name: str, fact: ImageFact | None, flist: FlistFact | None) -> None:
        """What was wrong with it before is over."""
        self._facts.pop(name, None)
        self._flists.pop(name, None)
        if fact is not None:
            self._facts[name] = fact
        if flist is not None:
            self._flists[name] = flist

    def _flist(self, digest: str) -> FlistFact | None:
        return flistimage.fact_of(self._directory, self._blocks, self._block_cache, self._sources, digest)

    def _sweep(self, wanted: Iterable[str]) -> None:
        """Now and then, and when something has come."""
        if time.monotonic() - self._swept < SETTLED:
            return
        self._swept = time.monotonic()
        cards = (self._cache.cards.get(name) for name in wanted)
        self._cache.weigh(frozenset(card.digest for card in cards if card is not None))
        self._cache.sweep()
        self._kept.sweep()

    def _fresh(self, card: Card) -> bool:
        try:
            return card.source == (stamp(card.ref, self._sources.directories) or card.source)
        except NotOpened:
            return False

    def _fact(self, name: str, digest: str, pulled: Pulled | None) -> ImageFact | None:
        known = self._facts.get(name)
        place = directory_of(self._directory, digest)
        if isinstance(known, ImageFact) and known.digest == digest and (place / "image.json").exists():
            return known if known.pulled == pulled else dataclasses.replace(known, pulled=pulled)
        try:
            return imagetext.read((place / "image.json").read_text(), pulled)
        except imagetext.Outdated:
            self._cache.bury(place)
            return None
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError, KeyError, TypeError):
            return None

    async def _get(self, image: Image) -> None:
        name, ref = canonical(image.name), canonical(image.ref)
        async with self._lock(name):
            self._progress.tell(image.key, "looking", 0, 0)
            source = await asyncio.to_thread(stamp, ref, self._sources.directories)
            card = await in_thread(self._known, name, source)
            if card is None:
                self._check(f"{name} {source}")
                begun = time.monotonic()
                digest, size = await self._pull(image, source)
                pulled = Pulled(time.time(), time.monotonic() - begun, size) if size is not None else None
                card = Card(ref, digest, source, pulled, image.access)
                await in_thread(self._cache.cards.remember, card)
                self._swept = -math.inf
            fact = await asyncio.to_thread(self._fact, image.name, card.digest, card.pulled)
            flist = await asyncio.to_thread(self._flist, card.digest)
            if fact is None and flist is None:
                raise DriverError("what was unpacked is gone again")
            self._know(image.name, fact, flist)

    def _lock(self, name: str) -> asyncio.Lock:
        lock = self._locks.get(name)
        if lock is None:
            lock = self._locks[name] = asyncio.Lock()
        return lock

    def _known(self, name: str, source: str) -> Card | None:
        """What another spelling of the same path has brought in the meantime."""
        card = self._cache.cards.get(name) if source else None
        return card if card is not None and card.source == source and self._cache.has(card.digest) else None

    async def _pull(self, image: Image, source: str) -> tuple[str, int | None]:
        """The digest, and the bytes that were unpacked: None where the content was here already."""
        name, ref = canonical(image.name), canonical(image.ref)
        await asyncio.to_thread(room_for, self._directory, 0)
        room = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix=f".new-{image.access}-", dir=self._directory))
        try:
            async with self._fetchers_room(room, ref) as fetched:
                pull = Pull(
                    ref, room, fetched, self._sources, self._fence, self._space, self._kept,
                    partial(self._progress.tell, image.key), image.access, image.auth,
                )  # fmt: skip
                known = await look(pull)
                if known is None:
                    return await self._refusing(f"{name} {source}", _patience(source), self._make(pull, None))
                async with self._lock(known.digest):
                    if await asyncio.to_thread(self._cache.has, known.digest):
                        return known.digest, None
                    self._check(known.digest)
                    work = self._refusing(known.digest, _REFUSED_CONTENT, self._make(pull, known))
                    return await self._refusing(f"{name} {source}", _REFUSED, work, Lie)
        finally:
            await self._erase(room)

    @contextlib.asynccontextmanager
    async def _fetchers_room(self, room: Path, ref: str) -> AsyncIterator[Path]:
        """One that goes on being where what is fetched may be gone on with."""
        if not ref.startswith("https://"):
            yield await asyncio.to_thread(fetchers_room, room)
            return
        fetched, done = await asyncio.to_thread(self._kept.room, ref), True
        try:
            yield fetched
        except (BrokenOff, asyncio.CancelledError):
            done = False
            raise
        finally:
            await in_thread(self._kept.leave, fetched, done=done)

    async def _make(self, pull: Pull, known: Manifest | None) -> tuple[str, int]:
        if flistimage.is_one(pull.ref):
            digest = verified(pull.ref, await flistimage.take(pull))
            size = (pull.room / FLIST).stat().st_size
            return digest, await in_thread(self._put, pull.room, digest, size)
        found, config = await fetch(pull, known)
        pull.say("looking through it")
        try:
            tree = await in_thread(look_through, pull.room / "rootfs", self._sources.limits)
            disk = await diskimage.take(pull.room, tree.disk, self._sources.limits) if tree.disk else None
        except DriverError as error:
            raise _refusal(error) from error
        return found, await in_thread(self._finish, found, pull, config, tree, disk)

    def _check(self, what: str) -> None:
        """Raises DriverError for a source whose content was refused a short while ago."""
        until, said = self._refused.get(what, (0.0, ""))
        if time.monotonic() < until:
            raise DriverError(said)

    async def _refusing(
        self, what: str, seconds: float, work: Coroutine[None, None, T], kind: type[DriverError] = Refused
    ) -> T:
        """Remembers for so long that it was refused, whoever asks again."""
        try:
            return await work
        except kind as error:
            seconds = seconds or (_REFUSED if isinstance(error, TooBig) else 0.0)
            now = time.monotonic()
            self._refused = {key: value for key, value in self._refused.items() if value[0] > now}
            self._refused[what] = (now + seconds, str(error))
            raise

    def _finish(self, digest: str, pull: Pull, config: Config, tree: Tree, disk: DiskImage | None) -> int:
        room = pull.room
        if disk is not None:  # nothing else of it is used
            shutil.rmtree(room / "rootfs")
            tree = Tree(size=(room / diskimage.RAW).stat().st_blocks * 512)
        write(room / "image.json", imagetext.written(digest, config, tree, disk), Durability.VOLATILE, 0o644)
        return self._put(room, digest, tree.size)

    def _put(self, room: Path, digest: str, size: int) -> int:
        shutil.rmtree(room / "fetch", ignore_errors=True)
        room.chmod(0o755)
        self._cache.put(room, digest)
        return size

    async def _erase(self, room: Path) -> None:
        if await asyncio.to_thread(room.exists):
            await run("rm", "-rf", "--one-file-system", str(room), timeout=600, check=False)


def _patience(source: str) -> float:
    """Seconds for which what a source gave need not be looked at again: a file of the node's tells when it changes, a directory
    does not, and a server is not to be asked for all of it every half a minute."""
    if source == "directory":
        return 0.0
    return _REFUSED_CONTENT if source else _REFUSED


def _refusal(error: DriverError) -> DriverError:
    """What was looked at and won't do is refused, unless it was for the node that it could not be looked at."""
    if isinstance(error.__cause__, ProcessError):
        return wrong(error.__cause__, str(error))
    return error if isinstance(error, Refused | Unavailable) else Refused(str(error))
