"""A machine from an flist over a slow line: it runs before its image is here."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
from pathlib import Path

from guests import Guests
from harness import Grid
from publisher import Publisher
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
        self.image = publisher.publish(tree, f"lazy-{secrets.token_hex(4)}")  # nodes keep what they had of another

    def digest(self, number: int) -> str:
        return hashlib.md5(self.big.read_bytes()[number * BLOCK : (number + 1) * BLOCK]).hexdigest()


def read(guests: Guests) -> dict[int, str]:
    """The blocks that machine lazy has read, and what it had of them."""
    said = re.findall(r"^read (\d+) (\w{32})", guests.console("lazy"), re.MULTILINE)
    return {int(number): digest for number, digest in said}


def runs_before_its_image_is_here(grid: Grid, namespace: str, slow: Slow) -> Guests:
    """Machine lazy."""
    publisher = slow.publisher
    guests = Guests(grid, namespace)
    guests.network()
    guests.apply("lazy", READS, image=slow.image)
    guests.prints("lazy", "^started$")
    sent = publisher.sent
    print(f"{sent / 2**20:.1f} of {BLOCKS * BLOCK / 2**20:.0f} MiB were sent when it started")
    assert sent < BLOCKS * BLOCK / 10
    guests.ready("lazy")
    guests.prints("lazy", "^read 0 ")
    return guests


def what_it_read_is_what_was_published(guests: Guests, slow: Slow) -> None:
    for number, digest in read(guests).items():
        assert digest == slow.digest(number)
