"""What a virtual machine's disk was written from: a card beside the disk, from before the first byte on."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from zos.drivers import halfwritten
from zos.files import Durability, sync
from zos.files import write as write_file


@dataclass(frozen=True, kw_only=True)
class SystemCard:
    """The digest of the image, and what it was called; both empty of a system that its user says is there. ``done``: all but
    the first sector was written. ``signed``: the disk has a sign of its own as long as that is not there either; what an
    earlier agent was writing has none."""

    image: str
    ref: str
    firmware: Literal["bios", "uefi"]
    done: bool
    signed: bool = False


def read(disk: Path) -> SystemCard | None:
    """None: nothing that is known was written. Raises OSError where that can't be told, ValueError for a card that can't be
    understood."""
    try:
        text = json.loads(_beside(disk).read_text())
        firmware: Literal["bios", "uefi"] = "uefi" if text["firmware"] == "uefi" else "bios"
        return SystemCard(
            image=str(text["image"]),
            ref=str(text["ref"]),
            firmware=firmware,
            done=text["done"] is True,
            signed=text.get("signed") is True,
        )
    except FileNotFoundError:
        return None
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{_beside(disk)} can't be understood") from error


def whole(disk: Path) -> SystemCard | None:
    """What was written to the last byte; None: nothing that is known. Raises as `read` does."""
    card = read(disk)
    return card if card is not None and card.done and not halfwritten.is_signed(disk) else None


def is_half(disk: Path) -> bool:
    """Whether a system was being written to it, and nobody has had it since. Raises OSError where that can't be told."""
    if halfwritten.is_signed(disk):
        return True
    with contextlib.suppress(ValueError):
        card = read(disk)
        return card is not None and not card.done and not card.signed
    return False


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
    if is_half(disk):
        end(disk)
        sync(disk.parent)
        halfwritten.clear(disk)


def end(disk: Path) -> None:
    """The disk is gone."""
    _beside(disk).unlink(missing_ok=True)


def _beside(disk: Path) -> Path:
    return disk.with_suffix(".system")
