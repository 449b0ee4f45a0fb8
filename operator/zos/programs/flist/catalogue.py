"""The tree of an flist: looked through once when it is opened, then asked for what is needed."""

from __future__ import annotations

import contextlib
import sqlite3
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from zos.programs.flist.schema import CHECKS, COLUMNS, ENTRIES, INDEXES, KEYS, ROOT, ROUTES_CHECK
from zos.programs.flist.sealing import BLOCK, Block

#: Seconds that it may take to look through all, and to answer one question.
_CHECKING, _ANSWERING = 60.0, 3.0
#: Bytes that SQLite may take, and of which it makes a cache (in KiB). Steps of its machine between two looks at the clock.
_HEAP, _CACHE, _STEPS = 192 << 20, 8 << 10, 20_000
#: Bytes of one value or row; characters of a statement that stands in the file.
_VALUE, _STATEMENT = 64 << 10, 16 << 10
#: What an image has: the guest's kernel makes its own devices, pipes and sockets.
_KINDS = (stat.S_IFDIR, stat.S_IFREG, stat.S_IFLNK)


class BadFlist(Exception):
    """What is wrong with it, for the person whose it is."""


@dataclass(frozen=True)
class Inode:
    ino: int
    parent: int
    name: bytes
    size: int
    uid: int
    gid: int
    mode: int
    ctime: int
    mtime: int

    @property
    def served(self) -> bool:
        return stat.S_IFMT(self.mode) in _KINDS


@dataclass(frozen=True)
class Route:
    """Blocks whose id begins with a byte from ``start`` to ``end`` are at ``url``."""

    start: int
    end: int
    url: str


_FIELDS = "ino, parent, CAST(name AS BLOB), size, uid, gid, mode, ctime, mtime"


class Catalogue:
    """Raises BadFlist for what can't be mounted, and later where the file itself turns out to be broken."""

    def __init__(self, file: Path) -> None:
        self._deadline = time.monotonic() + _CHECKING
        try:
            self._base = sqlite3.connect(
                f"file:{quote(str(file.absolute()))}?mode=ro&immutable=1", uri=True, cached_statements=32
            )
        except sqlite3.Error as error:
            raise BadFlist(f"it can't be opened: {error}") from None
        self._base.text_factory = bytes
        self._base.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _VALUE)
        self._base.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, _STATEMENT)
        self._base.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        self._base.set_progress_handler(lambda: time.monotonic() > self._deadline, _STEPS)
        with self._telling():
            for pragma in (
                "trusted_schema=off", "query_only=on", "cell_size_check=on", "mmap_size=0", "temp_store=memory",
                f"cache_size=-{_CACHE}", f"hard_heap_limit={_HEAP}",
            ):  # fmt: skip
                self._base.execute(f"PRAGMA {pragma}").fetchall()
            self._check_tables()
            self._check_rows()
            self.routes = tuple(
                Route(start, end, url.decode("utf-8", "replace"))
                for start, end, url in self._base.execute("SELECT start, end, url FROM route NOT INDEXED ORDER BY rowid")
            )
            self.entries: int = self._base.execute("SELECT count(*) FROM inode NOT INDEXED").fetchone()[0]
            self.blocks: int = self._base.execute("SELECT count(*) FROM block NOT INDEXED").fetchone()[0]

    def inode(self, ino: int) -> Inode | None:
        rows = self._ask(f"SELECT {_FIELDS} FROM inode NOT INDEXED WHERE ino = ?", ino)
        return Inode(*rows[0]) if rows else None

    def children(self, directory: int) -> tuple[Inode, ...]:
        """What is in a directory, in an order that stays."""
        found = f"SELECT ino FROM inode WHERE parent = ? AND ino != {ROOT}"
        rows = self._ask(f"SELECT {_FIELDS} FROM inode NOT INDEXED WHERE ino IN ({found}) ORDER BY ino", directory)
        return tuple(inode for inode in (Inode(*row) for row in rows) if inode.served and inode.parent == directory)

    def target(self, link: int) -> bytes:
        """Where a symlink points to."""
        return bytes(self._ask("SELECT CAST(data AS BLOB) FROM extra NOT INDEXED WHERE ino = ?", link)[0][0])

    def block(self, file: Inode, index: int) -> Block:
        """That of the ``index``-th piece of a file, whose bytes it has."""
        found = "SELECT rowid FROM block WHERE ino = ? ORDER BY rowid LIMIT 1 OFFSET ?"
        rows = self._ask(f"SELECT id, key FROM block NOT INDEXED WHERE rowid = ({found})", file.ino, index)
        if not rows:
            raise BadFlist(f"its inode {file.ino} has a block that is not there")
        return Block(rows[0][0], rows[0][1], min(BLOCK, file.size - index * BLOCK))

    def close(self) -> None:
        self._base.close()

    def _ask(self, question: str, *values: int) -> list[tuple[Any, ...]]:
        self._deadline = time.monotonic() + _ANSWERING
        with self._telling():
            return self._base.execute(question, values).fetchall()

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # what it says of itself need not be text
            if time.monotonic() > self._deadline:
                raise BadFlist("it takes too long to look through") from None
            raise BadFlist(f"it is no flist of rfs v2, or broken: {str(error)[:200]}") from None
        except MemoryError:
            raise BadFlist("it wants more memory than it gets") from None

    def _check_tables(self) -> None:
        """Nothing that stands in the file is run: no views, triggers, virtual tables, columns that are computed."""
        kinds = {kind for (kind,) in self._base.execute("SELECT DISTINCT type FROM sqlite_master")}
        if strange := kinds - {b"table", b"index"}:
            raise BadFlist(f"it is no plain flist: it has a {strange.pop().decode(errors='replace')}")
        plain = {
            name.decode(errors="replace"): (kind, without)
            for _, name, kind, _, without, _ in self._base.execute("PRAGMA main.table_list")
        }
        for table, columns in COLUMNS.items():
            if plain.get(table) != (b"table", 0):
                raise BadFlist(f"it is no flist of rfs v2: it has no plain table {table}")
            found = {row[1].decode(errors="replace"): row for row in self._base.execute(f"PRAGMA table_xinfo({table})")}
            for name in columns:
                if name not in found or found[name][6] != 0:
                    raise BadFlist(f"it is no flist of rfs v2: its table {table} has no plain column {name}")
            key = KEYS.get(table)
            if key and (found[key][2].upper(), [name for name, row in found.items() if row[5]]) != (b"INTEGER", [key]):
                raise BadFlist(f"it is no flist of rfs v2: the rows of its table {table} are not known by {key}")
        for table, column in INDEXES.items():
            if not any(self._is_on(index, column) for index in self._base.execute(f"PRAGMA index_list({table})")):
                raise BadFlist(f"its table {table} has no index on {column}: make it anew with rfs, or hack/images/flist")

    def _is_on(self, index: tuple[Any, ...], column: str) -> bool:
        """Of all rows, beginning with the column."""
        if index[4]:
            return False
        on = self._base.execute("SELECT name FROM pragma_index_info(?) ORDER BY seqno", (index[1].decode(),)).fetchall()
        return bool(on) and on[0][0] == column.encode()

    def _check_rows(self) -> None:
        if self._base.execute("SELECT count(*) FROM inode NOT INDEXED").fetchone()[0] > ENTRIES:
            raise BadFlist(f"it has more than {ENTRIES} entries")
        root = self._base.execute("SELECT mode FROM inode WHERE ino = ?", (ROOT,)).fetchone()
        if root is None or not isinstance(root[0], int) or not stat.S_ISDIR(root[0]):
            raise BadFlist("it has no root directory")
        for question, problem in CHECKS:
            if row := self._base.execute(f"{question} LIMIT 1").fetchone():
                raise BadFlist(f"its inode {row[0]} {problem}")
        if self._base.execute(f"{ROUTES_CHECK} LIMIT 1").fetchone():
            raise BadFlist("its routes are not ranges of a byte with a URL, or too many")
