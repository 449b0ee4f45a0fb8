"""Images that bring a kernel: Debian's, with the modules that a machine gets to its root by, and one more."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from kernellib import kernel
from zos.programs.kmodules import Modules

NEEDED = ("virtio_blk", "virtio_net", "virtiofs", "overlay", "virtio_pci", "button", "evdev", "btrfs", "crc32c_intel")


def debian() -> Path:
    """A directory with ``vmlinuz`` and ``lib/modules``."""
    return kernel.made(Path(os.environ.get("ZOS_CACHE", Path.home() / ".cache" / "zos")))


def release() -> str:
    (found,) = (debian() / "lib" / "modules").iterdir()
    return found.name


def put(root: Path, *more: str, needed: Sequence[str] = NEEDED) -> Path:
    """The kernel, in an image's root, as distributions have it; gives the directory of its modules. ``more`` are modules that
    nobody needs."""
    of, place = debian() / "lib/modules" / release(), root / "lib/modules" / release()
    place.mkdir(parents=True)
    (root / "boot").mkdir(exist_ok=True)
    shutil.copy(debian() / "vmlinuz", root / "boot" / f"vmlinuz-{release()}")
    (root / "boot/vmlinuz").symlink_to(f"vmlinuz-{release()}")
    for file in of.glob("modules.*"):
        shutil.copy(file, place)
    known = Modules.read((of / "modules.dep").read_text(), (of / "modules.builtin").read_text())
    for path in known.order((*needed, *more)):
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(of / path, place / path)
    return place
