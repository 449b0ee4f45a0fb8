"""What a virtual machine's disk was written from: a card beside the disk, from before the first byte on."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from zos.files import Durability, sync
from zos.files import write as write_file


@dataclass(frozen=True, kw_only=True)
class SystemCard:
    """The digest of the image, and what it was called. ``done``: it was written to the last byte."""

    image: str
    ref: str
    firmware: Literal["bios", "uefi"]
    done: bool


def read(disk: Path) -> SystemCard | None:
    """None: nothing that is known was written. Raises OSError where that can't be told, ValueError for a card that can't be
    understood."""
    try:
        text = json.loads(_beside(disk).read_text())
        firmware: Literal["bios", "uefi"] = "uefi" if text["firmware"] == "uefi" else "bios"
        return SystemCard(image=str(text["image"]), ref=str(text["ref"]), firmware=firmware, done=text["done"] is True)
    except FileNotFoundError:
        return None
    except (KeyError, TypeError) as error:
        raise ValueError(f"{_beside(disk)} can't be understood") from error


def write(disk: Path, card: SystemCard) -> None:
    write_file(_beside(disk), json.dumps(asdict(card)), Durability.DURABLE)


def copy(disk: Path, other: Path) -> None:
    """For a disk that is about to be called otherwise."""
    try:
        write_file(_beside(other), _beside(disk).read_bytes(), Durability.DURABLE)
    except FileNotFoundError:
        end(other)


def given(disk: Path) -> None:
    """A guest is about to have the disk: what of a system was written to it, and not to the end, is not to be gone on with."""
    with contextlib.suppress(ValueError):
        card = read(disk)
        if card is not None and not card.done:
            end(disk)
            sync(disk.parent)


def end(disk: Path) -> None:
    """The disk is gone."""
    _beside(disk).unlink(missing_ok=True)


def _beside(disk: Path) -> Path:
    return disk.with_suffix(".system")
