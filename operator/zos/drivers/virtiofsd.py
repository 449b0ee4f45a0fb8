"""The process that shares an image with a guest: read-only, and watched."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

#: libvirt 9.0 and QEMU's virtiofsd know no read-only share. So the daemon gets a mount namespace of its own, in which the
#: shared directory is read-only; the mount is gone with the process. libvirt passes ``-o source=DIR,…``.
_LAUNCHER = """#!/bin/sh
for word; do
  case $word in source=*) source=${word#source=}; source=${source%%,*};; esac
done
exec unshare --mount --propagation private sh -c '
  mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec /usr/lib/qemu/virtiofsd "$@"
' "$source" "$@"
"""


def launcher(directory: Path) -> Path:
    """The program that libvirt runs instead of virtiofsd, written into ``directory``."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o755)
    path = directory / "virtiofsd"
    if not path.exists() or path.read_text() != _LAUNCHER:
        new = path.with_name(f".{path.name}.new")
        new.write_text(_LAUNCHER)
        new.chmod(0o755)
        new.rename(path)
    return path


#: Seconds until the next look for one of which it could not be told whether it runs.
_AGAIN = 5.0


class Watcher:
    """Calls ``lost(name, uuid)`` when the virtiofsd of a guest that is watched ends, or is gone already. A guest's own end ends
    it as well. ``pids`` is libvirt's directory of process ids."""

    def __init__(self, pids: Path, lost: Callable[[str, str], None]) -> None:
        self._pids = pids
        self._lost = lost
        self._wanted: frozenset[tuple[str, str]] = frozenset()
        self._watched: dict[tuple[str, str], int] = {}
        self._again: asyncio.TimerHandle | None = None

    def watch(self, guests: Mapping[str, str]) -> None:
        """From now on these guests (uuid by name)."""
        self._wanted = frozenset(guests.items())
        for key in self._watched.keys() - self._wanted:
            self._forget(key)
        self._look()

    def close(self) -> None:
        self._wanted = frozenset()
        if self._again is not None:
            self._again.cancel()
        for key in list(self._watched):
            self._forget(key)

    def _look(self) -> None:
        unsure = False
        for key in self._wanted - self._watched.keys():
            try:
                pid = process_of(self._pids, key[0])
                if pid is None:
                    self._lost(*key)
                    continue
                fd = os.pidfd_open(pid)
            except (OSError, ValueError, LookupError):  # a process or a file that is just vanishing, and so on
                unsure = True
                continue
            self._watched[key] = fd
            asyncio.get_running_loop().add_reader(fd, self._ended, key)
        if self._again is not None:
            self._again.cancel()
            self._again = None
        if unsure:
            self._again = asyncio.get_running_loop().call_later(_AGAIN, self._look)

    def _ended(self, key: tuple[str, str]) -> None:
        self._forget(key)
        self._lost(*key)

    def _forget(self, key: tuple[str, str]) -> None:
        fd = self._watched.pop(key)
        asyncio.get_running_loop().remove_reader(fd)
        os.close(fd)


def process_of(pids: Path, name: str) -> int | None:
    """The process that shares a guest's image; None: it was looked for, and is not there. Raises LookupError, OSError or
    ValueError where that can't be told.

    libvirt writes its id to ``<id>-<name>-<device>-fs.pid``. A file that is missing is no process that is: what the guest
    itself is connected to says more (proc_pid_net(5); libvirt's socket of it is ``domain-<id>-<name>/<device>-fs.sock``).
    """
    for path in pids.glob(f"*-{name}-fs0-fs.pid"):
        with contextlib.suppress(OSError, ValueError):
            pid = int(path.read_text())
            if Path(f"/proc/{pid}").exists():
                return pid
    guest = int((pids / f"{name}.pid").read_text())
    suffix = re.compile(rf"/domain-\d+-{re.escape(name[:20])}/fs0-fs\.sock$")
    connected = {
        f"socket:[{words[6]}]"
        for line in Path(f"/proc/{guest}/net/unix").read_text(errors="replace").splitlines()
        if len(words := line.split(maxsplit=7)) == 8 and suffix.search(words[7])
    }
    if not connected:
        return None
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if os.readlink(descriptor) in connected and descriptor.parts[2] != str(guest):
                return int(descriptor.parts[2])
    raise LookupError(f"nobody has the other end of {connected}")
