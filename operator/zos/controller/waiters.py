"""Who waits for a part of a pool to be written."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import NamedTuple

from zos.api.meta import Key


class Waiter(NamedTuple):
    """Somebody who relies on a part being written. ``by``: whose resolution asked for it."""

    part: str
    by: Key | None
    done: asyncio.Future[None]


def waiter(part: str, by: Key | None) -> Waiter:
    return Waiter(part, by, asyncio.get_running_loop().create_future())


def fulfil(waiters: Iterable[Waiter]) -> None:
    for each in waiters:
        if not each.done.done():
            each.done.set_result(None)


def fail(waiters: Iterable[Waiter], why: Exception) -> None:
    for each in waiters:
        if not each.done.done():
            each.done.set_exception(why)
            each.done.exception()  # who asked may have failed before it came to wait


def failed(why: Exception) -> asyncio.Future[None]:
    """For who need not wait to be told."""
    told = waiter("", None)
    fail([told], why)
    return told.done
