"""A machine from an flist over a slow line: it runs before its image is here, and on while blocks can't be had."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from guests import Guests
from harness import Grid, until
from publisher import ADDRESS, PORT, Publisher, publishing
from zos.programs.flist.sealing import BLOCK

SPEED = 1 << 20
BLOCKS = 64
#: Reads one block after the other, each as often as it takes.
READS = f"""
echo started; i=0
while [ $i -lt {BLOCKS} ]; do
  began=$(date +%s)
  if dd if=/big bs={BLOCK} skip=$i count=1 of=/block 2>/dev/null; then
    echo "read $i $(md5sum </block)"; i=$((i + 1)); sleep 1
  else
    echo "failed $i in $(($(date +%s) - began)) s"
  fi
done
"""


class Slow:
    """An image that is mostly one file, and who publishes it at one MB a second."""

    def __init__(self, publisher: Publisher, tree: Path) -> None:
        self.publisher, self.big = publisher, tree / "big"
        (tree / "bin").mkdir(parents=True)
        shutil.copy(shutil.which("busybox") or "/bin/busybox", tree / "bin/busybox")
        for tool in ("sh", "dd", "date", "md5sum", "sleep", "echo"):
            (tree / "bin" / tool).symlink_to("busybox")
        self.big.write_bytes(os.urandom(BLOCKS * BLOCK))
        self.image = publisher.publish(tree, "lazy")

    def digest(self, number: int) -> str:
        return hashlib.md5(self.big.read_bytes()[number * BLOCK : (number + 1) * BLOCK]).hexdigest()


@pytest.fixture
def slow(grid: Grid, tmp_path: Path) -> Iterator[Slow]:
    with publishing(grid, tmp_path, "n1", SPEED) as publisher:
        yield Slow(publisher, tmp_path / "tree")


def test_a_machine_runs_before_its_image_is_here_and_without_it(grid: Grid, namespace: str, slow: Slow) -> None:
    publisher = slow.publisher
    guests = Guests(grid, namespace)
    guests.network()
    guests.apply("lazy", READS, image=slow.image)
    guests.prints("lazy", "^started$")
    sent = publisher.sent
    print(f"{sent / 2**20:.1f} of {BLOCKS * BLOCK / 2**20:.0f} MiB were sent when it started")
    assert sent < BLOCKS * BLOCK / 10
    guests.ready("lazy")

    def last() -> int:
        return int(re.findall(r"^read (\d+)", guests.console("lazy"), re.MULTILINE)[-1])

    guests.prints("lazy", "^read 0 ")
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
    for number, digest in re.findall(r"^read (\d+) (\w{32})", said, re.MULTILINE):
        assert digest == slow.digest(int(number))
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
