"""The process that shares an image with a guest: read-only, and watched."""

from __future__ import annotations

import asyncio
import os
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


class Watcher:
    """Calls ``lost(name, uuid)`` when the virtiofsd of a guest that is watched ends, or is gone already. A guest's own end ends
    it as well. ``pids`` is libvirt's directory of process ids."""

    def __init__(self, pids: Path, lost: Callable[[str, str], None]) -> None:
        self._pids = pids
        self._lost = lost
        self._watched: dict[tuple[str, str], int] = {}

    def watch(self, guests: Mapping[str, str]) -> None:
        """From now on these guests (uuid by name)."""
        wanted = set(guests.items())
        for key in self._watched.keys() - wanted:
            self._forget(key)
        missing = wanted - self._watched.keys()
        for name, uuid in missing:
            try:
                # Written by libvirt: <id>-<name>-<device>-fs.pid. It goes together with a guest that is just ending.
                pid = next((int(path.read_text()) for path in self._pids.glob(f"*-{name}-fs0-fs.pid")), None)
                fd = os.pidfd_open(pid) if pid is not None else -1
            except (OSError, ValueError):  # no such process or file, or one that is just vanishing
                fd = -1
            if fd < 0:
                self._lost(name, uuid)
                continue
            self._watched[name, uuid] = fd
            asyncio.get_running_loop().add_reader(fd, self._ended, (name, uuid))

    def close(self) -> None:
        for key in list(self._watched):
            self._forget(key)

    def _ended(self, key: tuple[str, str]) -> None:
        self._forget(key)
        self._lost(*key)

    def _forget(self, key: tuple[str, str]) -> None:
        fd = self._watched.pop(key)
        asyncio.get_running_loop().remove_reader(fd)
        os.close(fd)
