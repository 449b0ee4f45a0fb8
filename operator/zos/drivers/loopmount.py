"""File systems in files: mounted through loop devices that go with their mounts (loop(4), ``LO_FLAGS_AUTOCLEAR``).

Nothing is left behind by whoever dies in between: a loop device that nobody has open or mounted is no more. All calls block.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import re
import select
import stat
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from zos.drivers import DriverError

# linux/loop.h
_CONFIGURE, _SET_CAPACITY, _GET_STATUS64, _CTL_GET_FREE = 0x4C0A, 0x4C07, 0x4C05, 0x4C82
_AUTOCLEAR, _DIRECT_IO = 4, 16
_CONFIG = struct.Struct("=II52xI176x64x")  # fd, block size, flags; of which 232 bytes are a struct loop_info64
_INFO = struct.Struct("=QQ216x")  # the file's device and inode
# linux/mount.h
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _NOATIME = 1, 2, 4, 8, 1024
_FLAGS = _NOSUID | _NODEV | _NOEXEC | _NOATIME
_NOFOLLOW = 8  # UMOUNT_NOFOLLOW
#: The kernel's own words for a file system that it no longer writes to; the last two since Linux 6.14.
_READ_ONLY = frozenset({"ro", "emergency_ro", "shutdown"})
_BLOCK = 4096
_TRIES, _RELEASE = 20, 1.0

_taking = threading.Lock()

_libc = ctypes.CDLL(None, use_errno=True)

#: Which file something is, whatever it is called and whoever looks: device and inode.
File = tuple[int, ...]


@dataclass(frozen=True)
class Loop:
    """A loop device that has a file."""

    name: str

    @property
    def number(self) -> str:
        """The device's, as mounts name it (``7:3``)."""
        return Path("/sys/block", self.name, "dev").read_text().strip()

    @property
    def path(self) -> Path:
        """Made where it is missing: a container's /dev knows only those that were there when it began."""
        path = Path("/dev", self.name)
        if not path.exists():
            major, minor = map(int, self.number.split(":"))
            with contextlib.suppress(FileExistsError):
                os.mknod(path, 0o600 | stat.S_IFBLK, os.makedev(major, minor))
        return path

    def file(self) -> File | None:
        """None: it has none (any more)."""
        try:
            with _opened(self.path, os.O_RDONLY) as fd:
                return _INFO.unpack(fcntl.ioctl(fd, _GET_STATUS64, bytes(_INFO.size)))
        except OSError as error:
            if error.errno not in (errno.ENXIO, errno.ENOENT, errno.ENODEV):
                raise
            return None

    def grown(self) -> None:
        """Its file has another size."""
        with _opened(self.path, os.O_RDWR) as fd:
            fcntl.ioctl(fd, _SET_CAPACITY, 0)


@dataclass(frozen=True)
class Mount:
    """What is mounted at a place, on top. ``number`` is the device's; ``read_only``: the file system takes no more writes."""

    number: str
    read_only: bool

    @property
    def loop(self) -> Loop | None:
        """The loop device that is mounted, None where it is something else."""
        name = Path("/sys/dev/block", self.number).resolve().name
        return Loop(name) if name.startswith("loop") else None


def attached() -> dict[File, Loop]:
    """The loop devices that have a file, whoever gave it to them."""
    loops = [Loop(name) for name in os.listdir("/sys/block") if name.startswith("loop")]
    return {file: loop for loop in loops if (file := loop.file()) is not None}


def file_of(path: Path) -> File:
    info = path.stat()
    return info.st_dev, info.st_ino


def mounts(below: Path) -> dict[Path, Mount]:
    """What is mounted below a directory, by where."""
    return {
        entry.place: Mount(entry.number, bool(_READ_ONLY & set(entry.options)))
        for entry in _table(Path("/proc/self/mountinfo"))
        if below in entry.place.parents
    }


def mount(image: Path, target: Path, options: str, *, loop: Loop | None = None, read_only: bool = False) -> None:
    """Mounts the ext4 file system in ``image``, with all of its space kept. ``loop`` is the device that has it already, where
    it is mounted elsewhere (in another mount namespace): it is one file system then, and writable or not as it is there.
    Raises OSError, DriverError."""
    flags = _FLAGS | (_RDONLY if read_only else 0)
    if loop is not None:
        _mount_again(loop, target, options)
        return
    with _opened(image, os.O_RDWR) as fd, _attach(fd, _DIRECT_IO if _is_direct(image) else 0) as loop:
        with contextlib.suppress(OSError):  # whatever trims file systems gives nothing of it back; or the next look does
            Path("/sys/block", loop.name, "queue/discard_max_bytes").write_text("0")
        _mount(str(loop.path), target, flags, options)


def unmount(target: Path) -> None:
    """Never lazily. Raises OSError: EBUSY where it is used."""
    if _libc.umount2(os.fsencode(target), _NOFOLLOW) != 0:
        raise _error(str(target))


def released(image: Path) -> Loop | None:
    """Waits until no loop device has the file any more; gives the one that still has it, for whoever has that mounted."""
    deadline = time.monotonic() + _RELEASE
    while (loop := attached().get(file_of(image))) is not None and time.monotonic() < deadline:
        time.sleep(0.02)
    return loop


def users(number: str, target: Path) -> list[str]:
    """Who keeps the file system on a device from being unmounted from ``target``, as far as that can be told: other mounts, and
    programs that have something of it; else those who have it mounted in a namespace of their own."""
    table = [(entry.number, entry.place) for entry in _table(Path("/proc/self/mountinfo")) if entry.place != target]
    found = [f"the mount at {place}" for own, place in table if own == number or target in place.parents]
    elsewhere: list[str] = []
    for process in _processes():
        try:
            here = {entry.id: entry.place for entry in _table(process / "mountinfo") if entry.number == number}
            if here and _uses(process, number, here):
                found.append(_called(process))
            elif here and _is_elsewhere(process):
                elsewhere.append(_called(process))
        except OSError:
            continue  # it has ended
    return found or elsewhere


def keepers(number: str) -> list[str]:
    """Who has the file system on a device in a mount namespace that keeps it when it is unmounted here, as virtiofsd does.
    Where it would go as well, or nobody can tell, is none of them."""
    found = []
    for process in _processes():
        try:
            if _is_elsewhere(process) and _keeps(list(_table(process / "mountinfo")), number):
                found.append(_called(process))
        except OSError:
            continue  # it has ended
    return found


def _keeps(table: Sequence[_Entry], number: str) -> bool:
    """What is unmounted goes from wherever the mount around it is told of that (mount_namespaces(7))."""
    told = {entry.id for entry in table if entry.told}
    return any(entry.number == number and entry.parent not in told for entry in table)


def _processes() -> list[Path]:
    return sorted(Path("/proc").glob("[0-9]*"), key=lambda path: int(path.name))


def _called(process: Path) -> str:
    return f"{(process / 'comm').read_text().strip()} (process {process.name})"


def _is_elsewhere(process: Path) -> bool:
    return os.readlink(process / "ns/mnt") != os.readlink("/proc/self/ns/mnt")


def _uses(process: Path, number: str, here: Mapping[str, Path]) -> bool:
    ids = {f"mnt_id:\t{mount_id}\n" for mount_id in here}
    for fd in (process / "fdinfo").iterdir():
        with contextlib.suppress(FileNotFoundError), open(fd) as file:
            if ids & set(file):
                return True
    places = {Path(os.readlink(process / what)) for what in ("cwd", "root")}
    if any(place == base or base in place.parents for place in places for base in here.values()):
        return True
    major, minor = map(int, number.split(":"))
    return f" {major:02x}:{minor:02x} " in (process / "maps").read_text()


class MountWatch:
    """Calls ``changed`` when what is mounted below a directory is not what it was. (The kernel tells only that some mount came
    or went, and on a node they do all day.)"""

    def __init__(self, changed: Callable[[], None], below: Path) -> None:
        self._changed = changed
        self._below = below
        self._seen: Mapping[Path, Mount] = mounts(below)
        self._table = open("/proc/self/mountinfo", "rb")  # noqa: SIM115
        self._epoll = select.epoll()  # the event loop's own listens for input only, and this is told as an exception
        self._epoll.register(self._table.fileno(), select.EPOLLPRI)
        asyncio.get_running_loop().add_reader(self._epoll.fileno(), self._heard)

    def close(self) -> None:
        if not self._epoll.closed:
            asyncio.get_running_loop().remove_reader(self._epoll.fileno())
            self._epoll.close()
            self._table.close()

    def _heard(self) -> None:
        self._epoll.poll(0)
        seen = mounts(self._below)
        if seen != self._seen:
            self._seen = seen
            self._changed()


def _is_direct(image: Path) -> bool:
    """Whether the file can be read past the page cache. Some say that they can (overlayfs), and then every read fails."""
    try:
        with _opened(image, os.O_RDONLY | os.O_DIRECT) as fd, mmap.mmap(-1, _BLOCK) as aligned:
            return os.preadv(fd, [aligned], 0) == _BLOCK
    except OSError:
        return False


@contextlib.contextmanager
def _attach(image: int, flags: int) -> Iterator[Loop]:
    """A loop device with the file. It goes with the last who has it open or mounted."""
    with _taking:
        loop, fd = _take(image, flags)
    try:
        yield loop
    finally:
        os.close(fd)


def _take(image: int, flags: int) -> tuple[Loop, int]:
    for _ in range(_TRIES):
        with _control() as control:
            name = f"loop{fcntl.ioctl(control, _CTL_GET_FREE)}"
        loop = Loop(name)
        fd = os.open(loop.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, _CONFIGURE, _CONFIG.pack(image, _BLOCK, _AUTOCLEAR | flags))
        except OSError as error:
            os.close(fd)
            if error.errno != errno.EBUSY:  # another process was quicker
                raise
        else:
            return loop, fd
    raise DriverError("no loop device stays free for long enough to be taken")


def _mount(source: str, target: Path, flags: int, options: str) -> None:
    if _libc.mount(source.encode(), os.fsencode(target), b"ext4", ctypes.c_ulong(flags), options.encode()) != 0:
        raise _error(str(target))


def _mount_again(loop: Loop, target: Path, options: str) -> None:
    """A file system that is mounted already is to be asked for as it is, and the table of mounts does not say how: one with
    errors is ``emergency_ro`` there (6.18) and still asked for as one that can be written to."""
    try:
        _mount(str(loop.path), target, _FLAGS, options)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        _mount(str(loop.path), target, _FLAGS | _RDONLY, options)


@dataclass(frozen=True)
class _Entry:
    """A line of a table of mounts (proc(5)). ``options`` are the file system's own; ``told``: what is mounted and unmounted
    below others of its group, or below its master, is so below this one."""

    id: str
    parent: str
    number: str
    place: Path
    told: bool
    options: list[str]


def _table(file: Path) -> Iterator[_Entry]:
    """What lies on top comes last."""
    for line in file.read_text(errors="surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        words = before.split(" ")
        place = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), words[4])
        told = any(word.startswith(("shared:", "master:")) for word in words[6:])
        yield _Entry(words[0], words[1], words[2], Path(place), told, after.split(" ")[-1].split(","))


@contextlib.contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    fd = os.open(path, flags | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def _control() -> Iterator[int]:
    """Opening it loads the module, where the kernel has one."""
    path = Path("/dev/loop-control")
    with contextlib.suppress(FileExistsError):
        os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(10, 237))  # LOOP_CTRL_MINOR, linux/miscdevice.h
    try:
        with _opened(path, os.O_RDWR) as fd:
            yield fd
    except OSError as error:
        if error.errno not in (errno.ENODEV, errno.ENXIO):
            raise
        raise DriverError("this node's kernel has no loop devices (module loop)") from error


def _error(about: str) -> OSError:
    code = ctypes.get_errno()
    return OSError(code, os.strerror(code), about)
