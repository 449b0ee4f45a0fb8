"""The node's tree: the namespace in which everything runs that outlives pods, and the first process in it.

Whoever calls holds `locked`. Each step is done in a process of its own, since a namespace that was entered is not left again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

from zos.programs.node import cgroup, children, image, kernel, layout

#: The host's first process, as a pod with ``hostPID`` sees it.
_HOST = Path("/proc/1")
#: Bounds of what everybody in the tree may write to.
_RUN_SIZE, _TMP_SIZE, _LOG_SIZE = "256m", "256m", "64k"
#: A directory that every Linux has, where the tree is put together.
_WORKSHOP = Path("/tmp")
_RESOLVED = Path("/run/systemd/resolve")
_OTHER = 3
#: Where the first process writes a line end when it takes orders (s6-svscan's -d).
_READY = 3
#: How much of what the first process complained of is shown.
_SHOWN = 2000
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """One at a time, of all pods of the node."""
    layout.RUNTIME.mkdir(parents=True, exist_ok=True)
    with open(layout.LOCK, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def pin() -> Path | None:
    """The file by which the tree is entered, as this process finds it; None: there is no tree."""
    place = _host_path(layout.PIN)
    try:
        return place if place.stat().st_dev == os.stat("/proc/self/ns/mnt").st_dev else None
    except FileNotFoundError:
        return None


def make(identity: str) -> None:
    """A tree with nothing in it. Raises RuntimeError."""
    busybox = layout.copy_of(identity) / layout.BUSYBOX.relative_to("/")
    # The kernel takes no mount of a namespace in one that it counts as younger, and (since 6.18) each processor counts for
    # itself: where the host's namespace is not the machine's first, it has to be made on the right one.
    processors = sorted(os.sched_getaffinity(0))
    for processor in processors:
        if _make(busybox, processor, last=processor == processors[-1]):
            return


def _make(busybox: Path, processor: int, *, last: bool) -> bool:
    ready, readied = os.pipe()
    done, told = os.pipe()

    def build() -> None:
        os.close(told)
        kernel.leave_for(_HOST / "ns/mnt", kernel.NEWNS)
        os.sched_setaffinity(0, {processor})
        kernel.unshare(kernel.NEWNS)
        _build(busybox)
        os.write(readied, b".")
        os.read(done, 1)  # until it is pinned, or nobody is left to do it

    builder = children.start(build)
    os.close(readied)
    os.close(done)
    try:
        if os.read(ready, 1):
            keeper = children.start(lambda: _keep(builder, other=not last))
            code = os.waitstatus_to_exitcode(os.waitpid(keeper, 0)[1])
            if code not in (0, _OTHER):
                raise RuntimeError("the node's tree could not be pinned; see above")
            return code == 0
    finally:
        os.close(told)
        os.close(ready)
        children.finish(builder, "the node's tree could not be made")
    return False


def _keep(builder: int, *, other: bool) -> None:
    """On the host: mounts the builder's namespace where everybody finds it. Ends with `_OTHER` where the kernel refuses
    that, and an ``other`` one may do."""
    kernel.leave_for(_HOST / "ns/mnt", kernel.NEWNS)
    place = layout.PIN.parent
    place.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(OSError):
        kernel.detach(place)  # of an earlier one that was not pinned
    kernel.mount(place, place, flags=kernel.BIND)
    kernel.propagate(place, kernel.PRIVATE)  # a namespace can't be seen in itself
    layout.PIN.touch()
    try:
        kernel.mount(f"/proc/{builder}/ns/mnt", layout.PIN, flags=kernel.BIND)
    except OSError as error:
        if error.errno == errno.EINVAL and other:
            os._exit(_OTHER)
        raise


def _build(busybox: Path) -> None:
    kernel.propagate("/", kernel.SLAVE)  # what the host mounts is seen here, nothing of this there
    top = _WORKSHOP
    kernel.mount("zos-tree", top, "tmpfs", options="mode=755,size=8m")
    for name in ("roots", "bin", "state", "run", "tmp", "proc", "sys", "dev", "old"):
        (top / name).mkdir()
    shutil.copy(busybox, top / "bin/busybox")
    (top / "bin/busybox").chmod(0o755)
    for name in ("proc", "sys", "dev"):
        kernel.bind(f"/{name}", top / name)
    kernel.bind(layout.STATE, top / "state")
    kernel.mount("zos-run", top / "run", "tmpfs", kernel.NOSUID | kernel.NODEV, f"mode=755,size={_RUN_SIZE}")
    kernel.mount("zos-tmp", top / "tmp", "tmpfs", kernel.NOSUID | kernel.NODEV, f"mode=1777,size={_TMP_SIZE}")
    log = str(layout.FIRST_LOG.parent.relative_to("/run"))
    for name in ("service", "netns", "lock", log, "wireguard", "libvirt", "host/etc"):
        (top / "run" / name).mkdir(parents=True)
    kernel.mount("zos-log", top / "run" / log, "tmpfs", kernel.NOSUID | kernel.NODEV, f"mode=700,size={_LOG_SIZE}")
    kernel.bind("/etc", top / "run/host/etc")
    if _RESOLVED.is_dir():  # where the host's resolv.conf may lead to, by an absolute link or one that goes up
        for place in (top / "run/host" / _RESOLVED.relative_to("/"), top / _RESOLVED.relative_to("/")):
            place.mkdir(parents=True)
            kernel.bind(_RESOLVED, place)
    for name in ("state", "run", "tmp"):  # what is mounted below in one root is there in all
        kernel.propagate(top / name, kernel.SHARED)
    os.chdir(top)
    kernel.change_root(Path("."), Path("old"))
    kernel.detach("/old")
    Path("/old").rmdir()


def add_root(identity: str) -> None:
    """Lets programs run in the tree from the copy of an image. Raises RuntimeError."""

    def add() -> None:
        enter()
        root = layout.ROOTS / identity
        copy = Path("/state") / layout.copy_of(identity).relative_to(layout.STATE)
        # A copy may have been made anew, and whoever made this root may have been killed before it could not be written to.
        if not (os.path.ismount(root) and os.path.samefile(root, copy) and os.statvfs(root).f_flag & os.ST_RDONLY):
            _take_out(root)
            root.mkdir(exist_ok=True)
            kernel.mount(copy, root, flags=kernel.BIND)
            kernel.propagate(root, kernel.PRIVATE)
            kernel.mount("none", root, flags=kernel.REMOUNT | kernel.BIND | kernel.RDONLY)
        # Who deletes a directory in the copy takes away what is mounted on it here. It is brought back where it was: those who
        # run from this root, the first process above all, would see nothing of another one.
        for source, place in _mounted(root):
            if not os.path.samefile(source, place):
                kernel.bind(source, place)

    children.do(add, f"{layout.ROOTS / identity} could not be made in the node's tree")


def _mounted(root: Path) -> Iterator[tuple[Path, Path]]:
    """What is mounted in a root, and where, in the tree."""
    for place, name in layout.OF_LIBVIRT.items():
        kept = Path("/state") / layout.LIBVIRT.relative_to(layout.STATE) / name
        kept.mkdir(parents=True, exist_ok=True)
        yield kept, Path(f"{root}{place}")
    yield Path("/state"), root / "var/lib/zos"
    for name in ("sys", "dev", "run", "tmp", "proc"):
        yield Path(f"/{name}"), root / name


def drop_roots(kept: set[str]) -> list[str]:
    """Takes the copies out of the tree that nobody runs from, but ``kept``; gives those.
    Raises RuntimeError."""
    used = kept | running()
    unused = [identity for identity in image.installed() if identity not in used]

    def drop() -> None:
        enter()
        for identity in unused:
            _take_out(layout.ROOTS / identity)
            with contextlib.suppress(OSError):
                (layout.ROOTS / identity).rmdir()

    children.do(drop, "the copies that nobody runs from could not be taken out of the node's tree")
    return unused


def _take_out(root: Path) -> None:
    """In the tree. What is mounted below its /run and /state is mounted in all roots, and would go from all of them."""
    with contextlib.suppress(OSError):
        kernel.propagate(root, kernel.PRIVATE)
        kernel.detach(root)


def running() -> set[str]:
    """Ids of the images from whose copies somebody runs. Raises OSError where that can't be told."""
    found = set()
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                root = os.readlink(process / "root")
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has ended
            # As the kernel tells it: from the root of that process' namespace, or of one that was made of the tree's.
            if root.startswith(f"{layout.ROOTS}/"):
                found.add(root.split("/")[2])
    return found


def first_process() -> int | None:
    """The number of the tree's first process, which supervises the others; None: it does not run."""
    try:
        number, since = layout.FIRST.read_text().split()
    except (FileNotFoundError, ValueError):
        return None
    return int(number) if kernel.began(int(number)) == since else None


def adopt() -> int | None:
    """The first process where what was written of it is lost (`layout.FIRST`), which is written anew; None: it does not run.
    Whoever calls holds the lock."""
    place = pin()
    if place is None:
        return None
    tree, services = place.stat(), os.fsencode(layout.SERVICES)
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal():
            continue
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            # A program of somebody else's may call itself what it likes, but not be root.
            if words[0] != b"s6-svscan" or services not in words or process.stat().st_uid != 0:
                continue
            within_tree = os.path.samestat((process / "ns/mnt").stat(), tree)
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended
        if within_tree and (since := kernel.began(int(process.name))):
            layout.FIRST.write_text(f"{process.name} {since}\n")
            return int(process.name)
    return None


def start(identity: str) -> int:
    """Starts the first process, in a control group beside those of pods; gives its number. Raises RuntimeError."""
    heard, tell = os.pipe()

    def begin() -> None:
        os.close(heard)
        os.setsid()
        cgroup.leave_pod()
        enter()
        os.chroot(layout.ROOTS / identity)
        os.chdir("/")
        if os.fork():
            os._exit(0)
        since = kernel.began(os.getpid())
        layout.FIRST.write_text(f"{os.getpid()} {since}\n")
        os.write(tell, f"{os.getpid()}".encode())
        layout.FIRST_LOG.parent.mkdir(parents=True, exist_ok=True)  # a tree that an earlier version made has none
        nowhere = os.open("/dev/null", os.O_RDONLY)
        log = os.open(layout.FIRST_LOG, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_TRUNC, 0o600)
        for old, new in ((os.dup(tell), _READY), (nowhere, 0), (log, 1), (log, 2)):
            os.dup2(old, new)
        os.closerange(_READY + 1, 4096)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.umask(0o022)
        program = ["s6-svscan", "-d", str(_READY), str(layout.SERVICES)]
        os.execve("/usr/bin/s6-svscan", program, {"PATH": _PATH, "LC_ALL": "C.UTF-8"})

    child = children.start(begin)
    os.close(tell)
    with os.fdopen(heard) as answer:
        number = answer.readline()
    children.finish(child, "the first process of the node's tree could not be started")
    if not number.endswith("\n"):
        children.do(_show_why, f"{layout.FIRST_LOG} of the node's tree can't be read")
        raise RuntimeError("the first process of the node's tree did not start: what it said is above")
    return int(number)


def _show_why() -> None:
    """What the first process complained of, on stderr: where no pod stays up nobody else could look."""
    enter()
    with open(layout.FIRST_LOG, "rb") as log:
        os.write(2, log.read(_SHOWN))


def weigh() -> None:
    """Whoever runs in the tree has the processors that this pod asks for. Raises RuntimeError."""
    children.do(cgroup.hand_on_weight, "the tree's control group could not be given its weight")


def within(identity: str, work: Callable[[], None]) -> int:
    """Starts a process that does ``work`` in a root of the tree, and dies with this one; gives its number."""

    def run() -> None:
        kernel.die_with_parent(signal.SIGKILL)
        enter()
        os.chroot(layout.ROOTS / identity)
        os.chdir("/")
        work()

    return children.start(run)


def enter() -> None:
    """This process, for good. Raises OSError, RuntimeError."""
    place = pin()
    if place is None:
        raise RuntimeError("the node has no tree")
    kernel.leave_for(place, kernel.NEWNS)
    os.chdir("/")


def _host_path(path: Path) -> Path:
    return _HOST / "root" / path.relative_to("/")
