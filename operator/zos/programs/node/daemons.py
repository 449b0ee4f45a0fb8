"""What else the tree's first process keeps running for all guests: virtlogd, which holds their consoles, and libvirtd.

Both run from the copy of an image. A newer image takes libvirtd over at once, which leaves guests alone; virtlogd goes on as it
is until the node boots, as its end would cost consoles.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from zos.programs.node import layout
from zos.programs.node.commands import run

#: Files of /etc/libvirt.
CONFIGURATION = {
    "qemu.conf": (
        'user = "root"\ngroup = "root"\nsecurity_driver = "none"\n'
        "namespaces = []\ncgroup_controllers = []\nremember_owner = 0\n"
    ),
    "libvirtd.conf": (
        'auth_unix_ro = "none"\nauth_unix_rw = "none"\nunix_sock_ro_perms = "0700"\nunix_sock_rw_perms = "0700"\n'
    ),
    "virtlogd.conf": "max_size = 2097152\nmax_backups = 3\n",
}
_WAIT = "while [ ! -S /run/libvirt/virtlogd-sock ]; do sleep 0.05; done\n"
VIRTLOGD, LIBVIRTD = "virtlogd", "libvirtd"


def supervise(identity: str) -> None:
    """In a root of the tree: writes what is needed, and has them taken up, a libvirtd of another image at once. Raises OSError,
    CommandFailed."""
    for name, text in CONFIGURATION.items():
        _write(Path("/etc/libvirt") / name, text, 0o600)
    for name in (VIRTLOGD, LIBVIRTD):
        log = f"mkdir -p {layout.LOGS}/{name}\nexec s6-log -b -- n3 s1048576 T {layout.LOGS}/{name}\n"
        (layout.SERVICES / name / "log").mkdir(parents=True, exist_ok=True)
        _write(layout.SERVICES / name / "log/run", f"#!/bin/sh\n{log}", 0o700)
    _write(layout.SERVICES / VIRTLOGD / "run", _script(identity, VIRTLOGD), 0o700)
    script = layout.SERVICES / LIBVIRTD / "run"
    other = script.exists() and script.read_text() != _script(identity, LIBVIRTD)
    _write(script, _script(identity, LIBVIRTD), 0o700)
    run("s6-svscanctl", "-a", str(layout.SERVICES))
    if other:
        print("libvirtd is of another image: it is started anew from this one, guests go on")
        run("s6-svc", "-r", str(layout.SERVICES / LIBVIRTD))


def _script(identity: str, program: str) -> str:
    wait = _WAIT if program == LIBVIRTD else ""
    return f"#!/bin/sh\nexec 2>&1\n{wait}exec {shlex.join((*layout.enter(identity), program))}\n"


def _write(path: Path, text: str, mode: int) -> None:
    if path.exists() and path.read_text() == text:
        return
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    new.chmod(mode)
    new.replace(path)
