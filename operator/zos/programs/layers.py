"""``python -m zos.programs.layers FD ROOT BYTES ENTRIES KEPT DIGEST…``: makes a tree of the layers with these digests, the
lowest first, in an empty directory, of no more than so many bytes and entries, and so that KEPT bytes stay free on its disk.
FD is open on the directory of an OCI layout's blobs (``blobs/sha256``).
"""

from __future__ import annotations

import os
import sys

from zos.programs.budget import Budget
from zos.programs.ending import explained
from zos.programs.packed import BadContent, Content, Digested
from zos.programs.untar import Untar, is_tar


def unpack(blobs: int, root: str, budget: Budget, digests: list[str]) -> None:
    """Raises BadContent and Exceeded."""
    tree = Untar(root, budget)
    for digest in digests:
        # Written by a fetcher, which is not to be trusted with where a link leads.
        name = digest.removeprefix("sha256:")
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=blobs)
        with open(fd, "rb", buffering=0) as file:
            source = Digested(file)
            content = Content(source)
            if not is_tar(content.first):
                raise BadContent(f"its layer {digest} is no tar archive, plain or packed with gzip or zstd")
            tree.unpack(content, layer=True)
            content.end(budget.size)
            if source.rest() != digest:
                raise BadContent(f"its layer {digest} is not what has this digest")
    tree.end()


def main() -> None:
    _, blobs, root, size, entries, kept, *digests = sys.argv
    with explained():
        fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        unpack(int(blobs), os.path.abspath(root), Budget(int(size), int(entries), int(kept), fd), digests)


if __name__ == "__main__":
    main()
