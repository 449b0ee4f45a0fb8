"""flists: what one says comes out as it went in, and no bytes of a stranger's do anything else."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sqlite3
import stat
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import cramjam
import pytest
from nacl.bindings import crypto_aead_aes256gcm_encrypt

from zos.programs.flist import blocks as patience
from zos.programs.flist.blocks import Blocks
from zos.programs.flist.cache import Cache
from zos.programs.flist.catalogue import BadFlist, Catalogue, Route
from zos.programs.flist.health import Health
from zos.programs.flist.pack import pack
from zos.programs.flist.sealing import BLOCK, STORED, Block, Damaged, digest, seal, unseal
from zos.programs.flist.sources import Directory, Source, Unavailable, Web, source


@pytest.mark.parametrize("plain", [b"", b"x", bytes(BLOCK), os.urandom(BLOCK)], ids=["empty", "small", "zeros", "noise"])
def test_a_block_comes_out_as_it_went_in(plain: bytes) -> None:
    block, stored = seal(plain)
    assert unseal(block, stored) == plain
    assert seal(plain) == (block, stored)
    assert len(stored) <= STORED


def test_a_block_is_stored_as_rfs_does() -> None:
    """Its format, step by step."""
    key = digest(b"hello hello hello")
    stored = crypto_aead_aes256gcm_encrypt(bytes(cramjam.snappy.compress_raw(b"hello hello hello")), None, key[:12], key)
    assert seal(b"hello hello hello") == (Block(digest(stored), key, 17), stored)


def test_no_byte_of_a_block_can_be_another() -> None:
    block, stored = seal(os.urandom(200))
    for at in range(len(stored)):
        with pytest.raises(Damaged):
            unseal(block, stored[:at] + bytes([stored[at] ^ 1]) + stored[at + 1 :])
    for other in (Block(block.id, bytes(32), 200), Block(block.id, block.key, 201), Block(bytes(32), block.key, 200)):
        with pytest.raises(Damaged):
            unseal(other, stored)


def test_a_bomb_is_not_unpacked() -> None:
    """It says to be four gigabytes, or is other than it says; and its maker has given it an id that is right."""
    key = bytes(range(32))
    for packed in (b"\xff\xff\xff\xff\x0f" + b"\xfe\x01\x00" * 1000, b"", bytes(cramjam.snappy.compress_raw(bytes(BLOCK + 1)))):
        stored = crypto_aead_aes256gcm_encrypt(packed, None, key[:12], key)
        with pytest.raises(Damaged):
            unseal(Block(digest(stored), key, BLOCK), stored)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "etc/deep").mkdir(parents=True)
    (root / "etc/motd").write_text("hello\n")
    (root / "etc/empty").write_bytes(b"")
    (root / "big").write_bytes(os.urandom(BLOCK) + bytes(BLOCK) + b"end")
    (root / "run").write_text("#!/bin/sh\n")
    (root / "run").chmod(0o4755)
    os.link(root / "run", root / "etc/deep/run")
    os.symlink("etc/motd", root / "link")
    os.mkfifo(root / "pipe")
    return root


@pytest.fixture
def flist(tree: Path, tmp_path: Path) -> Path:
    pack(tree, tmp_path / "image.fl", tmp_path / "store")
    return tmp_path / "image.fl"


def test_the_tree_is_the_directorys(tree: Path, flist: Path) -> None:
    catalogue = Catalogue(flist)
    names = {inode.name: inode for inode in catalogue.children(1)}
    assert set(names) == {b"etc", b"big", b"run", b"link"}, "a guest's kernel makes its own pipes"
    assert stat.S_IMODE(names[b"run"].mode) == 0o4755
    assert catalogue.target(names[b"link"].ino) == b"etc/motd"
    sizes = [catalogue.block(names[b"big"], index).size for index in range(3)]
    assert sizes == [BLOCK, BLOCK, 3]
    deep = next(inode for inode in catalogue.children(names[b"etc"].ino) if inode.name == b"deep")
    (linked,) = catalogue.children(deep.ino)
    assert catalogue.block(linked, 0) == catalogue.block(names[b"run"], 0)


def test_the_same_directory_gives_the_same_bytes(tree: Path, flist: Path, tmp_path: Path) -> None:
    pack(tree, tmp_path / "again.fl", tmp_path / "store")
    assert (tmp_path / "again.fl").read_bytes() == flist.read_bytes()


#: What a stranger does to an flist, and what is said of it.
HOSTILE = {
    "DELETE FROM inode WHERE ino = 1": "no root directory",
    "UPDATE inode SET mode = 33188 WHERE ino = 1": "no root directory",
    "UPDATE inode SET name = 'a/b' WHERE ino = 3": "name that no file can have",
    "UPDATE inode SET name = '..' WHERE ino = 3": "name that no file can have",
    "UPDATE inode SET name = '' WHERE ino = 3": "name that no file can have",
    "UPDATE inode SET name = 'a' || char(0) || 'b' WHERE ino = 3": "name that no file can have",
    "UPDATE inode SET name = printf('%.300c', 'x') WHERE ino = 3": "name that no file can have",
    "UPDATE inode SET name = x'61' WHERE ino = 3": "name that no file can have",
    "UPDATE inode SET name = NULL WHERE ino = 3": "name that no file can have",
    "UPDATE inode SET name = 'same' WHERE parent = 1": "the name of another one",
    "UPDATE inode SET parent = 4711 WHERE ino = 3": "in no directory",
    "UPDATE inode SET parent = (SELECT ino FROM inode WHERE name = 'big') WHERE name = 'motd'": "in no directory",
    "UPDATE inode SET size = -1 WHERE name = 'big'": "a size that no file has",
    "UPDATE inode SET size = 9223372036854775807 WHERE name = 'big'": "a size that no file has",
    "UPDATE inode SET size = size + 524288 WHERE name = 'big'": "not as many blocks",
    "UPDATE inode SET size = 'much' WHERE name = 'big'": "something else than a number",
    "UPDATE inode SET uid = -1 WHERE ino = 3": "an owner that nobody can be",
    "UPDATE inode SET mode = 4294967296 WHERE ino = 3": "a mode that no file has",
    "UPDATE inode SET mtime = 9223372036854775807 WHERE ino = 3": "a time that no clock shows",
    "DELETE FROM block": "not as many blocks",
    "UPDATE block SET id = x'00'": "without a whole id",
    "UPDATE block SET key = NULL": "without a whole id",
    "DELETE FROM extra": "what no link can point to",
    "UPDATE extra SET data = ''": "what no link can point to",
    "UPDATE extra SET data = 'a' || char(0)": "what no link can point to",
    "UPDATE route SET end = 256": "routes",
    "UPDATE route SET url = printf('http://x/%.4000c', 'x')": "routes",
    "DROP TABLE block": "no plain table block",
    "ALTER TABLE extra RENAME TO gone; CREATE VIEW extra AS SELECT * FROM gone": "has a view",
    "CREATE TRIGGER t AFTER INSERT ON tag BEGIN DELETE FROM inode; END": "has a trigger",
    "DROP INDEX parents": "no index on parent",
    "DROP INDEX block_ino; CREATE INDEX block_ino ON block (ino) WHERE ino > 3": "no index on ino",
    "ALTER TABLE inode RENAME TO gone; CREATE TABLE inode AS SELECT * FROM gone": "not known by ino",
    "ALTER TABLE inode DROP COLUMN mtime; ALTER TABLE inode ADD COLUMN mtime AS (size)": "no plain column mtime",
}


@pytest.mark.parametrize(("doing", "said"), HOSTILE.items(), ids=range(len(HOSTILE)))
def test_what_a_stranger_made_is_refused(flist: Path, doing: str, said: str) -> None:
    base = sqlite3.connect(flist)
    base.executescript(doing)
    base.close()
    with pytest.raises(BadFlist, match=said):
        Catalogue(flist)


def test_a_ring_of_directories_is_out_of_reach(flist: Path) -> None:
    base = sqlite3.connect(flist)
    base.executescript(
        "INSERT INTO inode VALUES (100, 101, 'a', 0, 0, 0, 16877, 0, 0, 0), (101, 100, 'b', 0, 0, 0, 16877, 0, 0, 0);"
        "UPDATE inode SET parent = 1 WHERE ino = 1"
    )
    base.close()
    catalogue = Catalogue(flist)
    seen, waiting = set(), [1]
    while waiting:
        for inode in catalogue.children(waiting.pop()):
            assert inode.ino not in seen
            seen.add(inode.ino)
            waiting.append(inode.ino)
    assert not {1, 100, 101} & seen


def lie(flist: Path, table: str, columns: str, old: str, rows: list[tuple[object, ...]]) -> None:
    """Gives a table an index that says other things than it, as its maker may: one that was made of another table."""
    base = sqlite3.connect(flist)
    marks = ", ".join("?" * len(rows[0]))
    base.execute(f"CREATE TABLE other_{table} ({columns})")
    base.executemany(f"INSERT INTO other_{table} VALUES ({marks})", rows)
    base.execute(f"CREATE INDEX lying_{table} ON other_{table} ({columns})")
    base.commit()
    base.execute("PRAGMA writable_schema = on")
    base.execute("DELETE FROM sqlite_master WHERE name = ?", (old,))
    sql = f"CREATE INDEX lying_{table} ON {table} ({columns})"
    base.execute("UPDATE sqlite_master SET tbl_name = ?, sql = ? WHERE name = ?", (table, sql, f"lying_{table}"))
    base.commit()
    base.close()


def test_an_index_that_lies_leads_to_nothing_that_was_not_looked_at(tmp_path: Path) -> None:
    (tmp_path / "tree" / "sub").mkdir(parents=True)
    (tmp_path / "tree" / "file").write_bytes(b"x")
    pack(tmp_path / "tree", tmp_path / "f.fl", tmp_path / "store")
    before = Catalogue(tmp_path / "f.fl")
    (file,) = [inode for inode in before.children(1) if inode.name == b"file"]
    right = before.block(file, 0)
    lie(tmp_path / "f.fl", "block", "ino, id, key", "block_ino", [(file.ino, None, b"y" * 32)])
    # The root in the directory below it, and names that no file can have. (The row's number is the last word of an index.)
    columns = "parent, ino, name, size, uid, gid, mode, ctime, mtime"
    said = [(1, ino, b"../../etc", -1, 0, 0, mode, 0, 0) for ino, mode in ((1, stat.S_IFDIR), (2, stat.S_IFREG))]
    lie(tmp_path / "f.fl", "inode", columns, "parents", [*said, (3, 2, None, None, None, None, None, None, None)])
    found = Catalogue(tmp_path / "f.fl")
    assert found.block(file, 0) == right
    for directory in (1, 2, 3):
        children = found.children(directory)
        assert {(child.parent, child.name) for child in children} <= {(directory, b"file"), (directory, b"sub")}


@pytest.mark.parametrize("text", [b"", b"no database", b"SQLite format 3\0" + bytes(5000)])
def test_what_is_no_flist_is_refused(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "x.fl").write_bytes(text)
    with pytest.raises(BadFlist):
        Catalogue(tmp_path / "x.fl")


def test_no_noise_in_an_flist_does_more_than_break_it(flist: Path, tmp_path: Path) -> None:
    """Every outcome is fine but one that is not told."""
    whole, noisy = flist.read_bytes(), tmp_path / "noisy.fl"
    for seed in range(150):
        broken = bytearray(whole)
        for turn in range(1 + seed % 5):
            broken[hash((seed, turn)) % len(broken)] = hash((turn, seed)) % 256
        noisy.write_bytes(broken)
        try:
            catalogue = Catalogue(noisy)
            for inode in catalogue.children(1):
                if stat.S_ISREG(inode.mode) and inode.size:
                    catalogue.block(inode, 0)
        except BadFlist:
            pass


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("file:///etc", "none that blocks can be had from"),
        ("/etc", "none that blocks"),
        ("zdb://hub.grid.tf:9900/x", "0-db, which can't be asked yet"),
        ("dir:///etc", "not below an --image-dir"),
        ("dir:///images/../etc", "not below an --image-dir"),
        ("http://user:secret@host/", "none that blocks"),
        ("http:///x", "none that blocks"),
        ("http://host:99999/", "is no URL"),
        ("http://host/\r\nX: y", "is no URL"),
        ("http://[::1/", "is no URL"),
    ],
)
def test_routes_that_lead_nowhere(url: str, said: str) -> None:
    with pytest.raises(BadFlist, match=said):
        source(Route(0, 255, url), (Path("/images"),))


def test_routes(tmp_path: Path) -> None:
    assert source(Route(0, 127, "https://hub.grid.tf/blocks/"), ()) == Web(0, 127, True, "hub.grid.tf", 443, "/blocks")
    found = source(Route(128, 255, f"dir://{tmp_path}/store"), (tmp_path,))
    assert found == Directory(128, 255, tmp_path / "store")
    assert not found.has(b"\x7f" * 32)
    assert found.has(b"\x80" * 32)


@pytest.mark.parametrize("said", [b"HTTP/1.1 100 Continue\r\n\r\n", b"x"], ids=["headers without end", "a line without end"])
def test_a_server_that_says_little_at_a_time_is_waited_for_no_longer(said: bytes) -> None:
    """One thread in which it would be waited for ever is one fewer for those that answer."""
    over = threading.Event()

    def serve() -> None:
        connection, _ = server.accept()
        with connection, contextlib.suppress(OSError):
            while not over.wait(0.05):
                connection.sendall(said)

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, daemon=True).start()
        web = Web(0, 255, False, "127.0.0.1", server.getsockname()[1], "/blocks")
        began = time.monotonic()
        guard = threading.Timer(5, over.set)
        guard.start()
        with pytest.raises(Unavailable):
            web.get(bytes(32), began + 0.5)
        assert time.monotonic() - began < 2
        guard.cancel()
        over.set()


@dataclass(frozen=True)
class Told(Source):
    """Answers one after the other; the last one for ever. None: it can't be had."""

    answers: list[bytes | None] = field(default_factory=list, hash=False)
    asked: list[bytes] = field(default_factory=list, hash=False)
    slow: float = 0.0

    @property
    def name(self) -> str:
        return "the store"

    def get(self, block: bytes, deadline: float) -> bytes:
        self.asked.append(block)
        time.sleep(self.slow)
        answer = self.answers[min(len(self.asked), len(self.answers)) - 1]
        if answer is None:
            raise Unavailable("it is gone")
        return answer


async def test_a_flipped_byte_is_fetched_once_more_and_never_served(tmp_path: Path) -> None:
    block, stored = seal(b"precious")
    bad = bytes([stored[0] ^ 1]) + stored[1:]
    told = Told(0, 255, [bad, stored])
    blocks = Blocks((told,), cache := Cache(tmp_path, 1 << 20), health := Health(None))
    assert await blocks.get(block) == b"precious"
    assert len(told.asked) == 2
    (tmp_path / block.id.hex()).write_bytes(bad)
    again = Blocks((Told(0, 255, [bad]), Told(0, 255, [stored])), cache, health)
    assert await again.get(block) == b"precious"
    assert cache.get(block.id) == stored
    never = Blocks((Told(0, 255, [bad]),), Cache(tmp_path / "other", 1 << 20), health)
    with pytest.raises(Unavailable, match=f"the store: the block {block.id.hex()}: its stored bytes are not"):
        await never.get(block)
    assert health.problem
    for each in (blocks, again, never):
        each.close()


async def test_many_readers_are_one_flight_and_who_leaves_leaves_it_to_the_others(tmp_path: Path) -> None:
    block, stored = seal(b"precious")
    told = Told(0, 255, [stored], slow=0.1)
    blocks = Blocks((told,), Cache(tmp_path, 1 << 20), Health(None))
    readers = [asyncio.create_task(blocks.get(block)) for _ in range(20)]
    await asyncio.sleep(0.02)
    readers[0].cancel()
    assert await asyncio.gather(*readers[1:]) == [b"precious"] * 19
    assert len(told.asked) == 1
    blocks.close()


async def test_nobody_waits_longer_than_he_is_told_and_it_mends_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "PATIENCE", 0.3)
    monkeypatch.setattr(patience, "_MEND", 0.1)
    monkeypatch.setattr(patience, "_PAUSE", 0.05)
    block, stored = seal(b"precious")
    blocks = Blocks(
        (Told(0, 255, [stored], slow=1.0),), Cache(tmp_path / "cache", 1 << 20), health := Health(tmp_path / "status")
    )
    began = time.monotonic()
    with pytest.raises(Unavailable, match="did not come"):
        await blocks.get(block)
    assert time.monotonic() - began < 0.6
    assert '"well": false' in (tmp_path / "status").read_text()
    while health.problem:
        assert time.monotonic() - began < 10
        await asyncio.sleep(0.05)
    assert '"well": true' in (tmp_path / "status").read_text()
    blocks.close()


def test_the_cache_keeps_its_bound_and_what_was_used_last(tmp_path: Path) -> None:
    caches = [Cache(tmp_path, 40 * 4096) for _ in range(2)]
    first = digest(b"0")
    for number in range(100):
        caches[number % 2].put(digest(b"%d" % number), bytes(4000))
        caches[0].get(first)
        held = [file for file in tmp_path.iterdir() if not file.name.startswith(".")]
        assert len(held) <= 40
        assert number < 20 or len(held) > 20
    assert caches[1].get(first) is not None
    assert caches[1].get(digest(b"1")) is None
    caches[0].put(digest(b"big"), bytes(50 * 4096))
    assert caches[0].get(digest(b"big")) is None


def test_what_somebody_else_put_into_the_cache_is_not_waited_for(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 1 << 20)
    os.mkfifo(tmp_path / digest(b"a").hex())
    os.symlink("/etc/passwd", tmp_path / digest(b"b").hex())
    (tmp_path / ".held").write_text("rubbish")
    assert cache.get(digest(b"a")) is None
    assert cache.get(digest(b"b")) is None
    cache.put(digest(b"c"), b"c")
    assert cache.get(digest(b"c")) == b"c"
