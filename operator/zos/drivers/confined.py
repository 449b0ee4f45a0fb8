"""The two ways in which programs run that read what strangers wrote. Both see the node read-only but for one directory, their
room; have process numbers of their own, so that nothing of them outlives them; and can gain no rights.

A *fetcher* talks to strangers' servers, as a user without any rights and behind the fence. An *unpacker* must be root, since
owners and capabilities have to land right, but has no network at all and only the capabilities for that.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from zos.drivers.fencerules import USER

#: Where a fetcher finds its room: it may not enter the directories above.
AT = "/tmp"
#: Memory for our own unpackers, which tells a small archive with an enormous dictionary or header.
MEMORY = 384 << 20
#: More than allowed in a file, so that one that meets this limit is seen to be too big.
_BEYOND = 1 << 20
_UNPACKING = "-all,+chown,+dac_override,+fowner,+fsetid,+mknod,+setfcap,+sys_chroot"


def fetcher(room: Path, size: int, *argv: str) -> list[str]:
    """The command line; the program finds ``room`` at `AT`. Made by ``fetchers_room``."""
    user = ["--reuid", str(USER), "--regid", str(USER), "--clear-groups"]
    return [*_apart(), *_confine("--at", AT, "--size", str(size + _BEYOND), str(room)), *_setpriv("-all"), *user, "--", *argv]


def unpacker(room: Path, size: int, *argv: str, memory: int = 0) -> list[str]:
    """The command line; the program finds ``room`` where it is. ``memory``: bytes that it is held to, 0 for no limit."""
    limits = ["--memory", str(memory)] if memory else []
    return [*_apart("--net"), *_confine(*limits, "--size", str(size + _BEYOND), str(room)), *_setpriv(_UNPACKING), "--", *argv]


def program(name: str, *argv: str) -> list[str]:
    """One of ours, for an unpacker."""
    return [sys.executable, "-P", "-m", f"zos.programs.{name}", *argv]


def fetchers_room(parent: Path) -> Path:
    """A new directory that only fetchers write to."""
    return chamber(parent / "fetch")


def chamber(room: Path) -> Path:
    """The same, by its own name."""
    room.mkdir(mode=0o700)
    os.chown(room, USER, USER)
    return room


def _apart(*more: str) -> list[str]:
    return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--ipc", *more, "--"]


def _confine(*arguments: str) -> list[str]:
    return [*program("confine"), *arguments]


def _setpriv(capabilities: str) -> list[str]:
    # Changing the user clears the signal that comes when the parent dies: it is set once more.
    dead = ["--pdeathsig", "KILL"]
    return ["setpriv", "--no-new-privs", "--inh-caps", "-all", "--bounding-set", capabilities, *dead]
