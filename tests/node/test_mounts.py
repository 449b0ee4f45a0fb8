"""What is mounted where, and who is told when that changes."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from zos.drivers.mounts import Remounts, mounts_at

GUEST, OTHER = ("zos-a", "uuid-a"), ("zos-b", "uuid-b")


def test_what_is_mounted_is_told_without_asking_it(tmp_path: Path) -> None:
    place = tmp_path / "a place\\of its own"
    place.mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    assert mounts_at([place]) == {}
    for options in ("nosuid,nodev,noexec", "nosuid,ro"):
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], check=True)
        for path in (place, link / place.name):
            found = mounts_at([path])[path].options
            assert set(options.split(",")) <= found, found
    assert "noexec" not in found
    subprocess.run(["umount", place, place], check=True)
    assert mounts_at([place]) == {}
    assert mounts_at([tmp_path / "absent"]) == {}


class Place:
    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()

    def mount(self) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", self.path], check=True)

    def unmount(self) -> None:
        subprocess.run(["umount", "-l", self.path], check=True)


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    place = Place(tmp_path / "place")
    yield place
    while subprocess.run(["umount", "-l", place.path], stderr=subprocess.DEVNULL).returncode == 0:
        pass


async def test_a_guest_is_told_of_another_mount_and_of_nothing_else(tmp_path: Path, place: Place) -> None:
    told: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
    remounts = Remounts(lambda name, uuid: told.put_nowait((name, uuid)))
    remounts.watch({GUEST: frozenset({place.path})})
    assert told.empty(), "nothing is there yet"
    place.mount()
    assert await asyncio.wait_for(told.get(), 5) == GUEST
    held = os.open(place.path, os.O_PATH)  # as a guest does that has it
    place.unmount()
    place.mount()
    assert await asyncio.wait_for(told.get(), 5) == GUEST
    os.close(held)
    remounts.watch({GUEST: frozenset({place.path}), OTHER: frozenset({place.path})})
    assert await asyncio.wait_for(told.get(), 5) == OTHER, "one that nobody knows about"
    elsewhere = Place(tmp_path / "elsewhere")
    elsewhere.mount()
    elsewhere.unmount()
    remounts.forget(*GUEST)
    remounts.watch({GUEST: frozenset({place.path}), OTHER: frozenset({place.path})})
    assert await asyncio.wait_for(told.get(), 5) == GUEST, "it could not be told before"
    assert told.empty()
    remounts.watch({})
    place.unmount()
    place.mount()
    await asyncio.sleep(0.1)
    assert told.empty()
    remounts.close()
