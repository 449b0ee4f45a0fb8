"""``launch.py start|ended|end|forget …``: the first and the last step of a service's program, run in its service directory.

``start`` (the ``run`` of s6) makes sure that nothing of an earlier run is left, waits longer and longer where the program keeps
ending, and becomes the program: in its namespace, as its user, without any rights and within its limits. ``ended CODE SIGNAL``
(the ``finish`` of s6) ends what the program has left behind, and writes down how it ended. ``end UID MOUNT GROUP ROOM``
leaves nothing of it, whatever has become of its directory; ``forget MOUNT …`` takes away where it has mounted what it served.

What to do stands in ``launch.json``, what was done in ``history.json``. It needs nothing but the standard library, and what
lies beside it.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import resource
import select
import signal
import struct
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

sys.path.append(str(Path(__file__).parents[2]))  # it is run by itself
from zos.programs import fusemount

#: A program that ran for less than this many seconds has not worked; the longest wait before another try.
_SHORT = 60.0
_LONGEST = 60.0
#: Ends that are remembered.
_ENDS = 16
#: Files in a program's room.
_INODES = 4096
#: Seconds in which what was killed is gone.
_GONE = 20.0
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NETNS = Path("/run/netns")
_CGROUPS = Path("/sys/fs/cgroup")
#: Seconds until those are told an error who ask what is not served: less than ten for who has asked before the first of several
#: ends in a row.
_HOPE = 1.0
#: Where s6 hears that the service is ready, see its notification-fd.
_NOTIFY = 3

_CLONE_NEWNET = 0x40000000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT, _MS_BIND = 1, 2, 4, 8, 32, 4096  # mount(2)
_PDEATHSIG, _CAPBSET_DROP, _NO_NEW_PRIVS, _CAP_AMBIENT = 1, 24, 38, 47  # prctl(2)
_AMBIENT_CLEAR_ALL = 4
_CAPABILITY_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


class _Failure(Exception):
    """The text is for the person who reads the log."""


def main(argv: list[str]) -> None:
    os.dup2(1, 2)
    os.umask(0o077)
    try:
        match argv:
            case ["start"]:
                _start(json.loads(Path("launch.json").read_text()))
            case ["ended", code, number, *_]:
                told = json.loads(Path("launch.json").read_text())
                _clear(told["uid"], _ending_mount(told))
                _write_down_end(int(code), int(number))
            case ["end", uid, mount, group, room]:
                _clear(int(uid), "")
                if mount:
                    fusemount.let_go(mount)
                    fusemount.unmount(mount)
                fusemount.unmount(room)
                _leave_group(group)
            case ["forget", *places]:
                for place in places:
                    fusemount.remove_place(place)
            case _:
                sys.exit(__doc__)
    except _Failure as failure:
        sys.exit(f"launch: {failure}")
    except OSError as error:
        sys.exit(f"launch: {error.filename or argv[0]}: {error.strerror}")
    except (ValueError, KeyError, TypeError) as error:
        sys.exit(f"launch: launch.json is broken: {error!r}")


def _start(told: dict[str, Any]) -> NoReturn:
    supervisor = os.getppid()
    _die_with(supervisor)
    lock = open("lock", "w")  # noqa: SIM115 - until this is the program: nobody else comes as far meanwhile
    fcntl.lockf(lock, fcntl.LOCK_EX)
    _clear(told["uid"], _ending_mount(told))
    history = _history(told)
    Path("asked").unlink(missing_ok=True)
    now = time.time()
    wait = pause(history["ends"], now)
    history["next_start"] = now + wait if wait > 0 else None
    _write_history(history)  # what fails from here on is an end like others
    kept = fusemount.kept(told["mount"]) if told.get("resumes") else None
    time.sleep(min(wait, _HOPE) if kept is not None else wait)
    if kept is not None and wait > _HOPE:
        fusemount.refuse(kept, wait - _HOPE)
    _make_room(told)
    _show(told)
    _enter_netns(told["netns"])
    if told["ready"] is not None and told["ready"]["by"] != "notification":
        _tell_when_ready(told["ready"])  # before the next line: who has a FUSE file system's descriptor keeps it alive
    served = _mount(told, kept) if told["mount"] else None
    volume = _open(told["volume"]) if told["volume"] else None
    _join_group(told)
    history["starts"] += 1
    history["next_start"] = None
    history["started"] = {"pid": os.getpid(), "at": time.time(), "settings": told["settings"], "files": told["files"]}
    _write_history(history)
    os.chdir(told["run"])
    _drop_rights(told["uid"], told.get("gid") or told["uid"])
    _die_with(supervisor)  # changing the user clears that
    words = {
        "{files}": told["files_at"],
        "{run}": told["run"],
        "{fuse}": f"/dev/fd/{served}",
        "{volume}": f"/dev/fd/{volume}",
    }
    environment = {name: _filled(value, words) for name, value in told["environment"]}
    given = {"PATH": _PATH, "LC_ALL": "C.UTF-8", "HOME": told["run"], "TMPDIR": told["run"], **environment}
    program = [_filled(word, words) for word in told["argv"]]
    _limit(told)  # last: the launcher itself may need more
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)  # which Python ignores
    try:
        os.execvpe(program[0], program, given)
    except OSError as error:
        print(f"launch: {program[0]}: {error.strerror}", file=sys.stderr, flush=True)
        os._exit(127)


def _open(directory: str) -> int:
    """A directory that the program would not find its way to: it is there only while its volume is mounted."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    os.set_inheritable(descriptor, True)
    return descriptor


def pause(ends: list[Any], now: float) -> float:
    """Seconds to wait before another try: none for a program that has worked for a while, then one, two, four, up to a minute
    since it ended. (s6 itself waits until a second has passed since the last start.)"""
    row = 0
    for end in reversed(ends):
        if end["asked"] or end["ran"] >= _SHORT:
            break
        row += 1
    if row < 2 or ends[-1]["at"] > now:  # the clock was set back: nobody knows how long ago that was
        return 0.0
    return max(0.0, float(ends[-1]["at"] + min(_LONGEST, 2.0 ** (row - 2)) - now))


def _filled(text: str, words: dict[str, str]) -> str:
    for word, value in words.items():
        text = text.replace(word, value)
    return text


# -- what was done ---------------------------------------------------------------------------------------------------------


def _history(told: dict[str, Any]) -> dict[str, Any]:
    """So far. It begins anew with what the service is told to be; a run of which no end is written lost its supervisor."""
    fresh = {"settings": told["settings"], "files": told["files"], "starts": 0, "started": None, "next_start": None, "ends": []}
    history = _read_history()
    if history is None or history["settings"] != told["settings"]:
        return fresh
    if told["files"] not in (history["files"], _reloaded()):
        return fresh
    history["files"] = told["files"]
    if history["started"] is not None:
        _add_end(history, None, signal.SIGKILL)
    return history


def _read_history() -> dict[str, Any] | None:
    """None: there is none, or it is not what was written here."""
    try:
        history: dict[str, Any] = json.loads(Path("history.json").read_text())
        ends = [(end["at"] + end["ran"], end["asked"]) for end in history["ends"]]
        started = history["started"] is None or history["started"]["at"] + 0.0
        whole = (history["settings"], history["files"], history["starts"] + 0, started, ends)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return history if whole else None


def _reloaded() -> int | None:
    try:
        return int(Path("reloaded").read_text())
    except (FileNotFoundError, ValueError):
        return None


def _write_history(history: dict[str, Any]) -> None:
    """Whole or not at all, as `zos.files` would: what runs on nodes by itself knows nothing of the rest."""
    new = Path(".history.json.new")
    new.write_text(json.dumps(history))
    new.rename("history.json")


def _add_end(history: dict[str, Any], code: int | None, number: int) -> None:
    now, started, asked = time.time(), history["started"], Path("asked").exists()
    history["started"] = None
    if started is None and asked:
        return  # it was not the program yet that was ended
    ran = max(0.0, now - started["at"]) if started is not None else 0.0
    name = signal.Signals(number).name if number in list(signal.Signals) else f"signal {number}"
    end = {"at": now, "ran": ran, "code": code, "signal": "" if code is not None else name, "asked": asked}
    history["ends"] = [*history["ends"], end][-_ENDS:]


def _write_down_end(code: int, number: int) -> None:
    history = _read_history()
    if history is not None:
        history["next_start"] = None
        _add_end(history, code if code < 256 else None, number)  # finish of s6: 256 for a signal
        _write_history(history)


# -- nothing of it is left -------------------------------------------------------------------------------------------------


def _clear(uid: int, mount: str) -> None:
    """Ends all processes of the service's user, which nobody else has, and unmounts what they served. Raises _Failure."""
    deadline = time.monotonic() + _GONE
    while left := _processes(uid):
        _kill_all(uid)
        if time.monotonic() > deadline:
            raise _Failure(f"processes {left} of an earlier run do not end")
        for process in left:
            with contextlib.suppress(ProcessLookupError):
                fd = os.pidfd_open(process)
                select.select([fd], [], [], 1.0)
                os.close(fd)
    if mount:
        fusemount.unmount(mount)


def _ending_mount(told: dict[str, Any]) -> str:
    """What ends with a run."""
    return "" if told.get("resumes") else str(told["mount"])


def _processes(uid: int) -> list[int]:
    found = []
    for place in os.listdir("/proc"):
        if place.isdecimal():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                fields = dict(
                    line.split(":", 1) for line in Path(f"/proc/{place}/status").read_text().splitlines() if ":" in line
                )
                over = fields["State"].split()[0] in ("Z", "X") and int(fields.get("Threads", "1")) < 2
                if str(uid) in fields["Uid"].split() and not over:
                    found.append(int(place))
    return found


def _kill_all(uid: int) -> None:
    """At one stroke, so that none can fork away from it: whoever may be signalled by this user."""
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            os.kill(-1, signal.SIGKILL)
        finally:
            os._exit(0)
    os.waitpid(child, 0)


# -- its surroundings ------------------------------------------------------------------------------------------------------


def _make_room(told: dict[str, Any]) -> None:
    """Empty, so that no socket of an earlier run is in the way of this one; and bounded, as /run is everybody's memory."""
    fusemount.unmount(told["run"])
    os.makedirs(told["run"], mode=0o700, exist_ok=True)
    uid, flags = told["uid"], ctypes.c_ulong(_MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    options = f"mode=700,uid={uid},gid={uid},size={told['scratch']},nr_inodes={_INODES}"
    _check(_libc.mount(b"zos-service", told["run"].encode(), b"tmpfs", flags, options.encode()), told["run"])


def _check(result: int, what: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), what)


def _show(told: dict[str, Any]) -> None:
    """In the program's room, where it finds its way to them: files and directories of the node's. One that it may write to is
    made, and is its group's."""
    for name, source, writable in told.get("shown", ()):
        place = f"{told['run']}/{name}"
        if writable:
            os.makedirs(source, mode=0o700, exist_ok=True)
            os.chown(source, 0, told.get("gid") or told["uid"])
            os.chmod(source, 0o2770)
        if os.path.isdir(source):
            os.mkdir(place)
        else:
            os.close(os.open(place, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        _check(_libc.mount(source.encode(), place.encode(), None, ctypes.c_ulong(_MS_BIND), None), source)
        flags = _MS_REMOUNT | _MS_BIND | _MS_NOSUID | _MS_NODEV | (0 if writable else _MS_RDONLY)
        _check(_libc.mount(None, place.encode(), None, ctypes.c_ulong(flags), None), place)


def _die_with(supervisor: int) -> None:
    """So that no second one is ever started beside it."""
    _check(_libc.prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")
    if os.getppid() != supervisor:
        sys.exit("launch: the supervisor has gone")


def _enter_netns(name: str) -> None:
    if not name:
        return
    place = _NETNS / name
    if not place.exists() or place.stat().st_dev != os.stat("/proc/self/ns/net").st_dev:
        raise _Failure(f"no network namespace {name}")
    fd = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    _check(_libc.setns(fd, _CLONE_NEWNET), str(place))
    os.close(fd)


def _mount(told: dict[str, Any], kept: int | None) -> int:
    """A FUSE file system for the program to serve; ``kept``: the connection of the one that is there."""
    place, uid = told["mount"], told["uid"]
    if not told.get("resumes"):
        fd = fusemount.mounted(place, uid)
    else:
        if kept is None:
            fusemount.let_go(place)
            fusemount.unmount(place)
            kept = fusemount.mounted(place, uid)
            fusemount.keep(kept, place)
        fd = fusemount.end_of(kept)
    os.set_inheritable(fd, True)
    return fd


def _group(name: str) -> Path | None:
    """Directory of a control group of ours that can bound memory (of the kernel's version 2, or 1); None: there can be none."""
    with contextlib.suppress(OSError):
        if "memory" in (_CGROUPS / "cgroup.subtree_control").read_text().split():
            return _CGROUPS / name
    return _CGROUPS / "memory" / name if (_CGROUPS / "memory" / "memory.limit_in_bytes").exists() else None


def _join_group(told: dict[str, Any]) -> None:
    """Where that can't be, each process still has its own limit."""
    group = _group(told["group"])
    if group is None:
        return
    with contextlib.suppress(OSError):
        group.mkdir(exist_ok=True)
        whole, more = ("memory.max", "memory.swap.max") if (group / "memory.max").exists() else (
            "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"
        )  # fmt: skip
        (group / whole).write_text(str(told["memory"]))
        with contextlib.suppress(OSError):  # no swap to speak of
            (group / more).write_text("0" if more == "memory.swap.max" else str(told["memory"]))
        with contextlib.suppress(OSError):  # version 2 only
            (group / "memory.oom.group").write_text("1")
        (group / "cgroup.procs").write_text(str(os.getpid()))


def _leave_group(name: str) -> None:
    group = _group(name)
    for _ in range(50):
        try:
            if group is not None:
                group.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.02)  # the kernel counts what has just ended for a moment longer
            continue
        return


def _limit(told: dict[str, Any]) -> None:
    """Not the address space: whoever maps a large file, or reserves what it never uses, needs no memory for that."""
    for kind, limit in (
        (resource.RLIMIT_DATA, told["memory"]),
        (resource.RLIMIT_NOFILE, told["descriptors"]),
        (resource.RLIMIT_NPROC, told["processes"]),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (limit, limit))


def _drop_rights(uid: int, gid: int) -> None:
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    for capability in range(last + 1):
        _check(_libc.prctl(_CAPBSET_DROP, capability, 0, 0, 0), "prctl")
    _check(_libc.prctl(_CAP_AMBIENT, _AMBIENT_CLEAR_ALL, 0, 0, 0), "prctl")
    os.setgroups([uid] if gid != uid else [])  # its files are its own group's
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    header = struct.pack("II", _CAPABILITY_VERSION_3, 0)
    _check(_libc.capset(header, bytes(24)), "capset")  # the inheritable ones, too
    _check(_libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")


# -- whether it is ready ---------------------------------------------------------------------------------------------------


def _tell_when_ready(ready: dict[str, str]) -> None:
    """Leaves a process behind that tries until it is, or the program ends; nobody's child, so that the program has none that
    it knows nothing of."""
    program = os.pidfd_open(os.getpid())
    child = os.fork()
    if child == 0:
        try:
            if os.fork() == 0:
                os.set_inheritable(program, True)
                tries = [sys.executable, "-I", "-S", str(Path(__file__).with_name("ready.py"))]
                os.execv(sys.executable, [*tries, ready["by"], ready["at"], str(program), str(_NOTIFY)])
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(program)
    os.close(_NOTIFY)


if __name__ == "__main__":
    main(sys.argv[1:])
