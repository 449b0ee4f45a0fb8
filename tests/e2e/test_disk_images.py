"""Disks that begin as an image, and what becomes of one that nobody knows any more."""

from __future__ import annotations

from guests import Guests
from harness import Grid
from stories import diskimages


def test_a_disk_begins_as_an_image_and_is_booted_from(grid: Grid, namespace: str) -> None:
    written = diskimages.begins_as_an_image_and_is_booted_from(grid, namespace)
    diskimages.is_lost_and_booted_as_it_is(Guests(grid, namespace), written)
