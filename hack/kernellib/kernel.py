"""Debian's cloud kernel with all its modules, and an initramfs that gets to the host's root file system.

``python -m kernellib.kernel DIR`` prints ``DIR/<key>``, in which ``vmlinuz``, ``initramfs`` and ``lib/modules`` are. What
exists under a key is right and is not made again. With ``--made`` after it nothing is made.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

from zos.programs import guestbuild
from zos.programs.initramfs import archive

_INIT = Path(__file__).with_name("init")
_BUSYBOX = Path("/bin/busybox")
#: What it takes to get to the host's files; everything else is loaded from them, as on any Debian machine.
_MODULES = {"root": ("virtiofs", "overlay", "virtio_pci")}


def build(output: Path) -> Path:
    """Gives the directory. Raises guestbuild.BuildError."""
    package, version = guestbuild.offered()
    target = output / f"{version}-{_digest()}"
    if target.exists():
        return target
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=output) as work:
        room = Path(work)
        kernel = guestbuild.unpacked(guestbuild.download(package, version, room), room / "kernel")
        made = room / "made"
        made.mkdir()
        shutil.copy(next((kernel / "boot").glob("vmlinuz-*")), made / "vmlinuz")
        files = {"init": _INIT.read_bytes(), "bin/busybox": _BUSYBOX.read_bytes(), **guestbuild.modules(kernel, _MODULES)}
        (made / "initramfs").write_bytes(b"".join(archive(files)))
        (kernel / "lib").rename(made / "lib")
        try:
            made.rename(target)
        except OSError:
            if not target.exists():  # else somebody else made the same in the meantime
                raise
    return target


def made(cache: Path) -> Path:
    """The one that is used; several checkouts may share the cache. Raises FileNotFoundError."""
    found = guestbuild.newest(cache / "kernel", _digest())
    if found is None:
        raise FileNotFoundError(f"no kernel in {cache}/kernel: hack/setup makes it")
    return found


def _digest() -> str:
    return hashlib.sha256(_INIT.read_bytes() + repr(_MODULES).encode()).hexdigest()[:12]


if __name__ == "__main__":
    os.umask(0o022)
    output = Path(sys.argv[1]).absolute()
    if sys.argv[2:] == ["--made"]:
        there = guestbuild.newest(output, _digest())
        sys.exit(print(there) if there is not None else 1)
    try:
        print(build(output))
    except guestbuild.BuildError as error:
        sys.exit(f"kernel: {error}")
