"""What is written down of each image's name: which content it stands for, and how that came."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from zos.drivers.localimage import canonical
from zos.files import Durability, clear, write
from zos.plan.facts import Pulled
from zos.plan.items import Image

_WRONG = (IsADirectoryError, ValueError, KeyError, TypeError)


@dataclasses.dataclass(frozen=True)
class Card:
    """Which digest a ref stands for, for those with an ``access``. ``source`` as `stamp` gives it. ``pulled``: None where its
    content was here already."""

    ref: str
    digest: str
    source: str
    pulled: Pulled | None = None
    access: str = ""

    @property
    def image(self) -> Image:
        return Image(ref=self.ref, access=self.access)


class Cards:
    """In a directory of their own, each called by its image's name. When one was wanted last is its file's time."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        clear(directory)

    def path(self, name: str) -> Path:
        return self._directory / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.json"

    def all(self) -> Iterator[tuple[Path, Card]]:
        """Those that can't be read go: what they say may be wrong."""
        for file in self._directory.glob("*.json"):
            try:
                card = _read(file)
            except FileNotFoundError:
                continue
            except _WRONG:
                _discard(file)
                continue
            if file != self.path(card.image.name):  # of a time when each spelling had a card
                file.unlink(missing_ok=True)
                continue
            yield file, card

    def get(self, name: str) -> Card | None:
        with contextlib.suppress(FileNotFoundError, *_WRONG):
            return _read(self.path(name))
        return None

    def remember(self, card: Card) -> None:
        """Raises OSError."""
        write(self.path(card.image.name), json.dumps(dataclasses.asdict(card)), Durability.VOLATILE)

    def forget(self, name: str) -> None:
        self.path(name).unlink(missing_ok=True)

    def wanted(self, file: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.utime(file)


def _read(file: Path) -> Card:
    card = json.loads(file.read_text())
    told = card.get("pulled")
    pulled = Pulled(float(told["at"]), float(told["seconds"]), int(told["size"])) if told else None
    return Card(canonical(str(card["ref"])), str(card["digest"]), str(card["source"]), pulled, str(card.get("access", "")))


def _discard(card: Path) -> None:
    if card.is_dir():
        shutil.rmtree(card)
    else:
        card.unlink(missing_ok=True)
