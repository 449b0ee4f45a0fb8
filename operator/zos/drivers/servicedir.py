"""What is in the directory of a service: what its program gets, what its launcher is told, and what that has written down.

    run, finish       what s6 starts: the launcher (programs/launch.py), before the program and after it
    launch.json       what the launcher is told; history.json, what it has done; asked: the next end is nobody's crash
    reloaded          the last state of the files that a running program was told of
    mounts            where else it has served a file system before
    zos.json          the mark: the item, but for what is in its files
    files, var        {files} and {run}

No digest of a secret is kept: one of a short secret could be guessed from it, and a key to it would have to lie beside it. What
is in a file is compared with the file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath

from pydantic import TypeAdapter

from zos import files
from zos.drivers import DriverError, ownprogram, ownroot
from zos.drivers.means import short_of_means
from zos.drivers.s6 import MARK, Status, write
from zos.plan.items import Service, ServiceFile

_LAUNCHER = Path(__file__).parents[1] / "programs" / "launch.py"
_LARGEST = 1 << 20
#: Milliseconds for what a program has left behind to end.
_FINISH_MS = 25_000
_SERVICE: TypeAdapter[Service] = TypeAdapter(Service)


@dataclass(frozen=True)
class Started:
    """The present run of a program: the settings and the state of the files that it was started with."""

    pid: int
    at: float
    settings: str
    files: int


@dataclass(frozen=True)
class Ended:
    """How a run ended: by an exit code or a signal; ``ran`` is how many seconds it took, ``asked`` that the agent ended it."""

    at: float
    ran: float
    code: int | None
    signal: str
    asked: bool


@dataclass(frozen=True)
class History:
    """What the launcher has done since the service was made or changed."""

    started: Started | None = None
    next_start: float | None = None
    starts: int = 0
    ends: tuple[Ended, ...] = ()


@dataclass(frozen=True)
class Told:
    """Whose a directory is, and what is to be looked for when that is over."""

    name: str
    account: str
    uid: int
    mount: str


@dataclass(frozen=True)
class Identity:
    """``gid`` is 0 where a service has no group but its own."""

    uid: int
    gid: int = 0

    @classmethod
    def of(cls, item: Service, uid_of: Callable[[str], int]) -> Identity:
        return cls(uid_of(item.account), uid_of(item.group) if item.group else 0)


@dataclass(frozen=True)
class Kept:
    """A service directory as it is. ``item`` has the files that are really there; ``odd``: something in the directory is not
    as it was made."""

    item: Service
    uid: int
    settings: str
    generation: int
    reloaded: int | None
    odd: bool
    history: History

    def runs(self, state: Status) -> bool:
        """Whether it is the program that runs, and not the launcher still."""
        return state.up and self.history.started is not None and self.history.started.pid == state.pid

    def settled_as(self, settings: str) -> bool:
        """Whether the present run was started with these settings."""
        return self.history.started is not None and self.history.started.settings == settings

    def informed(self, settings: str) -> bool:
        """Whether a program that runs was started with these settings, and knows the files as they are."""
        return self.history.started is None or (
            self.settled_as(settings) and self.generation in (self.history.started.files, self.reloaded)
        )


_HISTORY: TypeAdapter[History] = TypeAdapter(History)


def fill(new: Path, path: Path, item: Service, identity: Identity, group: str, volume: str) -> None:
    """A new directory, that is to be at ``path``."""
    new.chmod(0o711)  # its program finds its way in; what the others are not to read says so itself
    write_files(new, item, identity.uid)
    for name, (text, mode) in _scripts(path, item).items():
        write(new / name, text, mode)
    write(new / "launch.json", launch(path, item, identity, group, volume, 1), 0o600)
    write(new / MARK, mark(item), 0o600)


def put_scripts(path: Path, item: Service) -> None:
    """Those that differ: they may be of an earlier agent, whose interpreter was elsewhere. Read at the next start."""
    scripts = _scripts(path, item)
    for name, (text, mode) in scripts.items():
        if _text(path / name) != text:
            write(path / name, text, mode)
    if "notification-fd" not in scripts:
        (path / "notification-fd").unlink(missing_ok=True)


def write_files(path: Path, item: Service, uid: int) -> None:
    """Each is replaced as a whole. The directories are root's: the program can't put links where the agent writes and reads.
    Raises DriverError, OSError."""
    top = path / "files"
    _directory(top, uid)
    wanted = {_place(top, file): file for file in item.files}
    for place, file in wanted.items():
        for parent in reversed(place.relative_to(top).parents[:-1]):
            if not _is_directory(top / parent):
                (top / parent).unlink(missing_ok=True)
            _directory(top / parent, uid)
        if _file(place, uid) != (file.content, file.mode):
            _replace(place, file, uid)
    for place in _walk(top):
        if _is_directory(place):
            with contextlib.suppress(OSError):  # something wanted is in it
                place.rmdir()
        elif place not in wanted:
            place.unlink()


def read(path: Path, uid_of: Callable[[str], int]) -> Kept | None:
    """None: it does not say what it is. Raises OSError where that can't be read: then it is not known."""
    try:
        told = json.loads((path / "launch.json").read_text())
        item = _SERVICE.validate_json((path / MARK).read_bytes())
        uid, settings, generation = int(told["uid"]), str(told["settings"]), int(told["files"])
        group, volume = str(told["group"]), str(told["volume"])
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError, KeyError, TypeError):
        return None
    item = replace(item, files=_read_files(path / "files", uid))
    odd = launch(path, item, Identity.of(item, uid_of), group, volume, generation) != _text(path / "launch.json")
    odd |= any(_text(path / name) != text for name, (text, _) in _scripts(path, item).items())
    return Kept(item, uid, settings, generation, _number(_text(path / "reloaded")), odd, history(path))


def told(directory: Path) -> Told | None:
    """None: it does not say."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        launched = json.loads((directory / "launch.json").read_text())
        return Told(str(launched["name"]), str(launched["account"]), int(launched["uid"]), str(launched["mount"]))
    return None


def told_anyhow(directory: Path, name: str, uid_of: Callable[[str], int]) -> Told:
    """As far as there is anything that says it; else as it is by itself."""
    if (found := told(directory)) is not None:
        return found
    try:
        item = _SERVICE.validate_json((directory / MARK).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        item = Service(name=name, argv=())
    return Told(name, item.account, uid_of(item.account), item.mount)


def former_mounts(directory: Path) -> list[str]:
    return (_text(directory / "mounts") or "").splitlines()


def note_former_mount(directory: Path, mount: str) -> None:
    write(directory / "mounts", "\n".join(sorted({*former_mounts(directory), mount})), 0o600)


def settings_of(launch: str) -> str:
    return str(json.loads(launch)["settings"])


def launch(path: Path, item: Service, identity: Identity, group: str, volume: str, generation: int) -> str:
    """What the launcher is told; ``volume`` is the directory of the item's volume.
    Whatever is in it but the state of the files takes a new start. What is not used does not count: an agent that knows more,
    or less, of what could be told has nothing to start again for that."""
    ready, own = item.ready, ownprogram.of(item.program) if item.program else None
    shown = (*item.shown, *(own.shown if own is not None else ()))
    settings = {
        "name": item.name,
        "account": item.account,
        "uid": identity.uid,
        "gid": identity.gid,
        "argv": (*(own.argv if own is not None else ()), *item.argv),
        "environment": (*(own.environment if own is not None else ()), *item.environment),
        "shown": [(one.name, one.path, one.writable) for one in shown],
        "resumes": item.resumes,
        "netns": item.netns,
        **asdict(item.limits),
        "ready": {"by": ready.by, "at": within(path, ready.at)} if ready is not None else None,
        "mount": item.mount,
        "volume": volume,
        "group": group,
        "files_at": str(path / "files"),
        "run": str(path / "var"),
    }
    used = {name: value for name, value in settings.items() if value}
    digest = hashlib.sha256(json.dumps(used, sort_keys=True).encode()).hexdigest()[:32]
    return json.dumps({**settings, "settings": digest, "files": generation})


def mark(item: Service) -> str:
    return _SERVICE.dump_json(item, exclude={"files", "needs"}).decode()


def within(path: Path, text: str) -> str:
    return text.replace("{files}", str(path / "files")).replace("{run}", str(path / "var"))


def launcher(*arguments: str) -> list[str]:
    """Its command line."""
    return [sys.executable, "-I", "-S", str(_LAUNCHER), *arguments]


def _scripts(path: Path, item: Service) -> dict[str, tuple[str, int]]:
    here = ("--in", str(path))  # on the way into the agent's root the directory is lost that s6 starts them in
    scripts = {
        "run": (f"#!/bin/sh\nexec {shlex.join(ownroot.within(launcher(*here, 'start')))}\n", 0o700),
        "finish": (f'#!/bin/sh\nexec {shlex.join(ownroot.within(launcher(*here, "ended")))} "$@"\n', 0o700),
        "timeout-kill": (f"{item.grace * 1000}\n", 0o600),
        "timeout-finish": (f"{_FINISH_MS}\n", 0o600),
    }
    return scripts | ({"notification-fd": ("3\n", 0o600)} if item.ready is not None else {})


# -- files -----------------------------------------------------------------------------------------------------------------


def _place(top: Path, file: ServiceFile) -> Path:
    pure = PurePosixPath(file.path)
    if pure.is_absolute() or not pure.parts or ".." in pure.parts or str(pure) != file.path or "\0" in file.path:
        raise DriverError(f"{file.path!r} is not a path inside a service's directory")
    if file.mode not in (0o400, 0o600):
        raise DriverError(f"{file.path}: a service's file has mode 0400 or 0600")
    if len(file.content.encode()) > _LARGEST:
        raise DriverError(f"{file.path}: a service's file has 1 MiB at most")
    return top / pure


def _directory(path: Path, uid: int) -> None:
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    info = path.stat()
    if (info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode)) != (0, uid, 0o750):
        os.chown(path, 0, uid)
        path.chmod(0o750)


def _replace(place: Path, file: ServiceFile, uid: int) -> None:
    if _is_directory(place):
        shutil.rmtree(place)
    files.write(place, file.content, files.Durability.VOLATILE, file.mode, owner=uid, parents=False)


def _walk(top: Path) -> Iterator[Path]:
    """What is below, the innermost first."""
    try:
        found = sorted(top.iterdir())
    except FileNotFoundError:
        return
    for path in found:
        if _is_directory(path):
            yield from _walk(path)
        yield path


def _is_directory(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _file(place: Path, uid: int) -> tuple[str, int] | None:
    """Content and mode; None: it is not there, or nothing that was written here. The program may have made more of it."""
    try:
        fd = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if short_of_means(error):
            raise
        return None
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode) or (info.st_uid, info.st_gid) != (uid, uid):
            return None
        content = os.read(fd, _LARGEST + 1)
    finally:
        os.close(fd)
    return content.decode(errors="surrogateescape"), stat.S_IMODE(info.st_mode)


def _read_files(top: Path, uid: int) -> tuple[ServiceFile, ...]:
    found = []
    for place in _walk(top):
        if _is_directory(place):
            continue
        content, mode = _file(place, uid) or ("", 0)
        found.append(ServiceFile(path=str(place.relative_to(top)), content=content, mode=mode))
    return tuple(found)


# -- what the launcher wrote -----------------------------------------------------------------------------------------------


def history(path: Path) -> History:
    """Empty where nothing is written, or something else."""
    try:
        written = json.loads((path / "history.json").read_text())
        return _HISTORY.validate_python({name: written[name] for name in ("started", "next_start", "starts", "ends")})
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return History()


def _text(path: Path) -> str | None:
    try:
        return path.read_text()
    except (FileNotFoundError, IsADirectoryError, UnicodeDecodeError):
        return None


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.strip().isdecimal() else None
