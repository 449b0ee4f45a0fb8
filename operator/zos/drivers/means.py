"""What looking needs itself: descriptors and memory. Where they are short nothing can be told of what was looked for."""

from __future__ import annotations

import errno
import resource
from pathlib import Path

#: A node with hundreds of networks and machines needs some hundreds. Not all there may be: some programs that are started walk
#: through every number.
_ENOUGH = 65_536
_INSTANCES = 8_192
_INOTIFY = Path("/proc/sys/fs/inotify/max_user_instances")
_SHORT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN})


def short_of_means(error: BaseException | None) -> bool:
    """Whether it was for want of them that something failed, which is no answer."""
    while error is not None:
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _SHORT):
            return True
        error = error.__cause__
    return False


def raise_descriptors() -> int:
    """Lets this process have as many descriptors as it may, at most `_ENOUGH` where it had fewer; gives how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(soft, _ENOUGH if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH))
    if soft != resource.RLIM_INFINITY and wanted != soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def raise_inotify(file: Path = _INOTIFY) -> int:
    """Lets the node have as many inotify instances as hundreds of userspace WireGuards need, one each: by itself a kernel
    allows 128, and no network beyond starts. Gives how many there may be. Raises OSError."""
    found = int(file.read_text())
    if found < _INSTANCES:
        file.write_text(f"{_INSTANCES}\n")
        return _INSTANCES
    return found
