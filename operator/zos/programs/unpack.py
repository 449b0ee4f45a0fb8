"""``python -m zos.programs.unpack FD ROOT BYTES ENTRIES KEPT``: makes a tree of the file that FD is open on, in an empty
directory, of no more than so many bytes and entries, and so that KEPT bytes stay free on its disk. Prints the digest of the
file as it was read.

A tar is unpacked; a disk image (raw, qcow2) becomes the one file of the tree, ``image.raw`` or ``image.qcow2``. Either may be
packed.
"""

from __future__ import annotations

import os
import sys

from zos.programs import putdisk
from zos.programs.budget import Budget
from zos.programs.ending import explained
from zos.programs.packed import BadContent, Content, Digested
from zos.programs.untar import Untar, is_tar


def unpack(source: Digested, root: str, budget: Budget) -> None:
    """Raises BadContent and Exceeded."""
    content, found = Content(source), 1
    if is_tar(content.first):
        tree = Untar(root, budget)
        found = tree.unpack(content)
        tree.end()
    elif (name := putdisk.name_of(content.first)) is not None:
        putdisk.put(content, f"{root}/{name}", budget)
    else:
        raise BadContent(
            "it is neither a tar archive nor a disk image (qcow2, or raw with a partition table, a boot sector, btrfs or "
            "ext4), plain or packed with gzip, xz, bzip2 or zstd"
        )
    content.end(budget.size)
    if not found:
        raise BadContent("it is empty: an archive without entries, or nothing but zeros")


def main() -> None:
    _, fd, root, size, entries, kept = sys.argv
    with explained():
        source = Digested(open(int(fd), "rb", buffering=0))  # noqa: SIM115 - read to the end of the process
        target = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        unpack(source, os.path.abspath(root), Budget(int(size), int(entries), int(kept), target))
        print(source.rest())


if __name__ == "__main__":
    main()
