"""What an flist looks like, and what is asked of one before it is mounted.

It is a database that a stranger made. Its tables must be plain tables, each row known by a number of the file itself: then an
inode has one parent, and what can be reached from the root is a tree, whatever else stands there.
"""

from __future__ import annotations

import stat

from zos.programs.flist.sealing import BLOCK, DIGEST

ROOT = 1
#: Entries of an image; links are as long as Linux lets them be; what no file of an image has, nor any clock
#: shows; what a URL may be.
ENTRIES = 2_000_000
_TARGET = 4095
_SIZE = 1 << 40
_TIME = 10**11
_ROUTES, _URL = 4096, 2048

DDL = """
CREATE TABLE inode (ino INTEGER PRIMARY KEY AUTOINCREMENT, parent INTEGER, name VARCHAR(255), size INTEGER, uid INTEGER,
  gid INTEGER, mode INTEGER, rdev INTEGER, ctime INTEGER, mtime INTEGER);
CREATE INDEX parents ON inode (parent);
CREATE TABLE extra (ino INTEGER PRIMARY KEY, data VARCHAR(4096));
CREATE TABLE block (ino INTEGER, id VARCHAR(32), key VARCHAR(32));
CREATE INDEX block_ino ON block (ino);
CREATE TABLE tag (key VARCHAR(10) PRIMARY KEY, value VARCHAR(255));
CREATE TABLE route (start INTEGER, end INTEGER, url VARCHAR(2048));
"""

COLUMNS = {
    "inode": ("ino", "parent", "name", "size", "uid", "gid", "mode", "rdev", "ctime", "mtime"),
    "extra": ("ino", "data"),
    "block": ("ino", "id", "key"),
    "route": ("start", "end", "url"),
}
#: Tables whose rows are known by this column, and those that would be searched from end to end without an index.
KEYS = {"inode": "ino", "extra": "ino"}
INDEXES = {"inode": "parent", "block": "ino"}

_FORMAT = 0o170000
_IS_FILE, _IS_LINK, _IS_DIRECTORY = (f"mode & {_FORMAT} = {kind}" for kind in (stat.S_IFREG, stat.S_IFLNK, stat.S_IFDIR))
_NUMBERS = " OR ".join(f"typeof({name}) != 'integer'" for name in ("size", "uid", "gid", "mode", "ctime", "mtime", "parent"))
_NAME = "CAST(name AS BLOB)"
_LINK = "CAST(data AS BLOB)"
_INODES = "SELECT ino FROM inode NOT INDEXED"

#: What is wrong with the inode that each of them finds. Cheap ones first: later ones rely on them. An index is the stranger's
#: as well, and may say other things than its table: what is looked through are tables, and what is found by an index is taken
#: from its row.
CHECKS = (
    (f"{_INODES} WHERE {_NUMBERS}", "has something else than a number where one belongs"),
    (f"{_INODES} WHERE size < 0 OR size > {_SIZE}", "has a size that no file has"),
    (f"{_INODES} WHERE min(uid, gid) < 0 OR max(uid, gid) > 4294967294", "has an owner that nobody can be"),
    (f"{_INODES} WHERE mode < 0 OR mode > 65535", "has a mode that no file has"),
    (f"{_INODES} WHERE max(abs(ctime / {_TIME}), abs(mtime / {_TIME})) > 0", "has a time that no clock shows"),
    (
        f"{_INODES} WHERE ino != {ROOT} AND (typeof(name) != 'text' OR length({_NAME}) NOT BETWEEN 1 AND 255 "
        f"OR instr({_NAME}, x'00') OR instr({_NAME}, x'2f') OR {_NAME} IN (x'2e', x'2e2e'))",
        "has a name that no file can have",
    ),
    (
        f"{_INODES} WHERE ino != {ROOT} AND NOT EXISTS (SELECT 1 FROM inode AS above "
        f"WHERE above.ino = inode.parent AND above.{_IS_DIRECTORY})",
        "is in no directory",
    ),
    (
        f"SELECT max(ino) FROM inode NOT INDEXED WHERE ino != {ROOT} GROUP BY parent, name HAVING count(*) > 1",
        "has the name of another one beside it",
    ),
    (
        f"SELECT inode.ino FROM inode NOT INDEXED LEFT JOIN extra USING (ino) WHERE {_IS_LINK} AND (data IS NULL "
        f"OR length({_LINK}) NOT BETWEEN 1 AND {_TARGET} OR instr({_LINK}, x'00'))",
        "is a symlink to what no link can point to",
    ),
    (
        f"SELECT ino FROM block NOT INDEXED WHERE typeof(id) != 'blob' OR length(id) != {DIGEST} "
        f"OR typeof(key) != 'blob' OR length(key) != {DIGEST}",
        "has a block without a whole id and key",
    ),
    (
        f"{_INODES} WHERE {_IS_FILE} AND (size + {BLOCK - 1}) / {BLOCK} != "
        "(SELECT count(*) FROM block WHERE block.ino = inode.ino)",
        "has not as many blocks as its size needs",
    ),
)  # fmt: skip
ROUTES_CHECK = (
    f"SELECT 1 FROM route NOT INDEXED WHERE typeof(start) != 'integer' OR typeof(end) != 'integer' "
    f"OR start NOT BETWEEN 0 AND end OR end > 255 "
    f"OR typeof(url) != 'text' OR length(CAST(url AS BLOB)) > {_URL} "
    f"UNION ALL SELECT 1 WHERE (SELECT count(*) FROM route NOT INDEXED) > {_ROUTES}"
)
