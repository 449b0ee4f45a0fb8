"""What disks and volumes have in common, as both hold data: sizes in whole blocks, and the words for what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from zos.drivers import DriverError
from zos.drivers.reservation import amount
from zos.plan.items.storage import Kept

K = TypeVar("K", bound=Kept)

#: QEMU shows a file's last sector to the guest whole, and makes the file longer when it is written; a file system has blocks.
BLOCK = 4096


def in_blocks(item: K) -> K:
    return replace(item, size=-(-item.size // BLOCK) * BLOCK)


def as_asked(there: K, asked: K, old_is_here: bool) -> K:
    """One that is there, in the words of the wish: that it must exist is fulfilled, and what was to become it has, unless that
    is still there as well."""
    size = asked.size if there.size == in_blocks(asked).size else there.size
    return replace(there, size=size, must_exist=asked.must_exist, adopt="" if old_is_here else asked.adopt)


def refuse_to_shrink(item: Kept, size: int, name: str = "") -> None:
    """Raises DriverError for one of ``size`` that can't have the size asked for. ``name``, where it has another one still."""
    if item.size < size:
        raise DriverError(f"{item.FAMILY} {name or item.name} has {amount(size)} and can't shrink to {amount(item.size)}")


def missing(item: Kept) -> str:
    return (
        f"{item.FAMILY} {item.name} holds data and is not on this node; an empty one is not made in its place. Bring its file "
        "back, or, if the data is lost, delete the object and make it anew"
    )


def nothing_to_adopt(item: Kept) -> str:
    kind = item.FAMILY
    return f"{kind} {item.adopted} is not on this node: there is nothing to take over; take giveTo back for an empty {kind}"


def used_meanwhile(family: str, name: str) -> str:
    return f"{family} {name} was used since the node looked last"


def here_already(item: Kept) -> str:
    return (
        f"{item.FAMILY} {item.name} is here already and keeps what it holds, so {item.adopted} stays in quarantine: "
        f"give it to an object that has no {item.FAMILY} yet"
    )
