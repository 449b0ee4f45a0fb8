"""``python -m zos.programs.unpack FD ROOT BYTES ENTRIES``: makes a tree of the file that FD is open on, in an empty directory,
of no more than so many bytes and entries, and prints the digest of the file as it was read.

A tar is unpacked; a disk image (raw, qcow2) becomes the one file of the tree, ``image.raw`` or ``image.qcow2``. Either may be
packed.
"""

from __future__ import annotations

import os
import sys
import tarfile

from zos.programs import putdisk
from zos.programs.packed import BadContent, Content, Digested
from zos.programs.untar import is_tar, untar


def unpack(source: Digested, root: str, size: int, entries: int) -> None:
    """Raises BadContent."""
    content, found = Content(source), 1
    if is_tar(content.first):
        found = untar(content, root, size, entries)
    elif (name := putdisk.name_of(content.first)) is not None:
        putdisk.put(content, f"{root}/{name}", size)
    else:
        raise BadContent(
            "it is neither a tar archive nor a disk image (raw with a partition table or boot sector, or qcow2), plain or "
            "packed with gzip, xz, bzip2 or zstd"
        )
    content.end(size)
    if not found:
        raise BadContent("it is empty: an archive without entries, or nothing but zeros")


def main() -> None:
    _, fd, root, size, entries = sys.argv
    try:
        source = Digested(open(int(fd), "rb", buffering=0))  # noqa: SIM115 - read to the end of the process
        unpack(source, os.path.abspath(root), int(size), int(entries))
        digest = source.rest()
    except BadContent as error:
        sys.exit(str(error))
    except RecursionError:
        sys.exit("its directories are nested too deep")
    except MemoryError:
        sys.exit("it wants more memory than it gets to unpack")
    except KeyError:
        sys.exit("the archive is broken: a hard link in it leads to what it has not")
    except (tarfile.TarError, EOFError, UnicodeError, ValueError) as error:
        sys.exit(f"the archive is broken: {error}")
    except OSError as error:
        sys.exit(f"{error.strerror or error}: {error.filename or ''}")
    print(digest)


if __name__ == "__main__":
    main()
