"""Layers of images: archives that are the same whenever they are made of the same (OCI image specification, layer.md)."""

from __future__ import annotations

import hashlib
import io
import json
import stat
import subprocess
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from imagelib.recipe import EPOCH, BuildError

_XATTR = "SCHILY.xattr."
#: Enough for few bytes to be moved and for few seconds to be waited.
_LEVEL = "-9"


@dataclass(frozen=True)
class Layer:
    """``digest`` of the file as it is, ``diff_id`` of what is in it, ``size`` in bytes as it is; ``unpacked``: bytes of its
    files; ``what`` says in its image's history how it came about."""

    path: Path
    digest: str
    diff_id: str
    size: int
    unpacked: int
    what: str

    def write_down(self, path: Path) -> None:
        path.write_text(json.dumps({**asdict(self), "path": self.path.name}))

    @classmethod
    def read(cls, path: Path) -> Layer:
        read = json.loads(path.read_text())
        return cls(**{**read, "path": path.parent / read["path"]})


@dataclass(frozen=True)
class Entry:
    """One member: a file, if ``content`` (bytes, or where they are), else what ``kind`` (of tarfile) says."""

    name: str
    mode: int
    content: bytes | Path | None = None
    kind: bytes = tarfile.REGTYPE
    target: str = ""
    uid: int = 0
    gid: int = 0
    xattrs: Mapping[str, str] | None = None


def of_files(files: Mapping[str, bytes] | Mapping[str, Path] | Mapping[str, bytes | Path]) -> list[Entry]:
    """Files of root's by their path in the image, and the directories above them. What may be run stays so."""
    parents = {str(parent) for name in files for parent in Path(name).parents if parent.name}
    directories = [Entry(name, 0o755, kind=tarfile.DIRTYPE) for name in parents]
    return [*directories, *(Entry(name, _mode(content), content) for name, content in files.items())]


def _mode(content: bytes | Path) -> int:
    return 0o755 if isinstance(content, Path) and content.stat().st_mode & 0o111 else 0o644


def of_tree(root: Path) -> list[Entry]:
    """All that is below a directory, as root's. What may be run stays so."""
    made = []
    for path in root.rglob("*"):
        name = str(path.relative_to(root))
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            made.append(Entry(name, 0o777, kind=tarfile.SYMTYPE, target=str(path.readlink())))
        elif stat.S_ISDIR(mode):
            made.append(Entry(name, 0o755, kind=tarfile.DIRTYPE))
        else:
            made.append(Entry(name, _mode(path), path))
    return made


def of_archive(archive: tarfile.TarFile) -> Iterator[tuple[Entry, tarfile.TarInfo]]:
    """What is in an archive, with owners and modes, without devices, in order; and where the content of each stands. Of the
    names of one file the first one has it."""
    members = {_clean(member.name): member for member in archive}
    first: dict[str, str] = {}
    for name in sorted(members):
        source = members[name]
        if name == "." or source.ischr() or source.isblk() or source.isfifo():
            continue
        kind, target = source.type, source.linkname
        if source.islnk() or source.isreg():
            whole = _clean(source.linkname) if source.islnk() else name
            source = members[whole]
            kind, target = (tarfile.LNKTYPE, first[whole]) if whole in first else (tarfile.REGTYPE, "")
            first.setdefault(whole, name)
        xattrs = {key: value for key, value in source.pax_headers.items() if key.startswith(_XATTR)}
        yield Entry(name, source.mode, None, kind, target, source.uid, source.gid, xattrs), source


def _clean(name: str) -> str:
    return str(PurePosixPath(name))


def write(entries: Iterable[Entry], path: Path, what: str) -> Layer:
    """Makes the layer's file. Entries may come in any order; the last of a name counts."""
    wanted = {entry.name: entry for entry in entries}
    with _Writer(path, what) as writer:
        for name in sorted(wanted):
            entry = wanted[name]
            match entry.content:
                case Path() as place:
                    with place.open("rb") as file:
                        writer.add(entry, file, place.stat().st_size)
                case content:
                    writer.add(entry, io.BytesIO(content or b""), len(content or b""))
        return writer.done()


def write_archive(archive: Path, path: Path, what: str) -> Layer:
    """Makes the layer's file of what is in an archive."""
    with tarfile.open(archive) as read, _Writer(path, what) as writer:
        for entry, source in of_archive(read):
            file = read.extractfile(source) if entry.kind == tarfile.REGTYPE else None
            writer.add(entry, file or io.BytesIO(), source.size if file else 0)
        return writer.done()


class _Writer:
    def __init__(self, path: Path, what: str) -> None:
        self._path = path
        self._what = what
        self._unpacked = 0
        self._new = path.with_name(f"{path.name}.new")
        self._pack: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> _Writer:
        with self._new.open("wb") as file:
            # Two threads: how it is cut into pieces, and so the result, does not depend on how many processors there are.
            self._pack = subprocess.Popen(["zstd", "-q", _LEVEL, "-T2"], stdin=subprocess.PIPE, stdout=file)
        assert self._pack.stdin is not None
        self._sum = _Summed(self._pack.stdin)
        self._tar = tarfile.open(fileobj=self._sum, mode="w|", format=tarfile.PAX_FORMAT, bufsize=1 << 20)  # type: ignore[call-overload]
        return self

    def add(self, entry: Entry, file: IO[bytes], size: int) -> None:
        info = tarfile.TarInfo(entry.name)
        info.mode, info.uid, info.gid, info.mtime = entry.mode & 0o7777, entry.uid, entry.gid, EPOCH
        info.type, info.linkname = entry.kind, entry.target
        info.size = size if entry.kind == tarfile.REGTYPE else 0
        info.pax_headers = dict(entry.xattrs or {})
        self._unpacked += info.size
        self._tar.addfile(info, file)

    def done(self) -> Layer:
        self._tar.close()
        assert self._pack is not None
        assert self._pack.stdin is not None
        self._pack.stdin.close()
        if self._pack.wait():
            raise BuildError("zstd could not pack a layer: is there room on the disk?")
        self._new.rename(self._path)
        digest = file_digest(self._path)
        return Layer(self._path, digest, self._sum.digest(), self._path.stat().st_size, self._unpacked, self._what)

    def __exit__(self, *_: object) -> None:
        assert self._pack is not None
        if self._pack.poll() is None:
            self._pack.kill()
            self._pack.wait()
        self._new.unlink(missing_ok=True)


class _Summed:
    """A file that is written through, and digested on the way."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._sum = hashlib.sha256()

    def write(self, content: bytes) -> int:
        self._sum.update(content)
        return self._file.write(content)

    def digest(self) -> str:
        return f"sha256:{self._sum.hexdigest()}"


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
