"""Images' own kernels, made ready to be booted: a copy of each, and an initramfs of the node's init and the modules without
which it does not get to its root.

``<digest>/kernel-<init>/`` beside the unpacked image, with ``vmlinuz-<version>``, ``initramfs`` and ``kernel.json``, appears by
a rename and goes with the image. ``<init>`` names the init in it: an agent of another release makes its own. What a stranger's
image has is read by a program that can do nothing else (`zos.programs.ownkernel`).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from zos.drivers import DriverError, Unavailable, confined
from zos.drivers.domainxml import VMLINUZ
from zos.drivers.imagecache import directory_of, flush, grown, has_tree, tree_of
from zos.drivers.meter import Refused, room_for, tree_size
from zos.drivers.process import ProcessError, run
from zos.drivers.thread import in_thread
from zos.drivers.unpacking import wrong
from zos.files import Durability, write
from zos.plan.diff import Observed, Op
from zos.plan.facts import Fact, KernelFact, KernelProblem, Known
from zos.plan.items import Item, Kernel

#: Of the node's init, in the directory that guestbuild makes.
INIT = "init"

#: Bytes of a file and of all that is made of an image.
_FILE, _ALL = 80 << 20, 160 << 20
#: Seconds; a tree may be one that is fetched as it is read.
_LONG = 600.0
#: Exit code of the program for what is not the image's fault (sysexits.h: EX_TEMPFAIL).
_TROUBLE = 75
#: Of disks.
_FORMATS = frozenset({"ext4", "btrfs"})
#: Characters of a message: strangers' names are in some.
_LONGEST = 1000
_RELEASE = re.compile(r"[0-9A-Za-z][0-9A-Za-z._+~-]{0,63}")


class KernelDriver:
    """Kernel items. ``images`` is the directory of images, ``init`` the node's init."""

    ITEMS: ClassVar[tuple[type[Item], ...]] = (Kernel,)
    SLOW: ClassVar[bool] = True
    FACTS: ClassVar[tuple[type[Fact], ...]] = (KernelFact, KernelProblem)

    def __init__(self, images: Path, init: Path) -> None:
        self._images = images
        self._init = init
        self._facts: dict[str, KernelFact] = {}
        self._problems: dict[str, KernelProblem] = {}
        self._one = asyncio.Lock()
        for half in images.glob("sha256-*/.new-kernel-*"):  # of an agent that was killed
            shutil.rmtree(half, ignore_errors=True)

    def facts(self) -> Known:
        return {KernelFact: self._facts, KernelProblem: self._problems}

    def progress(self, key: str) -> str:
        return ""

    async def observe(self, wanted: Sequence[Item]) -> Mapping[str, Observed]:
        """What was made of what is wanted: the rest is nobody's but the images'."""
        asked = [item for item in wanted if isinstance(item, Kernel)]
        self._facts = await asyncio.to_thread(self._look, {item.image for item in asked})
        names = {item.image for item in asked} - self._facts.keys()
        self._problems = {image: problem for image, problem in self._problems.items() if image in names}
        return {item.key: Observed(item.key, item, item.owner) for item in asked if item.image in self._facts}

    async def apply(self, op: Op) -> None:
        if not isinstance(op.item, Kernel):
            return
        image = op.item.image
        known = self._problems.get(image)
        if known is not None and not known.passing:  # the same content would end alike
            raise DriverError(known.why)
        try:
            async with self._one:
                await self._make(image)
        except DriverError as error:
            raise self._failed(image, str(error), passing=not isinstance(error, Refused)) from error
        except OSError as error:
            raise self._failed(image, error.strerror or str(error), passing=True) from error

    def watch(self, dirty: Callable[[], None]) -> None:
        """Nothing changes by itself."""

    async def close(self) -> None:
        """There is nothing open."""

    def _look(self, asked: set[str]) -> dict[str, KernelFact]:
        return {image: fact for image in asked if (fact := _read(place_of(self._images, image, self._init))) is not None}

    def _failed(self, image: str, why: str, *, passing: bool) -> DriverError:
        text = "".join(letter if letter.isprintable() else "\ufffd" for letter in why[:_LONGEST])
        self._problems[image] = KernelProblem(text, passing)
        return DriverError(text)

    async def _make(self, image: str) -> None:
        place, tree = await in_thread(place_of, self._images, image, self._init), tree_of(self._images, image)
        if await in_thread(_read, place) is not None:
            return  # since the last look
        if not await in_thread(has_tree, self._images, image):
            raise Unavailable(f"image {image} is not on this node any more")
        await in_thread(room_for, self._images, _ALL)
        room = Path(await in_thread(tempfile.mkdtemp, prefix=".new-kernel-", dir=directory_of(self._images, image)))
        try:
            made = await self._read_image(room, tree)
            await in_thread(_finish, room, made, place)
        finally:
            await in_thread(functools.partial(shutil.rmtree, room, ignore_errors=True))

    async def _read_image(self, room: Path, tree: Path) -> dict[str, object]:
        program = confined.program("ownkernel", str(tree), str(self._init), str(room))
        try:
            done = await run(*confined.unpacker(room, _FILE, *program, memory=confined.MEMORY), timeout=_LONG)
        except ProcessError as error:
            said = (error.stderr.strip() or str(error)).splitlines()[-1]
            if error.code == _TROUBLE:
                raise Unavailable(f"its kernel can't be read: {said}") from error
            raise wrong(error, said) from error
        made = json.loads(done.stdout)
        if not isinstance(made, dict):
            raise ValueError(done.stdout)
        return made


def files(images: Path, image: str, init: Path) -> tuple[Path, Path]:
    """Kernel and initramfs. Raises DriverError where they are not there any more."""
    place = place_of(images, image, init)
    fact = _read(place)
    if fact is None:
        raise DriverError(f"the kernel of image {image} is not on this node any more")
    return place / f"{VMLINUZ}{fact.release}", place / "initramfs"


def place_of(images: Path, image: str, init: Path) -> Path:
    info = init.stat()
    return directory_of(images, image) / f"kernel-{_digest(init, info.st_mtime_ns, info.st_size)}"


@functools.lru_cache(maxsize=4)
def _digest(init: Path, changed: int, size: int) -> str:
    return hashlib.sha256(init.read_bytes()).hexdigest()[:12]


def _read(place: Path) -> KernelFact | None:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        text = json.loads((place / "kernel.json").read_text())
        fact = KernelFact(str(text["release"]), frozenset(text["formats"]) & _FORMATS)
        if all((place / name).exists() for name in (f"{VMLINUZ}{fact.release}", "initramfs")):
            return fact
    return None


def _finish(room: Path, made: Mapping[str, object], place: Path) -> None:
    release = str(made["release"])
    if not _RELEASE.fullmatch(release) or any((room / name).is_symlink() for name in ("vmlinuz", "initramfs")):
        raise Refused("its kernel is not what it says")
    (room / "vmlinuz").rename(room / f"{VMLINUZ}{release}")
    write(room / "kernel.json", json.dumps(made), Durability.VOLATILE, 0o644)
    room.chmod(0o755)
    for old in place.parent.glob("kernel-*"):  # of another release, or not whole
        shutil.rmtree(old)
    size = tree_size(room)
    flush(room)  # a name must not survive a power cut that its content doesn't
    room.rename(place)
    grown(place.parent, size)
