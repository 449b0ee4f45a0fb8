"""A machine from an flist over a slow line: it runs before its image is here, and on while blocks can't be had."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import Grid, until
from publisher import ADDRESS, PORT, publishing
from stories import flists
from stories.flists import SPEED, Slow


@pytest.fixture
def slow(grid: Grid, tmp_path: Path) -> Iterator[Slow]:
    with publishing(grid, tmp_path, "n1", SPEED) as publisher:
        yield Slow(publisher, tmp_path / "tree")


def test_a_machine_runs_before_its_image_is_here_and_without_it(grid: Grid, namespace: str, slow: Slow) -> None:
    publisher = slow.publisher
    guests = flists.runs_before_its_image_is_here(grid, namespace, slow)

    def last() -> int:
        return max(flists.read(guests))

    # Its server is gone: an error in time, told, and well again when it is back.
    publisher.stop()
    began = time.monotonic()
    said = guests.prints("lazy", r"^failed \d+ in \d+ s$", 30)
    assert max(int(seconds) for seconds in re.findall(r"^failed \d+ in (\d+) s$", said, re.MULTILINE)) <= 10
    guests.says("lazy", f"can't be had: {ADDRESS}:{PORT}: dial tcp {ADDRESS}:{PORT}: Connection refused", "ImageUnavailable", 5)
    print(f"told {time.monotonic() - began:.1f} s after its server ended")
    before = last()
    publisher.start()
    began = time.monotonic()
    guests.ready("lazy", seconds=40)
    print(f"Ready {time.monotonic() - began:.1f} s after it was back")
    until(lambda: last() > before, 30)
    # The program that mounts it is killed: nobody is restarted for that.
    names = [name for name in grid.run("n1", "ls", "/run/service").split() if name.startswith("zos-svc-flist-")]
    (service,) = names
    grid.run("n1", "kill", "-9", grid.run("n1", "s6-svstat", "-o", "pid", f"/run/service/{service}").strip())
    before = last()
    until(lambda: last() > before + 1, 30)
    # What was changed on its way is an error as well.
    publisher.lies.touch()
    guests.says("lazy", "its stored bytes are not those that its id names", "ImageUnavailable", 30)
    publisher.lies.unlink()
    before = last()
    until(lambda: last() > before, 30)
    said = guests.console("lazy")
    assert guests.status("lazy").get("restarts", 0) == 0, said
    flists.what_it_read_is_what_was_published(guests, slow)
    # Whoever held the mount is killed as well: nobody can go on with that, and the machine is started again.
    (holder,) = grid.run("n1", "pgrep", "-f", "^zos-fuse-holder").split()
    grid.run("n1", "kill", "-9", holder, grid.run("n1", "s6-svstat", "-o", "pid", f"/run/service/{service}").strip())
    began = time.monotonic()
    until(lambda: guests.status("lazy").get("restarts") == 1, 30, "it is started again")
    print(f"started again {time.monotonic() - began:.1f} s after its image was lost")
    guests.prints("lazy", r"^started$(.*\n)+started$")
    guests.ready("lazy")
    # What nobody has any more is gone: the mount, its program, its fence.
    guests.delete("zmachine", "lazy")
    until(lambda: service not in grid.run("n1", "ls", "/run/service"), 20)
    assert "zos-flists" not in grid.run("n1", "nft", "list", "tables")
