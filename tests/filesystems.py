"""File systems that a test has for itself, and what was written to one, written out."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path


def flush(*paths: Path) -> None:
    """Writes out what each path's file system holds back. (``sync(2)`` waits for everybody else on the machine as well.)"""
    for path in paths:
        subprocess.run(["sync", "-f", path], check=True)


@contextlib.contextmanager
def mounted(directory: Path, format: str, size: int, *options: str) -> Iterator[Path]:
    """A path where a file system of ``size`` bytes is, made with further ``options``.

    It lies in memory: whoever fills it does not hold up others at the machine's own disk.
    """
    below, mount = directory / "memory", directory / "small"
    for path in (below, mount):
        path.mkdir()
    image = below / "image"
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size + (1 << 20)}", "none", below], check=True)
    try:
        with open(image, "wb") as file:
            file.truncate(size)
        subprocess.run([f"mkfs.{format}", "-q", *options, image], check=True)
        subprocess.run(["mount", "-o", "loop", image, mount], check=True)
        yield mount
        subprocess.run(["umount", mount], check=True)
    finally:
        subprocess.run(["umount", "--lazy", below], check=True)
