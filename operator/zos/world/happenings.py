"""What happened to an object between two statuses, for those whose kinds it is the same for."""

from __future__ import annotations

from dataclasses import replace

from zos.api.meta import Reason
from zos.world.resolution import Notice


def placed(before: str | None, after: str | None) -> tuple[Notice, ...]:
    """It has a node now, or another one."""
    if after is None or after == before:
        return ()
    return (Notice(Reason.PLACED, f"on node {after}", once=after),)


def assigned(before: str | None, after: str | None, what: str, where: str = "") -> tuple[Notice, ...]:
    """It has an address now, or another one."""
    if after is None or after == before:
        return ()
    return (Notice(Reason.ADDRESS_ASSIGNED, f"{what} {after} {where}".strip(), once=after),)


def together(placed: tuple[Notice, ...], *assigned: Notice) -> tuple[Notice, ...]:
    """A place and the addresses that came with it are one piece of news."""
    if not placed or not assigned:
        return (*placed, *assigned)
    (place,) = placed
    return (replace(place, message=f"{place.message}, with {', '.join(notice.message for notice in assigned)}"),)
