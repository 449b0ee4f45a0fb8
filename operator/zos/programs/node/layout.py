"""Where things are on a node: seen by its pods, by the host, and in the node's tree.

The tree is a mount namespace of its own. Its root is a small file system in memory:

    /roots/ID         one version of the node's programs: the files of an image, copied to the node's disk. Whoever runs in the
                      tree runs in one of these (chroot), and sees the rest of this list at the places that it knows
    /state            the state directory (in a root: /var/lib/zos)
    /run, /tmp        in memory; the host's own are not seen
    /run/host/etc     the host's /etc, for its name servers and names
    /proc, /sys, /dev the host's
    /bin/busybox      static: the way from one root into another
"""

from __future__ import annotations

import re
from pathlib import Path

#: Of the node, on the host and in a pod alike.
STATE = Path("/var/lib/zos")
#: The copies of images, by their ids, and what libvirt keeps.
RUNTIME = STATE / "runtime"
LIBVIRT = RUNTIME / "libvirt"
#: One pod at a time changes what is there.
LOCK = RUNTIME / "lock"
#: Number and start of the tree's first process.
FIRST = RUNTIME / "first"
LOGS = STATE / "log"

#: On the host: what keeps the tree's namespace, whoever runs in it.
PIN = Path("/run/zos/tree/mnt")

#: In an image: what it is.
IMAGE = Path("/usr/share/zos/image")
GUEST = Path("/usr/share/zos/guest")

#: In the runtime's pod: it has brought up, or taken over, what it is for.
UP = Path("/run/zos-up")

#: In the tree.
ROOTS = Path("/roots")
BUSYBOX = Path("/bin/busybox")
SERVICES = Path("/run/service")
#: What the first process complains of, and supervisors: a file system of its own, as it may be much.
FIRST_LOG = Path("/run/zos/first/log")
LIBVIRT_SOCKET = Path("/run/libvirt/libvirt-sock")
#: In a root, for each of its own directories of libvirt: where that is below `LIBVIRT`.
OF_LIBVIRT = {"/etc/libvirt": "etc", "/var/lib/libvirt": "lib", "/var/cache/libvirt": "cache", "/var/log/libvirt": "log"}

#: An id becomes part of paths and command lines.
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")


def image_id(file: Path = IMAGE) -> str:
    """What the image is that this program is of. Raises OSError where it is of none, ValueError."""
    found = file.read_text().strip()
    if not _ID.fullmatch(found):
        raise ValueError(f"{file}: {found[:100]!r} is no id of an image")
    return found


def copy_of(identity: str) -> Path:
    """The files of an image on the node's disk."""
    return RUNTIME / identity / "root"


def enter(identity: str) -> tuple[str, ...]:
    """Goes before the command line of a program that is to run in another root of the tree: setns(2) into the own namespace
    leads out of the present root."""
    return ("nsenter", "--mount=/proc/self/ns/mnt", str(BUSYBOX), "chroot", str(ROOTS / identity))
