"""``launch.py [--in DIR] start|ended|end|forget …``: the first and the last step of a service's program, run in its service
directory, which is ``DIR`` or where it is started.

``start`` (the ``run`` of s6) makes sure that nothing of an earlier run is left, waits longer and longer where the program keeps
ending, and becomes the program: in its namespace, as its user, without any rights and within its limits. ``ended CODE SIGNAL``
(the ``finish`` of s6) ends what the program has left behind, and writes down how it ended. ``end UID MOUNT GROUP ROOM``
leaves nothing of it, whatever has become of its directory; ``forget MOUNT …`` takes away where it has mounted what it served.

What to do stands in ``launch.json``, what was done in ``history.json``. It needs nothing but the standard library, and what
lies beside it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

sys.path.append(str(Path(__file__).parents[2]))  # it is run by itself
from zos.programs import enclosing, fusemount, history

#: Seconds in which what was killed is gone.
_GONE = 20.0
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: Seconds until those are told an error who ask what is not served: less than ten for who has asked before the first of several
#: ends in a row.
_HOPE = 1.0
#: Where s6 hears that the service is ready, see its notification-fd.
_NOTIFY = 3

_PDEATHSIG = 1  # prctl(2)


def main(argv: list[str]) -> None:
    os.dup2(1, 2)
    os.umask(0o077)
    try:
        if argv[:1] == ["--in"]:
            os.chdir(argv[1])
            argv = argv[2:]
        match argv:
            case ["start"]:
                _start(json.loads(Path("launch.json").read_text()))
            case ["ended", code, number, *_]:
                told = json.loads(Path("launch.json").read_text())
                _clear(told["uid"], _ending_mount(told))
                history.write_down_end(int(code), int(number))
            case ["end", uid, mount, group, room]:
                _clear(int(uid), "")
                if mount:
                    fusemount.let_go(mount)
                    fusemount.unmount(mount)
                fusemount.unmount(room)
                enclosing.leave_group(group)
            case ["forget", *places]:
                for place in places:
                    fusemount.remove_place(place)
            case _:
                sys.exit(__doc__)
    except enclosing.Failure as failure:
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
    past = history.so_far(told)
    Path("asked").unlink(missing_ok=True)
    now = time.time()
    wait = history.pause(past["ends"], now)
    past["next_start"] = now + wait if wait > 0 else None
    history.write(past)  # what fails from here on is an end like others
    kept = fusemount.kept(told["mount"]) if told.get("resumes") else None
    time.sleep(min(wait, _HOPE) if kept is not None else wait)
    if kept is not None and wait > _HOPE:
        fusemount.refuse(kept, wait - _HOPE)
    enclosing.make_room(told)
    enclosing.show(told)
    enclosing.enter_netns(told["netns"])
    if told["ready"] is not None and told["ready"]["by"] != "notification":
        _tell_when_ready(told["ready"])  # before the next line: who has a FUSE file system's descriptor keeps it alive
    served = _mount(told, kept) if told["mount"] else None
    volume = _open(told["volume"]) if told["volume"] else None
    enclosing.join_group(told)
    past["starts"] += 1
    past["next_start"] = None
    past["started"] = {"pid": os.getpid(), "at": time.time(), "settings": told["settings"], "files": told["files"]}
    history.write(past)
    os.chdir(told["run"])
    enclosing.drop_rights(told["uid"], told.get("gid") or told["uid"])
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
    enclosing.limit(told)  # last: the launcher itself may need more
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


def _filled(text: str, words: dict[str, str]) -> str:
    for word, value in words.items():
        text = text.replace(word, value)
    return text


def _die_with(supervisor: int) -> None:
    """So that no second one is ever started beside it."""
    enclosing.check(enclosing.libc.prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")
    if os.getppid() != supervisor:
        sys.exit("launch: the supervisor has gone")


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


# -- nothing of it is left -------------------------------------------------------------------------------------------------


def _clear(uid: int, mount: str) -> None:
    """Ends all processes of the service's user, which nobody else has, and unmounts what they served. Raises Failure."""
    deadline = time.monotonic() + _GONE
    while left := _processes(uid):
        _kill_all(uid)
        if time.monotonic() > deadline:
            raise enclosing.Failure(f"processes {left} of an earlier run do not end")
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
