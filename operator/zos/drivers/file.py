"""Small files under the node's state directory, each with a card beside them that says whose they are."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import ClassVar

from zos.drivers import DriverError
from zos.drivers.means import short_of_means
from zos.files import Durability, half_made, write
from zos.plan.diff import Observed, Op
from zos.plan.items import File, Item


class FileDriver:
    """File items. The card is written before the file and deleted after it, so that no crash leaves a file without one."""

    ITEMS: ClassVar[tuple[type[Item], ...]] = (File,)
    SLOW: ClassVar[bool] = False

    def __init__(self, state: Path) -> None:
        self._state = state
        self._cards = state / "files"
        self._cards.mkdir(parents=True, exist_ok=True, mode=0o700)

    async def observe(self, wanted: Sequence[Item]) -> Mapping[str, Observed]:
        return await asyncio.to_thread(self._observe)

    async def apply(self, op: Op) -> None:
        try:
            if isinstance(op.item, File):
                await asyncio.to_thread(self._write, op.item)
            else:
                await asyncio.to_thread(self._remove, op.key.removeprefix("file/"))
        except OSError as error:
            raise DriverError(f"{op.key}: {error.strerror or error}") from error

    def watch(self, dirty: Callable[[], None]) -> None:
        """Nobody but the agent writes here; the resync finds what went wrong all the same."""

    async def close(self) -> None:
        pass

    def _observe(self) -> dict[str, Observed]:
        observed: dict[str, Observed] = {}
        for card in self._cards.glob("*.json"):
            try:
                text = json.loads(card.read_text())
                path, owner = str(text["path"]), str(text["owner"])
            except FileNotFoundError:
                continue
            except (ValueError, KeyError, TypeError):
                continue  # what it stood for is made anew where it is wanted, and a card with it
            observed[f"file/{path}"] = Observed(f"file/{path}", self._read(path, owner), owner)
        return observed

    def _read(self, path: str, owner: str) -> File | None:
        try:
            with open(self._place(path), "rb") as file:
                mode = os.fstat(file.fileno()).st_mode & 0o7777
                return File(path=path, content=file.read().decode(), mode=mode, owner=owner)
        except (OSError, UnicodeDecodeError) as error:
            if short_of_means(error):
                raise
            return None

    def _write(self, item: File) -> None:
        target = self._place(item.path)
        write(self._card(item.path), json.dumps({"path": item.path, "owner": item.owner}), Durability.DURABLE)
        write(target, item.content, Durability.DURABLE, item.mode)

    def _remove(self, path: str) -> None:
        target = self._place(path)
        half_made(target).unlink(missing_ok=True)
        target.unlink(missing_ok=True)
        for parent in target.parents:
            if parent.parent in (self._state, *self._state.parents):
                break  # the rooms of the state directory are not this driver's
            with contextlib.suppress(OSError):  # others have something there too
                parent.rmdir()
        self._card(path).unlink(missing_ok=True)

    def _place(self, path: str) -> Path:
        pure = PurePosixPath(path)
        if pure.is_absolute() or not pure.parts or ".." in pure.parts:
            raise DriverError(f"{path!r} is not a path inside the state directory")
        return self._state / pure

    def _card(self, path: str) -> Path:
        return self._cards / f"{hashlib.sha256(path.encode()).hexdigest()[:32]}.json"
