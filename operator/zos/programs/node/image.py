"""The files of an image on the node's disk: what runs from there needs no container."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from zos.programs.node import layout
from zos.programs.node.commands import CommandFailed, run

#: Of the image's own root. The rest is what a container runtime mounts over it.
_PARTS = ("bin", "etc", "lib", "lib32", "lib64", "libx32", "opt", "root", "sbin", "usr", "var")
#: Where something is mounted in a root, or made anew at each boot.
_PLACES = ("dev", "proc", "run", "sys", "tmp", "var/lib/zos", *(place.lstrip("/") for place in layout.OF_LIBVIRT))
#: The host's: a container runtime has put others there.
_HOSTS = ("etc/resolv.conf", "etc/hosts", "etc/hostname")
_OURS = frozenset((*_PLACES, *_HOSTS))
#: In the directory of one that is there as a whole: what its files are like (`_described`), as JSON.
_COMPLETE = "complete"
_SHOWN = 5
#: Of a file's name, so much is in that of its next one.
_NAME = 100
_COPY = ("cp", "-a", "--one-file-system", "--reflink=auto")


def install(identity: str, source: Path = Path("/")) -> str:
    """Copies the image that ``source`` is the root of, if it is not there yet, and of one that is what it lacks by now; gives
    what had to be done, for people. It is there as a whole or not at all. Raises OSError, CommandFailed."""
    place = layout.copy_of(identity).parent
    if (place / _COMPLETE).exists():
        mended = _mend(place, source)
        return f"mended what image {identity} had lost on the node's disk: {_some(mended)}" if mended else ""
    half = place.with_name(f".new-{identity}")
    shutil.rmtree(half, ignore_errors=True)
    shutil.rmtree(place, ignore_errors=True)
    root = half / "root"
    root.mkdir(parents=True, mode=0o755)
    half.chmod(0o755)  # services that are not root's find their way through
    parts = [str(source / part) for part in _PARTS if os.path.lexists(source / part)]
    try:
        run(*_COPY, *parts, str(root))
        _settle(root)
        (half / _COMPLETE).write_text(json.dumps(dict(_described(root))))
        os.sync()
        half.rename(place)
    except (CommandFailed, OSError):
        shutil.rmtree(half, ignore_errors=True)  # on a disk that is full its room is the guests'
        raise
    return f"image {identity} is on the node's disk now"


def _described(root: Path) -> Iterator[tuple[str, str]]:
    """All that is in it, what is in a directory after that: a path from ``root``, and `_look`."""
    for directory, directories, files in os.walk(root):
        for name in sorted((*directories, *files)):
            path = Path(directory) / name
            yield str(path.relative_to(root)), _look(path)


def _look(path: Path) -> str:
    """What tells whether somebody has been at it; nothing if it is not there."""
    try:
        found = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return ""
    if stat.S_ISREG(found.st_mode):
        return f"{found.st_mode:o} {found.st_size} {found.st_mtime_ns}"
    return f"{found.st_mode:o} {os.readlink(path) if path.is_symlink() else ''}".strip()


def _mend(place: Path, source: Path) -> list[str]:
    """In place, as programs run from there. Gives what was not as it had been copied."""
    had: Mapping[str, str] = {}
    with contextlib.suppress(ValueError):  # an earlier version wrote nothing there
        had = json.loads((place / _COMPLETE).read_text())
    root = place / "root"
    mended = []
    for name, look in had.items():
        path = root / name
        if _look(path) == look:
            continue
        mended.append(name)
        if name in _OURS:
            continue
        _put_back(source / name, path, directory=stat.S_ISDIR(int(look.split()[0], 8)))
    if mended:
        _settle(root)
    return mended


def _put_back(source: Path, path: Path, *, directory: bool) -> None:
    """What is not as it was goes once the other is whole: half a program may be better than none where the disk is full."""
    is_directory = path.is_dir() and not path.is_symlink()
    if directory and is_directory:  # what is in it is looked at by itself, and programs run from there
        found = source.stat()
        os.chown(path, found.st_uid, found.st_gid)
        path.chmod(stat.S_IMODE(found.st_mode))
        return
    if directory:
        path.unlink(missing_ok=True)
        run(*_COPY, "-T", str(source), str(path))
        return
    new = path.with_name(f".{path.name[:_NAME]}.new")
    try:
        run(*_COPY, "-T", str(source), str(new))
        if is_directory:
            shutil.rmtree(path)
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def _some(names: list[str]) -> str:
    return ", ".join((*names[:_SHOWN], *([f"and {len(names) - _SHOWN} more"] if len(names) > _SHOWN else ())))


def _settle(root: Path) -> None:
    for place in _PLACES:
        target = root / place
        if target.is_symlink() or not target.is_dir():
            target.unlink(missing_ok=True)
            target.mkdir(parents=True)
    for name in _HOSTS:
        (root / name).unlink(missing_ok=True)
        (root / name).symlink_to(f"/run/host/{name}")


def installed() -> list[str]:
    """Ids of the images that are there as a whole."""
    return sorted(path.parent.name for path in layout.RUNTIME.glob(f"*/{_COMPLETE}") if not path.parent.name.startswith("."))


def remove(identities: Iterable[str]) -> None:
    """Nobody runs from them any more: that is for the caller to know."""
    for identity in identities:
        place = layout.copy_of(identity).parent
        (place / _COMPLETE).unlink(missing_ok=True)  # from here on it is no image, however far this comes
        shutil.rmtree(place, ignore_errors=True)
    for half in layout.RUNTIME.glob(".new-*"):
        shutil.rmtree(half, ignore_errors=True)
