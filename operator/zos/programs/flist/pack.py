"""``python -m zos.programs.flist.pack DIRECTORY OUT.fl --store DIRECTORY [--url URL]``: makes an flist of a directory.

The same directory gives the same bytes. As rfs has it: the names of a hard link are files of their own with the same blocks,
holes are blocks of zeros (all one), and extended attributes have no place; times are whole seconds. ``--url`` is where the
store is going to be found (absent: where it is, ``dir://``).
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import stat
from pathlib import Path
from urllib.parse import quote

from zos.programs.flist.schema import DDL
from zos.programs.flist.sealing import BLOCK, Block, seal

Row = tuple[int, int, str, int, int, int, int, int, int, int]


def pack(directory: Path, flist: Path, store: Path, url: str = "") -> None:
    """Writes ``flist``, and the blocks that are not there yet into ``store``. Raises OSError, and ValueError for a name that is
    no text."""
    store.mkdir(parents=True, exist_ok=True)
    new = flist.with_name(f".{flist.name}.new")
    new.unlink(missing_ok=True)
    base = sqlite3.connect(new)
    try:
        base.executescript(DDL)
        base.execute("INSERT INTO tag VALUES ('version', '2')")
        base.execute("INSERT INTO route VALUES (0, 255, ?)", (url or f"dir://{quote(str(store.absolute()))}",))
        base.execute("INSERT INTO inode VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", _row(1, 0, "/", directory.stat()))
        _pack_below(base, directory, store)
        base.commit()
    finally:
        base.close()
    new.rename(flist)


def _pack_below(base: sqlite3.Connection, root: Path, store: Path) -> None:
    known: dict[tuple[int, int], list[Block]] = {}
    waiting, last = [(root, 1)], 1
    while waiting:
        directory, parent = waiting.pop()
        for entry in sorted(os.scandir(directory), key=lambda entry: os.fsencode(entry.name)):
            last += 1
            info = entry.stat(follow_symlinks=False)
            try:
                entry.name.encode()
            except UnicodeEncodeError:
                raise ValueError(f"{entry.path!r}: rfs has no names that are not UTF-8") from None
            base.execute("INSERT INTO inode VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", _row(last, parent, entry.name, info))
            if stat.S_ISDIR(info.st_mode):
                waiting.append((Path(entry.path), last))
            elif stat.S_ISLNK(info.st_mode):
                base.execute("INSERT INTO extra VALUES (?, ?)", (last, os.fsencode(os.readlink(entry.path))))
            elif stat.S_ISREG(info.st_mode):
                inode = (info.st_dev, info.st_ino)
                if inode not in known:
                    known[inode] = _store(Path(entry.path), info.st_size, store)
                base.executemany("INSERT INTO block VALUES (?, ?, ?)", [(last, block.id, block.key) for block in known[inode]])
                if info.st_nlink == 1:
                    del known[inode]


def _row(ino: int, parent: int, name: str, info: os.stat_result) -> Row:
    size = info.st_size if not stat.S_ISDIR(info.st_mode) else 0  # that of a directory is its file system's own affair
    return ino, parent, name, size, info.st_uid, info.st_gid, info.st_mode, info.st_rdev, int(info.st_mtime), int(info.st_mtime)


def _store(file: Path, size: int, store: Path) -> list[Block]:
    blocks, left = [], size
    with file.open("rb") as source:
        while left > 0:
            piece = source.read(min(BLOCK, left))
            if not piece:
                raise OSError(0, "has become shorter while it was read", str(file))
            left -= len(piece)
            block, stored = seal(piece)
            blocks.append(block)
            place = store / block.id.hex()[:2] / block.id.hex()
            if not place.exists():
                place.parent.mkdir(exist_ok=True)
                new = place.with_name(f".{place.name}.{os.getpid()}")
                new.write_bytes(stored)
                new.rename(place)
    return blocks


def main() -> None:
    words = argparse.ArgumentParser(prog="hack/images/flist", description="makes an flist (rfs v2) of a directory")
    words.add_argument("directory", type=Path)
    words.add_argument("flist", type=Path)
    words.add_argument("--store", type=Path, help="where its blocks go [beside it: OUT.fl.blocks]")
    words.add_argument("--url", default="", help="where that is going to be found [dir://…]")
    told = words.parse_args()
    store = told.store or told.flist.with_name(f"{told.flist.name}.blocks")
    try:
        pack(told.directory, told.flist, store, told.url)
    except OSError as error:
        raise SystemExit(f"{error.filename or told.directory}: {error.strerror}") from None
    except ValueError as error:
        raise SystemExit(str(error)) from None
    print(f"{told.flist}: its blocks are in {store}, and are looked for at {told.url or f'dir://{store.absolute()}'}")


if __name__ == "__main__":
    main()
