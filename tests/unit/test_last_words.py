"""Who has said how it ended gets a while to go, once each time."""

from __future__ import annotations

import asyncio

from virtual import virtual
from zos.drivers.lastwords import LastWords

ONE, OTHER = ("zos-a", "uuid-a"), ("zos-b", "uuid-b")


@virtual
async def test_who_stays_on_is_late_and_who_goes_is_not() -> None:
    late: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
    words = LastWords(0.05, lambda name, uuid: late.put_nowait((name, uuid)))
    words.watch([ONE, OTHER])
    words.watch([ONE])
    assert await asyncio.wait_for(late.get(), 5) == ONE
    words.watch([ONE])  # it could not be ended
    assert await asyncio.wait_for(late.get(), 5) == ONE
    words.watch([OTHER])
    words.watch(())
    await asyncio.sleep(0.1)
    assert late.empty()
