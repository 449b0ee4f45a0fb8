"""What tests do to volumes of a node: what a disk, a kernel or a guest would."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from zos.drivers import loopmount


def fails(state: Path) -> None:
    """The kernel finds an error in the volume's file system, as it does in a broken block."""
    loop = loopmount.mounts(state / "volumes")[state / "volumes/volume-1"].loop
    assert loop is not None
    Path("/sys/fs/ext4", loop.name, "trigger_fs_error").write_text("the test's")


@contextlib.contextmanager
def namespace(propagation: str = "private") -> Iterator[subprocess.Popen[bytes]]:
    """A program that has all that is mounted now in a mount namespace of its own, as virtiofsd has what it shares."""
    command = ["unshare", "-m", "--propagation", propagation, "sh", "-c", "echo; exec sleep 1000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout is not None
            other.stdout.readline()
            yield other
        finally:
            other.kill()
