"""Debian's cloud kernel with all its modules, and an initramfs that gets to the host's root file system.

``python -m kernellib.kernel DIR`` prints ``DIR/<key>``, in which ``vmlinuz``, ``initramfs`` and ``lib/modules`` are. What
exists under a key is right and is not made again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

from zos.programs import guestbuild

_INIT = Path(__file__).with_name("init")
_BUSYBOX = Path("/bin/busybox")
#: What it takes to get to the host's files; everything else is loaded from them, as on any Debian machine.
_MODULES = {"root": ("virtiofs", "overlay", "virtio_pci")}


def build(output: Path) -> Path:
    """Gives the directory. Raises guestbuild.BuildError."""
    package, version = guestbuild.offered()
    key = hashlib.sha256(_INIT.read_bytes() + repr(_MODULES).encode()).hexdigest()[:12]
    target = output / f"{version}-{key}"
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
        (made / "initramfs").write_bytes(b"".join(guestbuild.archive(files)))
        (kernel / "lib").rename(made / "lib")
        try:
            made.rename(target)
        except OSError:
            if not target.exists():  # else somebody else made the same in the meantime
                raise
    return target


def newest(cache: Path) -> Path:
    """The one that is used; several checkouts may share the cache. Raises FileNotFoundError."""
    made = sorted((cache / "kernel").glob("*/initramfs"), key=lambda path: path.stat().st_mtime)
    if not made:
        raise FileNotFoundError(f"no kernel in {cache}/kernel: hack/setup makes it")
    return made[-1].parent


if __name__ == "__main__":
    os.umask(0o022)
    try:
        print(build(Path(sys.argv[1]).absolute()))
    except guestbuild.BuildError as error:
        sys.exit(f"kernel: {error}")
