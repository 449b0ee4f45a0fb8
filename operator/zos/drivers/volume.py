"""Volumes: directories that hold so much and no more, each an ext4 file system in a file that is reserved to its last byte.

Its user writes files, never the image: what the node's kernel parses is what it has written itself. How volumes lie on the
node: `zos.drivers.volumefiles`; why they are what they are: ADR 0017.
"""

from __future__ import annotations

import errno
import logging
import os
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from zos.drivers import DriverError, ext4, loopmount
from zos.drivers.keeping import KeptDriver, as_asked, nothing_to_adopt, refuse_to_shrink, used_meanwhile
from zos.drivers.process import run
from zos.drivers.reservation import amount, reserve
from zos.drivers.thread import in_thread
from zos.drivers.volumefiles import Card, Seen, VolumeFiles, clear, illness, size_told
from zos.plan.diff import Observed
from zos.plan.facts import Fact, Known, VolumeFact
from zos.plan.items import Item, Volume

log = logging.getLogger("zos.volumes")

#: Ends the programs that have a volume, until it is whole again; gives what they are called. Raises DriverError.
Vacate = Callable[[str], Awaitable[Sequence[str]]]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
#: Its use is told anew when it has changed by this part of its size.
_NOTABLE = 100


class VolumeDriver(KeptDriver[Volume]):
    """Volume items. Mounts outlive the agent, and are made again after a reboot. Nobody tells when what keeps a volume from
    being unmounted has ended: such an operation is tried again soon. Nor that errors were found in one: the next look
    sees it."""

    ITEMS: ClassVar[tuple[type[Item], ...]] = (Volume,)
    FACTS: ClassVar[tuple[type[Fact], ...]] = (VolumeFact,)
    LAST_RETRY = 15.0

    def __init__(self, state: Path, uid_of: Callable[[str], int], vacate: Vacate | None = None) -> None:
        """``uid_of`` gives each user the number that is its own, the same for ever. It may raise DriverError."""
        self.files = VolumeFiles(state / "volumes")
        self._uid_of = uid_of
        self._vacate = vacate
        self._mending: dict[str, str] = {}
        self._facts: Mapping[str, VolumeFact] = {}
        self._mounts: loopmount.MountWatch | None = None
        super().__init__(Volume, self.files.directory)

    def data(self, name: str) -> Path:
        """The directory of a volume."""
        return self.files.data(name)

    def facts(self) -> Known:
        return {VolumeFact: self._facts}

    def accounts(self) -> Iterable[tuple[str, int]]:
        """Users and their numbers, as cards tell them. Raises OSError."""
        cards = [self.files.card(name) for name in self.files.names()]
        return [(card.user, card.uid) for card in cards if card is not None and card.user]

    def progress(self, key: str) -> str:
        """A check takes its time, where there is much to look at."""
        ill = self._mending.get(key.removeprefix("volume/"))
        return f"{ill}: it is being checked and mended, and whoever uses it goes on after that" if ill else ""

    def watch(self, dirty: Callable[[], None]) -> None:
        """Also that mounts come and go."""
        super().watch(dirty)
        self._mounts = loopmount.MountWatch(dirty, self.files.directory)

    async def close(self) -> None:
        await super().close()
        if self._mounts is not None:
            self._mounts.close()
            self._mounts = None

    def _file(self, name: str) -> Path:
        return self.files.image(name)

    def _is_here(self, name: str) -> bool:
        """One whose image is gone is here for as long as it stays mounted."""
        return super()._is_here(name) or self.files.place(name) in loopmount.mounts(self.files.directory)

    # -- looking -------------------------------------------------------------------------------------------------------

    def _observe(self, wanted: Mapping[str, Volume]) -> dict[str, Observed]:
        mounts = loopmount.mounts(self.files.directory)
        names = {*self.files.names(), *(place.name for place in mounts if place.parent == self.files.directory)}
        observed: dict[str, Observed] = {}
        facts: dict[str, VolumeFact] = {}
        for name in sorted(names):
            seen = self.files.look(name, mounts.get(self.files.place(name)))
            if seen is not None:
                facts[name] = self._fact(name, seen)
                observed[f"volume/{name}"] = self._observed(name, seen, wanted.get(name))
        self._facts = facts
        return observed

    def _observed(self, name: str, seen: Seen, asked: Volume | None) -> Observed:
        card = self.files.card(name)
        owner, user = (card.owner, card.user) if card is not None else ("", "")
        origin = (card.origin if card is not None else None) or Volume.origin_of(name)
        whole = not seen.problem and not seen.spare
        if asked is not None:
            whole = whole and card is not None and user == asked.user and seen.uid == self._uid_of(user)
        item = Volume(name=name, size=seen.size, user=user, whole=whole, owner=owner, origin=origin)
        if asked is not None:
            item = as_asked(item, asked, self.files.image(asked.adopted).exists())
        return Observed(item.key, item, owner, holds_data=True, origin=origin, unused=not seen.stored)

    def _fact(self, name: str, seen: Seen) -> VolumeFact:
        """What is stored changes all the time, and each change of a fact is a pass of its own: small ones are none."""
        before = self._facts.get(name, VolumeFact(size=seen.size, used=0))
        if seen.capacity is None:
            return replace(before, problem=seen.problem)
        same = before.size == seen.capacity and abs(before.used - seen.used) * _NOTABLE < seen.capacity
        return VolumeFact(size=seen.capacity, used=before.used if same else seen.used, problem=seen.problem)

    # -- making --------------------------------------------------------------------------------------------------------

    def _refuse_impossible(self, item: Volume) -> None:
        if not _NAME.fullmatch(item.name):
            raise DriverError(f"{item.name!r} can't be the name of a volume")
        if item.size < ext4.SMALLEST:
            raise DriverError(f"{item.size} bytes are too small for a volume: at least {amount(ext4.SMALLEST)}")

    async def _make(self, item: Volume) -> None:
        new = self.files.directory / f".new-{item.name}.img"
        content = new.with_suffix("")
        try:
            await in_thread(self._begin, new, content, item)
            await ext4.make(new, content)
            await in_thread(self._finish, new, item)
        finally:
            for half in (new, content):
                await in_thread(clear, half)

    def _begin(self, new: Path, content: Path, item: Volume) -> None:
        for half in (new, content):
            clear(half)
        fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            reserve(fd, 0, item.size, f"volume {item.name}")
            os.ftruncate(fd, item.size)
        finally:
            os.close(fd)
        uid = self._uid_of(item.user)
        (content / "data").mkdir(parents=True, mode=0o700)
        os.chown(content / "data", uid, uid)
        os.utime(content / "data", (0, 0))  # `VolumeFiles.stored`

    def _finish(self, new: Path, item: Volume) -> None:
        with open(new, "rb") as file:
            os.fsync(file.fileno())
        self.files.write_card(item.name, self._card_of(item))
        self.files.named(new, item.name)

    async def _adopt(self, item: Volume) -> None:
        await in_thread(self._take_over, item)

    def _take_over(self, item: Volume) -> None:
        old = self.files.image(item.adopted)
        if not old.exists():
            raise DriverError(nothing_to_adopt(item))
        refuse_to_shrink(item, size_told(old.stat().st_size, ext4.size_of(old)), item.adopted)
        self._unmount(item.adopted)
        self.files.write_card(item.name, self._card_of(item))
        self.files.named(old, item.name)
        self.files.forget(item.adopted)

    def _card_of(self, item: Volume) -> Card:
        return Card(item.owner, item.user, self._uid_of(item.user), item.origin)

    # -- mending -------------------------------------------------------------------------------------------------------

    async def _mend(self, item: Volume) -> None:
        image = self.files.image(item.name)
        if not image.exists():
            raise DriverError(f"volume {item.name}: its image file is gone, and an empty one is not made in its place: {image}")
        loop = await self._mount(item.name)
        await self._hand_over(item)
        size, taken = image.stat().st_size, await in_thread(ext4.size_of, loop.path)
        refuse_to_shrink(item, size_told(size, taken))
        await in_thread(self.files.resize, item.name, item.size)
        short = taken is not None and item.size - taken >= ext4.SLACK
        if item.size != size or short:  # after a crash the device may have the old size, and the file the new one
            await in_thread(loop.grown)
            if not await in_thread(ext4.grow, self.files.place(item.name), item.size) and short:
                await self._grow_unmounted(item)

    async def _mount(self, name: str) -> loopmount.Loop:
        """Mounted in its place, after all that could be mended by itself was."""
        ill = await in_thread(self._ill, name)
        if not ill:
            return await self._mount_whole(name)
        self._mending[name] = ill
        try:
            await self._put_out_of_use(name, ill)
            return await self._mount_whole(name)
        finally:
            del self._mending[name]

    async def _put_out_of_use(self, name: str, ill: str) -> None:
        """So that it can be mended. The node's programs make way, and are started again when what they need is in place;
        guests keep what they were given for as long as they run (ADR 0018), and somebody has to stop them. Until then the
        programs may as well go on reading."""
        try:
            await in_thread(self._refuse_while_kept, name)
            if self._vacate is not None and (ended := await self._vacate(name)):
                log.warning("volume %s: %s; ended, so that it can be mended: %s", name, ill, ", ".join(ended))
            await in_thread(self._unmount, name)
        except (DriverError, OSError) as error:
            wait = "it is checked and mended as soon as nobody has it; a machine that has it mounted is to be stopped for that"
            raise DriverError(f"volume {name}: {ill}; {wait}, and {error}") from error

    def _refuse_while_kept(self, name: str) -> None:
        loop = self._elsewhere(name)
        if loop is not None and (keepers := loopmount.keepers(loop.number)):
            raise DriverError(_busy(name, keepers))

    async def _mount_whole(self, name: str) -> loopmount.Loop:
        image, place = self.files.image(name), self.files.place(name)
        there, loop = await in_thread(self._mounted, name)
        if there is None:
            elsewhere = await in_thread(self._elsewhere, name)
            try:
                if elsewhere is None:
                    await ext4.check(image, whole=name in self._mending)
                await in_thread(self._mount_at, image, place, elsewhere)
            except DriverError as error:
                raise DriverError(f"volume {name}: {error}") from error
            _, loop = await in_thread(self._mounted, name)
        if loop is None:
            raise DriverError(f"volume {name}: something else is mounted at {place}; unmount that")
        return loop

    def _mounted(self, name: str) -> tuple[loopmount.Mount | None, loopmount.Loop | None]:
        """What is mounted in its place, and the loop device if that is its image."""
        there = loopmount.mounts(self.files.directory).get(self.files.place(name))
        loop = there.loop if there is not None else None
        return there, loop if loop is not None and loop.file() == loopmount.file_of(self.files.image(name)) else None

    def _elsewhere(self, name: str) -> loopmount.Loop | None:
        """The loop device that has its image, wherever that is mounted."""
        return loopmount.attached().get(loopmount.file_of(self.files.image(name)))

    def _ill(self, name: str) -> str:
        """Not mounted here, it may be elsewhere, and is as ill there."""
        there, loop = self._mounted(name)
        if there is None:
            loop = self._elsewhere(name)
        return illness(there, loop) if loop is not None else ""

    def _mount_at(self, image: Path, place: Path, loop: loopmount.Loop | None = None, *, read_only: bool = False) -> None:
        place.mkdir(exist_ok=True)
        try:
            loopmount.mount(image, place, ext4.OPTIONS, loop=loop, read_only=read_only)
        except OSError as error:
            said = error.strerror or str(error)
            raise DriverError(f"its file system can't be mounted, and stays as it is: {said} ({image})") from error
        if not read_only and loop is None:  # else it was seen to when that was mounted, and may not be written to
            place.chmod(0o711)  # users pass through

    async def _hand_over(self, item: Volume) -> None:
        """What was the former user's is its user's; what a guest has written as somebody else stays so. The directory itself
        comes last, so that what was cut off is seen and done again."""
        data, card = self.files.data(item.name), await in_thread(self._card_of, item)
        info = data.stat()
        if (info.st_uid, info.st_gid) != (card.uid, card.uid):
            # A program, since no tree is too deep for it, and no link leads it elsewhere.
            await run("chown", "-Rh", f"--from=+{info.st_uid}", f"+{card.uid}:+{card.uid}", str(data), timeout=3600)
        await in_thread(self.files.settle, item.name, card)

    async def _grow_unmounted(self, item: Volume) -> None:
        """Where the agent may not do it under who uses it."""
        try:
            await in_thread(self._unmount, item.name)
        except DriverError as error:
            lack = "it grows when that ends, as this agent lacks CAP_SYS_RESOURCE to do it before"
            raise DriverError(f"{error}; {lack}") from error
        await ext4.grow_unmounted(self.files.image(item.name))
        await self._mount(item.name)

    # -- taking away ---------------------------------------------------------------------------------------------------

    def _remove(self, name: str, never_used: bool) -> None:
        self._unmount(name)
        if never_used and self.files.image(name).exists():
            self._still_unused(name)
        self.files.erase(name)

    def _forget(self, name: str) -> None:
        self.files.forget(name)

    def _still_unused(self, name: str) -> None:
        """Nobody has it any more, and nobody can write to it while it is looked at. Raises DriverError."""
        image, place = self.files.image(name), self.files.place(name)
        self._mount_at(image, place, read_only=True)
        try:
            stored = self.files.stored(name)
        finally:
            self._unmount(name)
        if stored:
            self._mount_at(image, place)
            raise DriverError(used_meanwhile("volume", name))

    def _unmount(self, name: str) -> None:
        """Everywhere, or not at all. Raises DriverError where somebody uses it, and says who."""
        place, image = self.files.place(name), self.files.image(name)
        was = None
        while (there := loopmount.mounts(self.files.directory).get(place)) is not None:
            was = there
            try:
                loopmount.unmount(place)
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
                raise DriverError(_busy(name, loopmount.users(there.number, place))) from error
        if image.exists() and (loop := loopmount.released(image)) is not None:  # another mount namespace has it
            if was is not None and was.number == loop.number:
                self._put_back(name, loop)
            raise DriverError(_busy(name, loopmount.users(loop.number, place)))

    def _put_back(self, name: str, loop: loopmount.Loop) -> None:
        """As well as can be: that somebody has it is what is to be said."""
        try:
            self._mount_at(self.files.image(name), self.files.place(name), loop)
        except (DriverError, OSError) as error:
            log.warning("volume %s, which another mount namespace has, does not come back to its place: %s", name, error)


def _busy(name: str, users: Sequence[str]) -> str:
    return f"volume {name} is in use by {', '.join(users[:3]) or 'something on this node that can not be told'}"
