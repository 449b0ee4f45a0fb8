"""The processes that share directories of the node with a guest: its image, and what else it is given. All are watched."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from zos.files import Durability, write
from zos.plan.items import GuestShare

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

#: A guest's root is root in what is shared with it: the daemon does as that asks, and this virtiofsd can't give it other users'
#: ids. So what it leaves there counts for nothing on the node, as far as the daemon is concerned: no devices and capabilities
#: (``modcaps``, no xattrs), and neither program nor device through the daemon's own mount. Who has the directory on the node
#: must mount it ``nosuid,nodev,noexec`` or let nobody in (ADR 0018).
_SHARE = """#!/bin/sh
for word; do
  case $word in source=*) source=${word#source=}; source=${source%%,*};; esac
done
exec unshare --mount --propagation PROPAGATION sh -ec '
  source=$0 found=
  LOOK
  mount --BIND "$source" "$source"
  mount -o remount,bind,nosuid,nodev,noexec,ACCESS "$source"
  exec /usr/lib/qemu/virtiofsd "$@" -o modcaps=-mknod:-setfcap
' "$source" "$@"
"""
#: That something is mounted must be so where the daemon is, which may have other mounts than the agent. Who is behind it is not
#: asked: libvirt waits for an answer.
_LOOK = """\
place=$(cd -P "AROUND"; pwd)/NAME
  while read -r _ _ _ _ at _; do
    if [ "$at" = "$place" ]; then found=yes; fi
  done </proc/self/mountinfo
  [ "$found" ] || { echo "$place: nothing is mounted there" >&2; exit 1; }"""
#: What is mounted below a directory that is shared is not shared with it.
_WHOLE = {"PROPAGATION": "private", "BIND": "bind"}
#: What is mounted inside is, and so is what will be mounted there next; it must be alone there. The directory itself is
#: read-only: nothing is written below a mount that is gone.
_INSIDE = {
    "PROPAGATION": "slave",
    "BIND": "rbind",
    "ACCESS": "ro",
    "LOOK": _LOOK.replace("AROUND", "$source").replace("NAME", '$(ls -A "$source")'),
}
_AROUND = "virtiofsd-around"


def launcher(directory: Path) -> Path:
    """The program that libvirt runs instead of virtiofsd for images, written into ``directory`` with those for shares."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o755)
    path = directory / "virtiofsd"
    _write(path, _LAUNCHER)
    _write(path.with_name(_AROUND), _filled(_INSIDE))
    for access in ("ro", "rw"):
        for look in ("", _LOOK.replace("AROUND", "${source%/*}").replace("NAME", "${source##*/}")):
            _write(path.with_name(_whole(access, bool(look))), _filled({**_WHOLE, "ACCESS": access, "LOOK": look}))
    return path


def launcher_of(share: GuestShare, images: Path) -> Path:
    """The one for a share, beside that for images."""
    return images.with_name(_AROUND if share.inside else _whole("ro" if share.read_only else "rw", share.mounted))


def _whole(access: str, mounted: bool) -> str:
    return f"virtiofsd-{'mount' if mounted else 'directory'}-{access}"


def _filled(words: Mapping[str, str]) -> str:
    text = _SHARE
    for name, word in words.items():
        text = text.replace(name, word)
    return text


def _write(path: Path, text: str) -> None:
    if not path.exists() or path.read_text() != text:
        write(path, text, Durability.VOLATILE, 0o755)  # looked at again at every start


#: Seconds until the next look for one of which it could not be told whether it runs.
_AGAIN = 5.0


@dataclass(frozen=True)
class Watched:
    """A guest with as many virtiofsds as it has shares, its image among them."""

    name: str
    uuid: str
    shares: int = 1


class Watcher:
    """Calls ``lost(name, uuid)`` when a virtiofsd of a guest that is watched ends, or is gone already. A guest's own end ends
    them as well. ``pids`` is libvirt's directory of process ids."""

    def __init__(self, pids: Path, lost: Callable[[str, str], None]) -> None:
        self._pids = pids
        self._lost = lost
        self._wanted: frozenset[_Daemon] = frozenset()
        self._watched: dict[_Daemon, int] = {}
        self._again: asyncio.TimerHandle | None = None

    def watch(self, guests: Iterable[Watched]) -> None:
        """From now on these guests."""
        self._wanted = frozenset(
            _Daemon(guest.name, guest.uuid, f"fs{number}") for guest in guests for number in range(guest.shares)
        )
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
                pid = process_of(self._pids, key.guest, key.device)
                if pid is None:
                    self._lost(key.guest, key.uuid)
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

    def _ended(self, key: _Daemon) -> None:
        self._forget(key)
        self._lost(key.guest, key.uuid)

    def _forget(self, key: _Daemon) -> None:
        fd = self._watched.pop(key)
        asyncio.get_running_loop().remove_reader(fd)
        os.close(fd)


class _Daemon(NamedTuple):
    guest: str
    uuid: str
    device: str


def process_of(pids: Path, name: str, device: str = "fs0") -> int | None:
    """The process behind a device of a guest (the first is that of its image); None: it was looked for, and is not there.
    Raises LookupError, OSError or ValueError where that can't be told.

    libvirt writes its id to ``<id>-<name>-<device>-fs.pid``. A file that is missing is no process that is: what the guest
    itself is connected to says more (proc_pid_net(5); libvirt's socket of it is ``domain-<id>-<name>/<device>-fs.sock``).
    """
    for path in pids.glob(f"*-{name}-{device}-fs.pid"):
        with contextlib.suppress(OSError, ValueError):
            pid = int(path.read_text())
            if Path(f"/proc/{pid}").exists():
                return pid
    guest = int((pids / f"{name}.pid").read_text())
    suffix = re.compile(rf"/domain-\d+-{re.escape(name[:20])}/{device}-fs\.sock$")
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
