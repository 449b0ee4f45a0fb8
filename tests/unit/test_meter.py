"""How much a program has written, while it writes."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from zos.drivers import meter
from zos.drivers.beside import beside
from zos.drivers.meter import Limits, Meter, TooBig


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter, "_GLANCE", 0.01)
    monkeypatch.setattr(meter, "_LOOK", 0.0)


async def test_a_program_that_takes_away_what_it_made_says_itself_why(tmp_path: Path) -> None:
    room = tmp_path / "rootfs"
    room.mkdir()

    async def fails_and_tidies_up() -> None:
        shutil.rmtree(room)
        await asyncio.sleep(0.1)
        raise ValueError("file too large")

    with pytest.raises(ValueError, match="file too large"):
        await beside(fails_and_tidies_up, Meter(room, Limits(), "it has").watch)


async def test_too_much_ends_the_work(tmp_path: Path) -> None:
    room = tmp_path / "rootfs"
    room.mkdir()

    async def goes_on() -> None:
        (room / "much").write_bytes(b"x" * (1 << 20))
        await asyncio.sleep(60)

    with pytest.raises(TooBig, match="it has more than the"):
        await beside(goes_on, Meter(room, Limits(size=1 << 19), "it has").watch)
